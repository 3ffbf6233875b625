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

"""Finding labels of reports from any labeller: a function that reads a text, or a table that another program wrote."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from monai_u2.data.records import without_image_suffix
from monai_u2.exceptions import InputError
from monai_u2.metrics.cases import listed_ids

Labeller = Callable[[str], Iterable[str]]
_VALUES = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


def label_reports(reports: Sequence[str], labeller: Labeller, labels: Sequence[str]) -> np.ndarray:
    """Which of the labels each report names.

    Args:
        reports: texts; each different one is read once.
        labeller: from a text to the labels that it states, such as :func:`monai_u2.data.phantom.parse_findings`.
        labels: all labels, in the order of the columns.

    Returns:
        boolean `(cases, findings)`.

    Raises:
        InputError: when the labeller gives a label that isn't among them.
    """
    columns = {label: column for column, label in enumerate(labels)}
    matrix = np.zeros((len(reports), len(labels)), dtype=bool)
    read: dict[str, list[str]] = {}
    for row, report in enumerate(reports):
        if report not in read:
            read[report] = list(labeller(report))
        for label in read[report]:
            if label not in columns:
                raise InputError(
                    f"the labeller gives {label!r}; expected one of the {len(labels)} labels given. Add it."
                )
            matrix[row, columns[label]] = True
    return matrix


def read_label_table(
    path: str | Path, ids: Sequence[str], *, id_column: str | None = None, labels: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Labels of cases from a CSV file with a column a label, 0 or 1, such as those of CT-RATE.

    Names of cases match with and without the suffix of an image: the case `valid_1_a_1` is `valid_1_a_1.nii.gz` in
    CT-RATE's tables.

    Args:
        path: the file, UTF-8.
        ids: the cases, in the order of the rows to return; further cases of the file are left aside.
        id_column: the column of the cases' ids; the first one without.
        labels: the columns to read; all others without.

    Returns:
        boolean `(cases, findings)` and the labels.

    Raises:
        InputError: for a missing or empty file, a missing column, an id that is missing or there twice, also with
            and without a suffix, or a value other than 0 and 1.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: does not exist or is no file; expected a CSV file of labels.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        key = id_column or (names[0] if names else "")
        if labels is None:
            labels = [name for name in names if name != key]
        if missing := [name for name in (key, *labels) if name not in names]:
            raise InputError(f"{path}: has no column {missing}; its columns are {names}.")
        cases, written, rows = _names_of(ids), {}, {}
        wanted = set(cases)
        for row in reader:
            name, where = without_image_suffix(row[key] or ""), f"{path}, line {reader.line_num}"
            if name in rows:
                also = "" if written[name] == row[key] else f", also as {written[name]!r}"
                raise InputError(f"{where}: {key} {row[key]!r} is there twice{also}; keep one of them.")
            if name in wanted:
                written[name] = row[key]
                rows[name] = [_value(row[label], f"{where}, {label}") for label in labels]
    if lost := [case for case, name in zip(ids, cases) if name not in rows]:
        raise InputError(f"{path}: has no labels of these cases: {listed_ids(lost)}. Add them.")
    return np.array([rows[name] for name in cases], dtype=bool).reshape(len(ids), len(labels)), list(labels)


def _names_of(ids: Sequence[str]) -> list[str]:
    """The ids without the suffixes of images."""
    names = [without_image_suffix(case) for case in ids]
    counts = Counter(without_image_suffix(case) for case in set(ids))
    if alike := [case for case, name in zip(ids, names) if counts[name] > 1]:
        raise InputError(
            f"ids that differ in the suffix of an image alone: {listed_ids(alike)}. Labels in a table can't be told "
            "apart for them; rename the cases."
        )
    return names


def _value(text: str | None, where: str) -> bool:
    value = _VALUES.get((text or "").strip().lower())
    if value is None:
        raise InputError(f"{where}: is {text!r}; expected 0 or 1.")
    return value
