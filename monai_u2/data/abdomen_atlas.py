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

"""AbdomenAtlas 3.0 Mini (https://arxiv.org/abs/2501.04678): abdominal CT with reports, from the folder as downloaded.

It is put together from public data sets, so that cases of it may be in other corpora under other names: give their
identifiers as ``exclude_from_training`` of :func:`monai_u2.data.prepare_dataset`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from monai_u2.data.cases import (
    IMAGE_WITHOUT_REPORT,
    NO_IMAGE,
    NO_REPORT,
    REPORT_QUESTION,
    SPLITS,
    DatasetCase,
    DroppedCase,
    Note,
    is_missing,
)
from monai_u2.data.tables import find_path, read_table
from monai_u2.exceptions import InputError

TABLE = "AbdomenAtlas3.0MiniWithMeta.csv"
REPORTS = ("narrative", "structured", "fusion_narrative", "fusion_structured")
SPLIT_FILES = ("IID", "OOD")
_ID = "BDMAP ID"


def read_cases(
    source: str | Path,
    *,
    report: str = "narrative",
    split: str = "IID",
    validation_share: float = 0.05,
    question: str = REPORT_QUESTION,
) -> Iterator[DatasetCase | DroppedCase | Note]:
    """Read AbdomenAtlas 3.0 Mini. Its test cases are the test split; a share of its training cases is the validation.

    Args:
        source: the downloaded folder.
        report: kind of report, one of :data:`REPORTS`; the fused ones are often missing.
        split: "IID" or "OOD", the test cases that the data set's authors chose.
        validation_share: share of the training cases that are held out, chosen by their identifiers.
        question: asks for the report.

    Raises:
        InputError: for unknown options, missing files and columns, and cases in both split files.
    """
    root = Path(source)
    if report not in REPORTS:
        raise InputError(f"report is {report!r}; expected one of {', '.join(REPORTS)}")
    if split not in SPLIT_FILES:
        raise InputError(f"split is {split!r}; expected one of {', '.join(SPLIT_FILES)}")
    number = isinstance(validation_share, (int, float)) and not isinstance(validation_share, bool)
    if not number or not 0 <= validation_share < 1:
        raise InputError(f"validation_share is {validation_share!r}; expected 0 or more and less than 1")
    column = f"{report.replace('_', ' ')} report"
    split_of: dict[str, str] = {}
    both: list[str] = []
    for part in ("test", "train"):
        name = f"TrainTestIDS/{split}_{part}.csv"
        for row in read_table(find_path(root, [name], "split file"), (_ID,)):
            target = "validation" if part == "train" and _share(row[_ID]) < validation_share else part
            if split_of.setdefault(row[_ID], target) != target:
                both.append(row[_ID])
    images = find_path(root, ["image_only"], "folder of the images")
    present = {folder.name for folder in images.iterdir() if folder.is_dir()}
    yield from (DroppedCase("train", name, name, "in the split files of training and test") for name in both)
    # three passes over one table, so that no report is held: what is held out comes first
    for wanted in SPLITS:
        seen: set[str] = set()
        for row in read_table(find_path(root, [TABLE], "table of reports"), (_ID, column)):
            name = row[_ID]
            if split_of.get(name, "train") != wanted:
                continue
            image = images / name / "ct.nii.gz"
            reason = None
            if name in seen:
                reason = "given twice"
            elif name not in split_of:
                reason = "in no split file"
            elif name not in present or not image.is_file():
                reason = NO_IMAGE
            elif is_missing(row[column]):
                reason = NO_REPORT
            seen.add(name)
            present.discard(name)
            if reason is not None:
                yield DroppedCase(wanted, name, name, reason)
                continue
            record = {"image": str(image.absolute()), "question": question, "answer": row[column], "kind": "report"}
            yield DatasetCase(wanted, name, name, [record])
    for name in sorted(present):
        yield DroppedCase(split_of.get(name, "train"), name, name, IMAGE_WITHOUT_REPORT)


def _share(name: str) -> float:
    """Return a number in [0, 1) that follows from the name alone."""
    return int(hashlib.sha256(f"validation {name}".encode()).hexdigest()[:12], 16) / 16**12
