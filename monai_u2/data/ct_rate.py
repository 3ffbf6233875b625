# Copyright (c) monai_u2 contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""CT-RATE (https://arxiv.org/abs/2403.17834): chest CT with reports and labels, from the folder as downloaded.

Volumes are in ``dataset/{train,valid}[_fixed]``. Those of ``_fixed`` (v2) have HU and a right header. Those of v1 have
stored values, and a header with wrong voxel size and directions: slope, intercept, voxel size and directions come from
the metadata's table then, and go into the record, which says so to the loading transforms.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_u2.data.cases import (
    IMAGE_WITHOUT_REPORT,
    NO_IMAGE,
    REPORT_QUESTION,
    DatasetCase,
    DroppedCase,
    Note,
    is_missing,
)
from monai_u2.data.mixture import CT_RATE_LABELS, presence_questions
from monai_u2.data.records import is_image_orientation
from monai_u2.data.tables import find_path, list_files, read_table
from monai_u2.exceptions import InputError

VERSIONS = ("auto", "fixed", "v1")
_NAME = re.compile(r"(?P<split>train|valid|validation)_(?P<patient>\d+)_(?P<scan>[a-z]+)_(?P<reconstruction>\d+)")
_HEADER_COLUMNS = ("RescaleSlope", "RescaleIntercept", "XYSpacing", "ZSpacing")
_ORIENTATION = "ImageOrientationPatient"
_AXIAL = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
# the tables say train and validation, the volumes train and valid, and mirrors of the data set mix them
_SPELLINGS = {"train": ("train",), "validation": ("validation", "valid")}


def read_cases(
    source: str | Path,
    *,
    version: str = "auto",
    impression: bool = True,
    labels: bool = True,
    all_reconstructions: bool = False,
    keep_no_chest: bool = False,
    presence: bool = False,
    question: str = REPORT_QUESTION,
) -> Iterator[DatasetCase | DroppedCase | Note]:
    """Read CT-RATE.

    Args:
        source: the downloaded folder, or the folder ``dataset`` in it.
        version: "fixed" or "v1" volumes; "auto" takes the fixed ones where there are some.
        impression: whether the answer has the impression after the findings.
        labels: whether `findings` are taken from the 18 label columns.
        all_reconstructions: take every reconstruction of a scan, not only the first that can be used.
        keep_no_chest: take the volumes on the lists ``no_chest_*.txt``, too.
        presence: whether the labels become yes-or-no questions beside the report.
        question: asks for the report.

    Raises:
        InputError: for an unknown version, missing files and columns, and values that can't be.
    """
    root = Path(source)
    root = root / "dataset" if (root / "dataset").is_dir() else root
    if version not in VERSIONS:
        raise InputError(f"version is {version!r}; expected one of {', '.join(VERSIONS)}")
    if presence and not labels:
        raise InputError("presence is True, but labels is False: the questions are made of the labels; set it to True")
    if version == "auto":
        version = "fixed" if any((root / f"{split}_fixed").is_dir() for split in ("train", "valid")) else "v1"
        yield Note(f"version: {version}")
    if not any(_images(root, split, version).is_dir() for split in _SPELLINGS):
        wanted = " or ".join(_images(root, split, version).name for split in _SPELLINGS)
        raise InputError(f"{root}: has no volumes of version {version}; expected the folder {wanted}. Check the path.")
    for name in ("validation", "train"):
        images = _images(root, name, version)
        if not images.is_dir():
            yield Note(f"there are no volumes of the split {name}")
            continue
        split = _Split(name, _table(root, "radiology_text_reports", name, "reports"), list_files(images, ".nii.gz"))
        if version == "v1":
            split.header, note = _read_header(_table(root, "metadata", name, "metadata"), name)
            if note:
                yield Note(note)
        if labels:
            split.findings = _read_labels(_table(root, "multi_abnormality_labels", name, "predicted_labels"), name)
        if not keep_no_chest:
            split.no_chest = _read_no_chest(root, name)
        yield from _read_split(split, impression, all_reconstructions, presence, question)


