"""Recognising a source of cases: an nnU-Net folder, the published layout, a table, or a folder of cases."""

import os
import warnings
from pathlib import Path

from pydantic import BaseModel

from backend.data.cases import (
    Failure,
    Listing,
    SourceCase,
    bad_source,
    image_files,
    is_image,
    modality_of,
    parse_json,
    set_aside,
    stem_of,
)
from backend.data.nnunet import read_nnunet
from backend.data.tables import SUFFIXES, read_table
from backend.errors import SamMed3DError, SamMed3DWarning


def read_source(path: Path) -> Listing:
    """List the cases of a source, whatever its kind.

    - nnU-Net: a folder with dataset.json, imagesTr and labelsTr, or a folder of those;
    - published layout: category/dataset with imagesTr and labelsTr, one binary mask a category; the path may
      be the root, a category or a dataset;
    - a table (CSV or JSON lines), see `backend.data.tables.Row`;
    - a folder of cases: CASE/image.nii.gz, CASE/label.nii.gz and, if there is one, CASE/meta.json.

    No image is opened. The modality is what the source declares, never what a path looks like.

    Raises:
        SamMed3DError: DATA_SOURCE, if it is none of these, or is one that cannot be understood as a whole.
    """
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return _nameable(read_table(_full(path)))
    if not path.is_dir():
        raise bad_source(f"There is no source {path}.", "Name a folder, or a table that ends in .csv or .jsonl.")
    datasets = sorted({images.parent for levels in ("", "*/", "*/*/") for images in path.glob(f"{levels}imagesTr")})
    listings = [_dataset(_full(folder)) for folder in datasets]
    if path not in datasets:  # datasets and cases may lie side by side
        listings.append(_case_folders(_full(path), beside=bool(datasets)))
    cases = tuple(case for listing in listings for case in listing.cases)
    failures = tuple(failure for listing in listings for failure in listing.failures)
    if not cases and not failures:
        raise bad_source(
            f"{path} holds no cases.",
            "It must have dataset.json, imagesTr and labelsTr (nnU-Net), category/dataset/imagesTr and labelsTr, "
            "or CASE/image.nii.gz and CASE/label.nii.gz.",
        )
    return _nameable(Listing(cases, failures))


def _full(path: Path) -> Path:
    """The path from the root, whatever folder a worker is in; links stay: the names of folders say what they hold."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # resolve() follows links


def _nameable(listing: Listing) -> Listing:
    """Set cases aside whose names no report could hold: those of old archives are at times not in UTF-8."""
    cases: list[SourceCase] = []
    failures = list(listing.failures)
    for case in listing.cases:
        try:
            "".join((case.name, case.subject, case.dataset, str(case.image), str(case.label))).encode()
            cases.append(case)
        except UnicodeEncodeError:
            names = (case.dataset, case.name, str(case.label))
            dataset, name, label = (text.encode(errors="backslashreplace").decode() for text in names)
            error = bad_source(f"The name {label} is not in UTF-8.", "Rename the file, or the folder it is in.")
            failures.append(set_aside(dataset, name, label, error))
    return Listing(tuple(cases), tuple(failures))


def read_cases(path: Path) -> list[SourceCase]:
    """The cases of a source, for evaluation.

    Raises:
        SamMed3DError: as `read_source`.

    Warns:
        SamMed3DWarning: for each that had to be set aside.
    """
    listing = read_source(path)
    for failure in listing.failures:
        warnings.warn(f"{failure.case} is set aside: {failure.error}", SamMed3DWarning, stacklevel=2)
    return list(listing.cases)


def _dataset(folder: Path) -> Listing:
    if (folder / "dataset.json").is_file():
        return read_nnunet(folder)
    return _published(folder)


def _published(folder: Path) -> Listing:
    """The cases of category/dataset (published training code's layout): what is not 0 shows the category.

    The same image lies in the folder of each of its categories: its cases share the name. The folder's name
    may tell the modality ("ct_AMOS"), but a name declares nothing.
    """
    images, labels = image_files(folder / "imagesTr"), image_files(folder / "labelsTr")
    return Listing(
        tuple(
            SourceCase(
                name=stem,
                subject=f"{folder.name}/{stem}",
                dataset=folder.name,
                modality="other",
                image=images.get(stem, folder / "imagesTr" / f"{stem}.nii.gz"),
                label=labels.get(stem, folder / "labelsTr" / f"{stem}.nii.gz"),
                names={},
                regions={folder.parent.name: ()},
            )
            for stem in sorted(set(images) | set(labels))
        )
    )


class LabelInfo(BaseModel):
    """What meta.json may say of a label beside its name is of no concern."""

    name: str


class CaseMeta(BaseModel):
    """What is used of a case's meta.json.

    Attributes:
        modality: in any words that `modality_of` knows.
        labels: name of each label value.
        subject: who it is of.
        dataset: where it comes from.
    """

    modality: str = ""
    labels: dict[int, str | LabelInfo] | None = None
    subject: str | None = None
    dataset: str | None = None

    def names(self) -> dict[int, str] | None:
        """Target of each label value, if it says so."""
        if self.labels is None:
            return None
        return {value: info if isinstance(info, str) else info.name for value, info in self.labels.items()}


def _case_folders(path: Path, *, beside: bool) -> Listing:
    """The cases of a folder; beside datasets a folder that cannot be read is no concern (a drive's own, say)."""
    cases: list[SourceCase] = []
    failures: list[Failure] = []
    # A hidden one is what a killed run has left half written.
    for folder in sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith(".")):
        try:
            files = {stem_of(file.name): file for file in sorted(folder.iterdir()) if is_image(file)}
            if files.keys() & {"image", "label"}:  # else it is no case
                cases.append(_case(folder, files))
        except OSError as error:
            if beside:
                continue
            unreadable = bad_source(f"{folder} could not be read: {error.strerror}.", "Check its permissions.")
            failures.append(set_aside(path.name, folder.name, "", unreadable))
        except SamMed3DError as error:
            failures.append(set_aside(path.name, folder.name, files.get("label", ""), error))
    return Listing(tuple(cases), tuple(failures))


def _case(folder: Path, files: dict[str, Path]) -> SourceCase:
    meta_file = folder / "meta.json"
    meta = parse_json(meta_file, CaseMeta) if meta_file.exists() else CaseMeta()
    dataset = meta.dataset or folder.parent.name
    return SourceCase(
        name=folder.name,
        subject=meta.subject or f"{dataset}/{folder.name}",
        dataset=dataset,
        modality=modality_of(meta.modality),
        image=files.get("image", folder / "image.nii.gz"),
        label=files.get("label", folder / "label.nii.gz"),
        names=meta.names(),
    )
