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
from pathlib import Path
from typing import Any

from monai_u2.data.cases import (
    IMAGE_WITHOUT_REPORT,
    NO_IMAGE,
    REPORT_QUESTION,
    DatasetCase,
    DroppedCase,
    Note,
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
    splits = [split for split in ("validation", "train") if _images(root, split, version).is_dir()]
    if not splits:
        wanted = " or ".join(_images(root, split, version).name for split in ("train", "validation"))
        raise InputError(
            f"{root}: has no volumes of version {version}; expected the folder {wanted}. Check the folder."
        )
    options = {"impression": impression, "all_reconstructions": all_reconstructions, "question": question}
    for split in ("validation", "train"):
        if split not in splits:
            yield Note(f"there are no volumes of the split {split}")
            continue
        header = {}
        if version == "v1":
            header, note = _read_header(_table(root, "metadata", split, "metadata"))
            if note:
                yield Note(note)
        findings = _read_labels(_table(root, "multi_abnormality_labels", split, "predicted_labels")) if labels else None
        left_out = set() if keep_no_chest else _read_no_chest(root, split)
        files = list_files(_images(root, split, version), ".nii.gz")
        yield from _read_split(
            root, split, files, header if version == "v1" else None, findings, left_out, presence, options
        )


def _read_split(
    root: Path,
    split: str,
    files: dict[str, str],
    header: Mapping[str, Any] | None,
    findings: Mapping[str, list[str]] | None,
    left_out: set[str],
    presence: bool,
    options: Mapping[str, Any],
) -> Iterator[DatasetCase | DroppedCase]:
    reports = _table(root, "radiology_text_reports", split, "reports")
    scans: set[str] = set()
    for row in read_table(reports, ("VolumeName", "Findings_EN", "Impressions_EN")):
        name, patient, scan = _volume(row["VolumeName"], split, reports)
        path = files.get(name)
        files[name] = ""  # told apart from volumes that no report names
        reason = None
        if path == "":
            reason = "given twice"
        elif name in left_out:
            reason = "on the list of volumes that aren't of the chest"
        elif scan in scans and not options["all_reconstructions"]:
            reason = "another reconstruction of a scan"
        elif path is None:
            reason = NO_IMAGE
        elif _is_missing(row["Findings_EN"]):
            reason = "no findings in the report"
        elif findings is not None and name not in findings:
            reason = "no row in the table of labels"
        elif header is not None:
            reason = header.get(name, "no row in the metadata")
        if isinstance(reason, str):
            yield DroppedCase(split, name, patient, reason)
            continue
        scans.add(scan)
        record: dict[str, Any] = {
            "image": path,
            "question": options["question"],
            "answer": _report(row, options["impression"]),
            "kind": "report",
        }
        shared = {} if header is None else dict(header[name])
        shared |= {} if findings is None else {"findings": findings[name]}
        records = [record | shared]
        if presence:
            records += [
                {"image": path, **asked, **shared} for asked in presence_questions(CT_RATE_LABELS, findings[name])
            ]
        yield DatasetCase(split, name, patient, records)
    for name, path in files.items():
        if path:
            yield DroppedCase(split, name, _volume(name, split, Path(path))[1], IMAGE_WITHOUT_REPORT)


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


def _is_missing(text: str) -> bool:
    return text.rstrip(".").casefold() in ("", "not given", "nan")


def _report(row: Mapping[str, str], impression: bool) -> str:
    text = f"FINDINGS:\n{row['Findings_EN']}"
    return (
        text
        if not impression or _is_missing(row["Impressions_EN"])
        else f"{text}\nIMPRESSION:\n{row['Impressions_EN']}"
    )


def _read_labels(path: Path) -> dict[str, list[str]]:
    split = "train" if path.name.startswith("train") else "validation"
    findings: dict[str, list[str]] = {}
    shared: dict[tuple[str, ...], list[str]] = {}
    for row in read_table(path, ("VolumeName", *CT_RATE_LABELS)):
        name = _volume(row["VolumeName"], split, path)[0]
        for label in CT_RATE_LABELS:
            if row[label] not in ("0", "1", "0.0", "1.0"):
                raise InputError(f"{path}: {name} has {row[label]!r} as {label!r}; expected 0 or 1. Correct the row.")
        present = tuple(label for label in CT_RATE_LABELS if row[label].startswith("1"))
        present_list = shared.setdefault(present, list(present))
        if findings.setdefault(name, present_list) != present_list:
            raise InputError(f"{path}: has two rows for {name} with different labels; expected one. Correct the file.")
    return findings


def _read_no_chest(root: Path, split: str) -> set[str]:
    names = ("train",) if split == "train" else ("valid", "validation")
    path = find_path(root, [f"metadata/no_chest_{name}.txt" for name in names], "list of volumes without a chest")
    lines = path.read_text(encoding="utf-8-sig").split()
    return {_volume(line.rsplit("/", 1)[-1], split, path)[0] for line in lines}


def _read_header(path: Path) -> tuple[dict[str, dict[str, Any] | str], str | None]:
    """Return for each volume of v1 what its header should have said, or why it can't be used; and a note."""
    split = "train" if path.name.startswith("train") else "validation"
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