@dataclass
class _Split:
    """What is known of a split's volumes beside its reports.

    Attributes:
        name: "train" or "validation".
        reports: the table of reports.
        files: name -> path of the volumes that are there.
        header: name -> what takes the place of the header, or why it can't; None where headers are right.
        findings: name -> labels; None where they aren't asked for.
        no_chest: names of volumes that aren't of the chest.
    """

    name: str
    reports: Path
    files: dict[str, str]
    header: dict[str, dict[str, Any] | str] | None = None
    findings: dict[str, list[str]] | None = None
    no_chest: set[str] = field(default_factory=set)

    def drawback(self, name: str, row: Mapping[str, str]) -> str | None:
        """Return why no record can be made of a volume with a report; None where one can."""
        if name in self.no_chest:
            return "on the list of volumes that aren't of the chest"
        if name not in self.files:
            return NO_IMAGE
        if is_missing(row["Findings_EN"]):
            return "no findings in the report"
        if self.findings is not None and name not in self.findings:
            return "no row in the table of labels"
        header = {} if self.header is None else self.header.get(name, "no row in the metadata")
        return header if isinstance(header, str) else None


def _read_split(
    split: _Split, impression: bool, all_reconstructions: bool, presence: bool, question: str
) -> Iterator[DatasetCase | DroppedCase]:
    scans: set[str] = set()
    told: set[str] = set()
    for row in read_table(split.reports, ("VolumeName", "Findings_EN", "Impressions_EN")):
        name, patient, scan = _volume(row["VolumeName"], split.name, split.reports)
        reason = "given twice" if name in told else split.drawback(name, row)
        told.add(name)
        if reason is None and scan in scans and not all_reconstructions:
            reason = "another reconstruction of a scan"
        if reason is not None:
            yield DroppedCase(split.name, name, patient, reason)
            continue
        scans.add(scan)
        asked = [{"question": question, "answer": _report(row, impression), "kind": "report"}]
        shared = {} if split.header is None else dict(split.header[name])
        if split.findings is not None:
            shared["findings"] = split.findings[name]
            asked += presence_questions(CT_RATE_LABELS, split.findings[name]) if presence else []
        image = {"image": split.files[name]}
        yield DatasetCase(split.name, name, patient, [image | record | shared for record in asked])
    for name in split.files:
        if name not in told:
            match = _NAME.fullmatch(name.removesuffix(".nii.gz"))
            patient = f"{match['split']}_{match['patient']}" if match else name
            yield DroppedCase(split.name, name, patient, IMAGE_WITHOUT_REPORT)


def _images(root: Path, split: str, version: str) -> Path:
    return root / (("train" if split == "train" else "valid") + ("_fixed" if version == "fixed" else ""))


def _table(root: Path, folder: str, split: str, what: str) -> Path:
    return find_path(root, [f"{folder}/{name}_{what}.csv" for name in _SPELLINGS[split]], f"table of {what} ({split})")


def _volume(text: str, split: str, where: Path) -> tuple[str, str, str]:
    """Return a volume's file name, its patient and its scan."""
    match = _NAME.fullmatch(text.removesuffix(".gz").removesuffix(".nii"))
    if match is None:
        raise InputError(f"{where}: a volume is called {text!r}; expected a name such as train_1_a_1.nii.gz")
    found = "train" if match["split"] == "train" else "validation"
    if found != split:
        raise InputError(
            f"{where}: names {text!r}, a volume of the split {found}; expected those of {split}. The file may be "
            "that of the other split under a wrong name: download it again."
        )
    patient = f"{'train' if split == 'train' else 'valid'}_{match['patient']}"
    scan = f"{patient}_{match['scan']}"
    return f"{scan}_{match['reconstruction']}.nii.gz", patient, scan


