import pytest

from backend.data.index import Modality
from backend.data.stages import in_table, stages_of
from backend.data.taxonomy import (
    _LESION,
    _RULES,
    STRUCTURES,
    SYMMETRIC,
    is_seen,
    is_sided,
    plain_name,
    structure_of,
    words_of,
)

# Supplement, table 2, and names as TotalSegmentator, AMOS, FreeSurfer and others write them.
TABLE_2 = {
    "abdomen&thorax": "aorta, bladder, carotid artery, colon, duodenum, esophagus, eyeball, gallbladder, "
    "inferior vena cava, kidney, liver, lung, pancreas, portal vein and splenic vein, prostate and uterus, "
    "pulmonary artery, small bowel, spleen, stomach, trachea, urinary bladder, adrenal gland",
    "bone": "clavícula, femur, hip, humerus, rib L1, rib R12, sacrum, scapula, vertebrae C1, vertebrae T12",
    "brain": "brain, brainstem",
    "cardiac": "heart atrium, heart myocardium, heart ventricle",
    "muscle": "autochthon, gluteus muscle, iliopsoas",
    "lesion": "edema, enhancing tumor, kidney tumor",
    "unseen organ": "parotid gland, submandibular gland, pituitary gland, lacrimal gland, aorta tree, cerebellum, "
    "deep gray matter, gray matter, white matter, external cerebrospinal fluid",
    "unseen lesion": "hepatic tumor, breast tumor",
}
OTHER_NAMES = {
    "abdomen&thorax": "kidney_right, Left Kidney, lung_upper_lobe_left, postcava, prostate/uterus, gall_bladder, "
    "portal_vein_and_splenic_vein, airway, HepaticVessel, adrenal_gland_left, eye_l, iliac_artery_left",
    "bone": "rib_left_4, vertebrae_L1, clavicula_right, hip_left, costal_cartilages, sternum, femur_left, Skull",
    "brain": "Left-Hippocampus, hippocampus_anterior, Brain-Stem, corpus_callosum, lat_ventricle_L, 3rd_ventricle, "
    "amygdala_R, fetal_brain, Left-Lateral-Ventricle, ventralDC_L",
    "cardiac": "heart_atrium_left, heart_ventricle_right, heart, left ventricle, heart_myocardium",
    "muscle": "gluteus_maximus_left, iliopsoas_right, autochthon_left",
    "lesion": "GTV_mass_(soft_tissue_sarcoma), MS_white_matter_lesion, tumour, lung cancer, liver cyst, "
    "WM_hypointensities, peritumoral edema, metastases, lung nodules",
    "unseen organ": "WM_L, Left-Cerebellum-Cortex, cortex_R, thalamus_L, CSF, parotid_l, Grey Matter",
    "other": "label_7, spinal_cord, postulate",
}


@pytest.mark.parametrize("names", [TABLE_2, OTHER_NAMES])
def test_names_go_to_their_structures(names: dict[str, str]) -> None:
    modality: Modality = "CT" if names is OTHER_NAMES else "MR"
    found = {name: structure_of(name, modality) for text in names.values() for name in text.split(", ")}
    assert found == {name: structure for structure, text in names.items() for name in text.split(", ")}


def test_a_tumour_of_the_liver_is_known_in_ct_only() -> None:
    assert structure_of("liver tumor", "CT") == "lesion"
    assert structure_of("liver tumor", "MR") == "unseen lesion"
    assert structure_of("breast tumour", "CT") == "unseen lesion"


def test_seen_and_unseen() -> None:
    assert is_seen("liver", "CT", "mine")
    assert not is_seen("liver", "US", "mine")
    assert not is_seen("cerebellum", "MR", "FeTA21")
    assert is_seen("brainstem", "CT", "HaN-Seg")
    assert not is_seen("hepatic tumor", "MR", "ATLAS")
    assert is_seen("prostate zone 7", "MR", "MSD_Prostate")
    assert not is_seen("label_7", "MR", "mine")
    assert len(STRUCTURES) == 9


def test_sides_and_plurals() -> None:
    assert is_sided("kidney_left")
    assert is_sided("WM_R")
    assert not is_sided("vertebrae_L1")
    assert not is_sided("portal vein")
    assert plain_name("Right Kidneys") == "kidney"
    assert plain_name("AdrenalGlands") == "adrenal gland"
    assert all(not is_sided(name) and plain_name(name) == name for name in SYMMETRIC)
    for phrase in (*_LESION, *(phrase for _, phrases in _RULES for phrase in phrases)):
        assert words_of(phrase) == phrase.split()
    for plural, singular in (("lesions", "lesion"), ("polyps", "polyp"), ("carcinomas", "carcinoma"), ("hips", "hip")):
        assert words_of(plural) == [singular]
    assert structure_of("white matter lesions", "MR") == "lesion"
    assert structure_of("iliac veins", "CT") == structure_of("iliac vein", "CT")


@pytest.mark.parametrize(
    ("dataset", "stages"),
    [
        ("AMOS22", (True, True)),
        ("ct_AMOS", (True, True)),
        ("AMOS2022_mr", (True, True)),
        ("TotalSegmentator_dataset", (True, True)),
        ("Task03_Liver", (True, True)),
        ("Task04_Hippocampus", (True, False)),
        ("Dataset027_LUNA16", (True, False)),
        ("CT-ORG", (True, True)),
        ("ct_CT_ORG", (True, True)),
        ("brats2018", (True, False)),
        ("hvsmr_2016", (True, False)),
        ("Task003_Liver", (True, True)),  # not the Decathlon's, hence unknown
    ],
)
def test_stages_of_datasets(dataset: str, stages: tuple[bool, bool]) -> None:
    assert stages_of(dataset) == stages
    assert in_table(dataset) == (dataset != "Task003_Liver")


def test_unknown_datasets_take_part_in_both_stages() -> None:
    for dataset in ("mine", "BraTS", "MSD", "AMOSS22"):
        assert stages_of(dataset) == (True, True)
        assert not in_table(dataset)


def test_stages_are_those_of_the_supplement(shared) -> None:
    text = next((shared / "seeds").glob("002*.txt")).read_text()
    rows = text[text.index("dataset\tpre-train") : text.index("24 Private")].splitlines()[1:]
    cells = [(row.split("\t") + [""] * 6)[start : start + 3] for row in rows if row.strip() for start in (0, 3)]
    table = {
        name.strip(): (bool(pretrain.strip()), bool(finetune.strip())) for name, pretrain, finetune in cells if name
    }
    assert len(table) == 58
    assert {name: tuple(stages_of(name)) for name in table} == table
    assert all(map(in_table, table))
