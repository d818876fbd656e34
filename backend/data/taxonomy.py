"""Anatomical structures of targets (supplement of the SAM-Med3D paper, table 2), by their names.

Names are compared as words, without case, separators, side and plural: `Left-Hippocampus`, `hippocampus_l` and
`hippocampi (left)` are one. Targets that the table does not name go where what they are part of, or are kin to,
goes; what is left is "other".
"""

import re
import unicodedata
from typing import Literal, get_args

from backend.data.index import Modality
from backend.data.stages import in_table

Structure = Literal[
    "abdomen&thorax", "bone", "brain", "cardiac", "muscle", "lesion", "unseen organ", "unseen lesion", "other"
]
STRUCTURES: tuple[Structure, ...] = get_args(Structure)

_SIDES = {"left", "right", "l", "r", "lh", "rh", "lt", "rt"}
_PLURALS = {
    "vertebrae": "vertebra", "atria": "atrium", "hippocampi": "hippocampus", "thalami": "thalamus",
    "humeri": "humerus", "metastases": "metastasis", "bronchi": "bronchus", "clavicles": "clavicula",
    "clavicle": "clavicula", "oesophagus": "esophagus", "grey": "gray", "tumour": "tumor", "tumours": "tumor",
    "wm": "white matter", "gm": "gray matter", "csf": "cerebrospinal fluid", "ivc": "inferior vena cava",
    "brainstem": "brain stem", "gallbladder": "gall bladder", "gtv": "tumor",
    "ventricles": "brain ventricle",  # of the brain (FeTA, MRBrains); those of the heart are named one by one
}  # fmt: skip

_SINGULARS = {
    "accumbens", "lens", "pons", "dens", "mons", "deferens", "vas", "pancreas", "psoas", "iliopsoas", "atlas", "biceps",
    "triceps", "quadriceps", "forceps", "ascendens", "descendens", "prominens",
}  # fmt: skip

_LESION = (
    "tumor", "lesion", "edema", "cancer", "carcinoma", "sarcoma", "metastasis", "cyst", "nodule", "polyp", "stroke",
    "infarct", "hemorrhage", "haemorrhage", "hematoma", "necrosis", "necrotic", "infection", "pneumonia", "abscess",
    "aneurysm", "thrombus", "fracture", "glioma", "schwannoma", "enhancing", "hypointensity", "hyperintensity", "covid",
)  # fmt: skip
# Words of a target in the order in which they are looked for: the first that is there decides.
_RULES: tuple[tuple[Structure, tuple[str, ...]], ...] = (
    ("muscle", ("autochthon", "gluteus", "iliopsoas", "muscle", "psoas", "quadriceps", "erector")),
    (
        "unseen organ",
        (
            "parotid", "submandibular", "pituitary", "lacrimal", "aorta tree", "aortic tree", "aortic vessel tree",
            "cerebellum", "cerebellar", "deep gray matter", "gray matter", "white matter", "cerebrospinal fluid",
            "cortex", "cortical gray", "thalamus", "caudate", "putamen", "pallidum", "accumbens",
        ),
    ),
    (
        "brain",
        (
            "brain", "hippocampus", "amygdala", "corpus callosum", "lateral ventricle", "lat ventricle", "lat vent",
            "inf lat", "3rd ventricle", "third ventricle", "4th ventricle", "fourth ventricle", "5th ventricle",
            "ventral dc", "ventral diencephalon", "choroid plexus", "optic chiasm", "optic nerve", "cochlea", "pons",
            "medulla oblongata", "midbrain", "cerebrum", "cerebral", "intracranial",
        ),
    ),
    (
        "cardiac",
        ("heart", "atrium", "atrial", "myocardium", "ventricle", "cardiac", "pericardium", "lv", "rv", "la", "ra"),
    ),
    (
        "bone",
        (
            "bone", "clavicula", "femur", "hip", "humerus", "rib", "sacrum", "scapula", "vertebra", "sternum", "skull",
            "mandible", "pelvis", "spine", "tibia", "fibula", "radius", "ulna", "patella", "costal cartilage", "coccyx",
        ),
    ),
    (
        "abdomen&thorax",
        (
            "aorta", "bladder", "carotid", "colon", "duodenum", "esophagus", "eye", "eyeball", "inferior vena cava",
            "kidney", "liver", "lung", "pancreas", "portal vein", "prostate", "uterus", "pulmonary", "bowel", "spleen",
            "stomach", "trachea", "adrenal", "postcava", "vena cava", "hepatic", "renal", "airway", "bronchus",
            "rectum", "thyroid", "iliac artery", "iliac vena", "iliac vein", "subclavian", "brachiocephalic",
            "intestine", "larynx", "vessel", "artery", "vein", "seminal vesicle",
        ),
    ),
)  # fmt: skip

# Pairs, of which a target that names no side is split in two.
SYMMETRIC = (
    "kidney", "lung", "adrenal gland", "eyeball", "eye", "lens", "optic nerve", "cochlea", "parotid gland",
    "submandibular gland", "lacrimal gland", "carotid artery", "breast", "femur", "femoral head", "hip", "humerus",
    "clavicula", "scapula", "rib", "tibia", "fibula", "autochthon", "gluteus maximus", "gluteus medius",
    "gluteus minimus", "gluteus muscle", "iliopsoas", "hippocampus", "amygdala", "thalamus", "caudate", "putamen",
    "pallidum", "accumbens", "ovary", "testis", "iliac artery", "iliac vein",
)  # fmt: skip


def words_of(target: str) -> list[str]:
    """A target's name as lower-case words without accents, plurals as singulars."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", target) if not unicodedata.combining(one))
    words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain).lower())
    return " ".join(_singular(word) for word in words if word).split()


def _singular(word: str) -> str:
    if word in _PLURALS:
        return _PLURALS[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("s") and word not in _SINGULARS and not word.endswith(("ss", "us", "is", "os")):
        return word[:-1]
    return word


def is_sided(target: str) -> bool:
    """Whether the name says which side it is of."""
    return bool(_SIDES & set(words_of(target)))


def plain_name(target: str) -> str:
    """The name without its side, as words with spaces."""
    return " ".join(word for word in words_of(target) if word not in _SIDES)


def structure_of(target: str, modality: Modality) -> Structure:
    """The anatomical structure of a target.

    The unseen lesions of the table are those of its evaluation: tumours of the liver in MR (ATLAS) and of the
    breast. Tumours of the liver in CT are in the training set (LITS, MSD_Liver), hence lesions.
    """
    name = f" {plain_name(target)} "
    if any(f" {word} " in name for word in _LESION):
        hepatic = " liver " in name or " hepatic " in name
        unseen = " breast " in name or (hepatic and modality != "CT")
        return "unseen lesion" if unseen else "lesion"
    return next(
        (structure for structure, phrases in _RULES if any(f" {phrase} " in name for phrase in phrases)), "other"
    )


def is_seen(target: str, modality: Modality, dataset: str) -> bool:
    """Whether the published training set has such targets: what a table of seen and unseen ones goes by.

    Nothing in ultrasound is (paper: all of it is held out). Else all of a dataset of table 1 is; of other
    datasets what is of a structure that the table names as seen.
    """
    if modality == "US":
        return False
    return in_table(dataset) or structure_of(target, modality) not in {"unseen organ", "unseen lesion", "other"}