def _report(row: Mapping[str, str], impression: bool) -> str:
    lines = ["FINDINGS:", row["Findings_EN"]]
    if impression and not is_missing(row["Impressions_EN"]):
        lines += ["IMPRESSION:", row["Impressions_EN"]]
    return "\n".join(lines)


def _read_labels(path: Path, split: str) -> dict[str, list[str]]:
    findings: dict[str, list[str]] = {}
    same: dict[tuple[str, ...], list[str]] = {}  # one list for the many volumes of the same labels
    for row in read_table(path, ("VolumeName", *CT_RATE_LABELS)):
        name = _volume(row["VolumeName"], split, path)[0]
        for label in CT_RATE_LABELS:
            if row[label] not in ("0", "1", "0.0", "1.0"):
                raise InputError(f"{path}: {name} has {row[label]!r} as {label!r}; expected 0 or 1. Correct the row.")
        labels = tuple(label for label in CT_RATE_LABELS if row[label].startswith("1"))
        present = same.setdefault(labels, list(labels))
        if findings.setdefault(name, present) != present:
            raise InputError(f"{path}: has two rows for {name} with different labels; expected one. Correct the file.")
    return findings


def _read_no_chest(root: Path, split: str) -> set[str]:
    names = ("train",) if split == "train" else ("valid", "validation")
    path = find_path(root, [f"metadata/no_chest_{name}.txt" for name in names], "list of volumes without a chest")
    lines = path.read_text(encoding="utf-8-sig").split()
    return {_volume(line.rsplit("/", 1)[-1], split, path)[0] for line in lines}


def _read_header(path: Path, split: str) -> tuple[dict[str, dict[str, Any] | str], str | None]:
    """Return for each volume of v1 what its header should have said, or why it can't be used; and a note."""
    header: dict[str, dict[str, Any] | str] = {}
    note = (
        f"{path.name} has no column {_ORIENTATION}: the volumes of v1 were taken as axial, from right to left and from "
        "front to back"
    )
    for row in read_table(path, ("VolumeName", *_HEADER_COLUMNS), optional=(_ORIENTATION,)):
        name = _volume(row["VolumeName"], split, path)[0]
        if _ORIENTATION in row:
            note = None
        value = _header(row)
        if header.setdefault(name, value) != value:
            raise InputError(f"{path}: has two rows for {name} that differ; expected one. Correct the file.")
    return header, note if header else None


def _header(row: Mapping[str, str]) -> dict[str, Any] | str:
    plane, depth = _numbers(row["XYSpacing"], 2), _numbers(row["ZSpacing"], 1)
    rescale = _numbers(row["RescaleSlope"], 1), _numbers(row["RescaleIntercept"], 1)
    orientation = _numbers(row[_ORIENTATION], 6) if _ORIENTATION in row else _AXIAL
    if plane is None or min(plane) <= 0:
        return "no voxel size in plane in the metadata"
    if depth is None or depth[0] <= 0:
        return "no slice spacing (ZSpacing) in the metadata"
    if rescale[0] is None or rescale[1] is None or rescale[0][0] == 0:
        return "no rescale slope and intercept in the metadata"
    if not is_image_orientation(orientation):
        return "no orientation in the metadata"
    return {
        "spacing": [*plane, depth[0]],
        "image_orientation": orientation,
        "rescale_slope": rescale[0][0],
        "rescale_intercept": rescale[1][0],
    }


def _numbers(text: str, count: int) -> list[float] | None:
    """Return the numbers of a cell, "0.75" or "[0.75, 0.75]"; None where they aren't so many finite ones."""
    try:
        value = json.loads(text.replace("'", "") if text.startswith("[") else f"[{text}]")
    except json.JSONDecodeError:
        return None
    numbers = [float(number) for number in value if isinstance(number, (int, float))]
    return numbers if len(numbers) == len(value) == count and all(map(math.isfinite, numbers)) else None
