"""Cases of a table: CSV with a header, or a JSON object a line."""

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, field_validator

from backend.data.cases import Failure, Listing, SourceCase, bad_source, modality_of, set_aside, stem_of
from backend.data.index import first_problem
from backend.errors import SamMed3DError

SUFFIXES = (".csv", ".jsonl")
_REQUIRED = ("image", "label", "modality", "dataset")


class Row(BaseModel):
    """A row of a table; further columns are of no concern, empty fields of a CSV file are absent.

    Attributes:
        image: file or DICOM folder, absolute or from the table's folder.
        label: file of labels, likewise.
        modality: in any words that `modality_of` knows.
        dataset: name of where it comes from.
        subject: who it is of; the same person may be in several datasets. By default each image is one,
            with all its frames.
        target: what all labels but 0 show together.
        labels: name of each label value, as JSON in a CSV file. Without it and `target` each value is a target.
        frame: which volume of a 4-D image.
    """

    image: str
    label: str
    modality: str
    dataset: str
    subject: str | None = None
    target: str | None = None
    labels: dict[int, str] | None = None
    frame: int | None = None

    @field_validator("labels", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except RecursionError as error:
            raise ValueError("brackets in brackets without end") from error

    def case(self, folder: Path) -> SourceCase:
        """The case, with paths taken from `folder`."""
        stem = stem_of(posixpath.normpath(self.image))  # the same on every system
        name = stem + ("" if self.frame is None else f"_{self.frame}")
        return SourceCase(
            name=name,
            subject=self.subject or f"{self.dataset}/{stem}",
            dataset=self.dataset,
            modality=modality_of(self.modality),
            image=folder / self.image,
            label=folder / self.label,
            names=self.labels if self.labels is not None or self.target is None else {},
            regions={self.target: ()} if self.target is not None else {},
            frame=self.frame,
        )


def read_table(path: Path) -> Listing:
    """The cases of a table; a row that is wrong is set aside.

    Raises:
        SamMed3DError: DATA_SOURCE, for a table that cannot be read or lacks a column or any row.
    """
    cases: list[SourceCase] = []
    failures: list[Failure] = []
    for line, fields in _rows(path):
        try:
            cases.append(Row.model_validate(fields).case(path.parent))
        except ValidationError as error:
            problem = bad_source(f"Line {line} of {path} is wrong: {first_problem(error)}.", "Mend it.")
            failures.append(set_aside(path.name, f"line {line}", "", problem))
        except SamMed3DError as error:
            failures.append(set_aside(path.name, f"line {line}", "", error))
    if not cases and not failures:
        raise bad_source(f"{path} has no rows.", "Give it a row for each image and file of labels.")
    return Listing(tuple(cases), tuple(failures))


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Each row with the number of its line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets begin their CSV files with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise bad_source(f"{path} could not be read: {error}.", "Save the table as UTF-8 text.") from error
    return _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(text)


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
        if missing:
            raise bad_source(f"{path} has no column {missing[0]}.", f"Its first line must name {', '.join(_REQUIRED)}.")
        for fields in reader:
            yield reader.line_num, {key: value for key, value in fields.items() if key and value}
    except csv.Error as error:
        raise bad_source(f"Line {reader.line_num} of {path} is not CSV: {error}.", "Save the table again.") from error


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() breaks lines within a text, too
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, line  # which is no row, and is refused as such
