"""Which datasets train which stage (supplement of the SAM-Med3D paper, table 1)."""

import re
from typing import NamedTuple


class Stages(NamedTuple):
    """Membership of a dataset in the two training stages."""

    pretrain: bool
    finetune: bool


_BOTH = (
    "AbdomenCT-1K", "AMOS22", "ATM22", "BrainPTM", "BraTS20", "BraTS21", "BTCV_Cervix", "CAUSE07", "CHAOS", "COSMOS22",
    "COVID19CTscans", "CT_ORG", "CTPelvic1k", "FLARE21", "FLARE22", "HeartSegMRI", "ISLESSISS", "ISLESSPES", "KIPA22",
    "KiTS19", "KiTS21", "LAScarQS22", "LITS", "MMWHS", "MSD_BrainTumour", "MSD_Colon", "MSD_HepaticVessel",
    "MSD_Liver", "MSD_Lung", "MSD_Pancreas", "MSD_Spleen", "Parse22", "Promise09", "Promise12", "ProstateMRISeg",
    "SegThor", "SLIVER07", "STACOM_SLAWT", "Totalsegmentator", "VerSe19", "VerSe20", "VESSEL12", "WORD",
)  # fmt: skip
_PRETRAIN_ONLY = (
    "ASC18", "BraTS13", "BraTS15", "BraTS18", "BraTS19", "CrossMoDA21", "CrossMoDA22", "hvsmr16", "LUNA16",
    "MSD_Heart", "MSD_Hippocampus", "MSD_Prostate", "PICAI", "RibFrac2020", "StructSeg19",
)  # fmt: skip

# Other names of the same data: those of their publishers and of the published code's folders.
_ALIASES = {
    "amos": "amos22",
    "ribfrac": "ribfrac20",
    "totalseg": "totalsegmentator",
    "totalsegmentatordataset": "totalsegmentator",
}


def _normalised(name: str) -> str:
    """Lower-case letters and digits, without the marks that folders add: nnU-Net's number, a modality, the century."""
    # Of the Decathlon's folders (Task03_Liver), not of nnU-Net's with three digits.
    name = re.sub(r"^Task\d{2}_", "MSD_", name)
    name = re.sub(r"^(Task|Dataset)\d{3}_", "", name)
    name = re.sub(r"^(ct|mr|mri|pet|us)[_-](?!org)|[_-](ct|mr|mri|pet|us)$", "", name.lower())  # but CT_ORG is a name
    name = re.sub(r"20(?=\d\d$)", "", re.sub(r"[^a-z0-9]", "", name))
    return _ALIASES.get(name, name)


_TABLE = {
    **{_normalised(name): Stages(True, True) for name in _BOTH},
    **{_normalised(name): Stages(True, False) for name in _PRETRAIN_ONLY},
}


def in_table(dataset: str) -> bool:
    """Whether the dataset is a public one of the published training set."""
    return _normalised(dataset) in _TABLE


def stages_of(dataset: str) -> Stages:
    """The stages of a dataset, whose name may differ in case, separators, century and folder prefixes.

    The table's 24 private datasets have no names. A dataset that is not in the table is the user's own and
    takes part in both stages.
    """
    return _TABLE.get(_normalised(dataset), Stages(True, True))
