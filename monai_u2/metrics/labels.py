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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

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

    Args:
        path: the file, UTF-8.
        ids: the cases, in the order of the rows to return; further cases of the file are left aside.
        id_column: the column of the cases' ids; the first one without.
        labels: the columns to read; all others without.

    Returns:
        boolean `(cases, findings)` and the labels.

    Raises:
        InputError: for a missing or empty file, a missing column, an id that is missing or there twice, or a value
            other than 0 and 1.
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
        wanted, rows = set(ids), {}
        for row in reader:
            if row[key] in rows:
                raise InputError(
                    f"{path}, line {reader.line_num}: {key} {row[key]!r} is there twice; keep one of them."
                )
            if row[key] in wanted:
                where = f"{path}, line {reader.line_num}"
                rows[row[key]] = [_value(row[label], f"{where}, {label}") for label in labels]
    if lost := [case for case in ids if case not in rows]:
        raise InputError(f"{path}: has no labels of these cases: {listed_ids(lost)}. Add them.")
    return np.array([rows[case] for case in ids], dtype=bool).reshape(len(ids), len(labels)), list(labels)


def _value(text: str | None, where: str) -> bool:
    value = _VALUES.get((text or "").strip().lower())
    if value is None:
        raise InputError(f"{where}: is {text!r}; expected 0 or 1.")
    return value
