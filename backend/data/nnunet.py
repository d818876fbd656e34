"""Cases of an nnU-Net folder: dataset.json, imagesTr, labelsTr; its first format (the Decathlon's) and its second.

The test folders (imagesTs, labelsTs) are never read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, model_validator

from backend.data.cases import Listing, SourceCase, bad_source, image_files, modality_of, parse_json

_CHANNEL = re.compile(r"(.+)_(\d{4})")


class DatasetJson(BaseModel):
    """What is used of dataset.json; the rest of it is of no concern.

    Attributes:
        channel_names: name of each channel, by its number (second format).
        modality: the same in the first format.
        labels: name by value (first format), or value or values by name (second).
    """

    channel_names: dict[int, str] = {}
    modality: dict[int, str] = {}
    labels: dict[str, int | list[int] | str]

    @model_validator(mode="after")
    def _one_format(self) -> Self:
        kinds = {isinstance(value, str) for value in self.labels.values()}
        if len(kinds) != 1:
            raise ValueError("labels must map all numbers to names or all names to numbers, and not be empty")
        if kinds == {True} and not all(key.strip().isdecimal() for key in self.labels):
            raise ValueError("labels that map to names must be numbers from 0")
        return self

    @property
    def channels(self) -> dict[int, str]:
        """Name of each channel."""
        return self.channel_names or self.modality or {0: ""}

    def names(self) -> dict[int, str]:
        """Target of each single value; 0 is the background, and "ignore" (second format) is no target."""
        out = {}
        for key, value in self.labels.items():
            if isinstance(value, str):
                out[int(key)] = value
            elif isinstance(value, int) and key != "ignore":
                out[value] = key
        return {value: name for value, name in out.items() if value != 0}

    def regions(self) -> dict[str, tuple[int, ...]]:
        """Targets that are several values together (second format)."""
        return {name: tuple(value) for name, value in self.labels.items() if isinstance(value, list) and value}


def read_nnunet(folder: Path) -> Listing:
    """The cases of an nnU-Net folder; each channel is an image of its own.

    A case that lacks its image or its labels is listed with the file that it should have, so that it is
    set aside when it is opened.

    Raises:
        SamMed3DError: DATA_SOURCE, for a dataset.json that is not one.
    """
    content = parse_json(folder / "dataset.json", DatasetJson)
    labels = image_files(folder / "labelsTr")
    images = image_files(folder / "imagesTr")
    several = len(content.channels) > 1
    cases = sorted(set(labels) | {_case_of(stem, labels, several=several) for stem in images})
    if not cases:
        raise bad_source(f"{folder} has no images in imagesTr and labelsTr.", "Name the folder of one dataset.")
    return Listing(tuple(image for case in cases for image in _channels(folder, case, content, images, labels)))


def _case_of(stem: str, labels: Mapping[str, Path], *, several: bool) -> str:
    """The case that an image file shows: its name may end with the number of a channel, or merely look so."""
    match = _CHANNEL.fullmatch(stem)
    if match is None or stem in labels:
        return stem
    return match[1] if several or match[1] in labels or match[2] == "0000" else stem


def _channels(
    folder: Path, case: str, content: DatasetJson, images: dict[str, Path], labels: dict[str, Path]
) -> list[SourceCase]:
    """The images of one case: a file a channel (_0000), a frame a channel, or the one there is."""
    label = labels.get(case, folder / "labelsTr" / f"{case}.nii.gz")
    several = len(content.channels) > 1
    out = []
    for channel, name in sorted(content.channels.items()):
        default = folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
        out.append(
            SourceCase(
                name=f"{case}_{channel:04d}" if several else case,
                subject=f"{folder.name}/{case}",
                dataset=folder.name,
                modality=modality_of(name),
                image=images.get(case) or images.get(f"{case}_{channel:04d}", default),
                label=label,
                names=content.names(),
                regions=content.regions(),
                frame=channel if several and case in images else None,
            )
        )
    return out
