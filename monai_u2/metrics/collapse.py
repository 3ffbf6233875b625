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

"""Signs of a model that writes templates: how many different reports, how often the same, how long, how ill normal
cases are made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_u2.exceptions import InputError
from monai_u2.metrics.findings import finding_pair
from monai_u2.metrics.report_metric import ReportMetric

LENGTH_QUANTILES: tuple[float, ...] = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Collapse:
    """What the reports of a run have in common; texts that differ in white space only are the same.

    Args:
        cases: number of reports.
        distinct: share of different reports among them.
        most_frequent: share of cases with the most frequent report.
        empty: number of empty reports.
        words_mean: mean length in words.
        words_std: its standard deviation over cases.
        words_quantiles: lengths at :data:`LENGTH_QUANTILES`.
    """

    cases: int
    distinct: float
    most_frequent: float
    empty: int
    words_mean: float
    words_std: float
    words_quantiles: tuple[float, ...]


def collapse_diagnostics(reports: Sequence[str]) -> Collapse:
    """Share of distinct reports and of the most frequent one, and the distribution of lengths.

    The same of the references tells what is to be expected: normal cases share their words.

    Raises:
        InputError: when there is no report.
    """
    if not reports:
        raise InputError("there are no reports; expected 1 or more.")
    return _summary(_identities(reports))


def findings_per_normal_case(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean number of findings named where there is none; NaN without a normal case.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.

    Raises:
        ValueError: when the shapes differ.
    """
    predicted, reference = finding_pair(predicted, reference)
    normal = ~reference.any(axis=1)
    return float(predicted[normal].sum() / normal.sum()) if normal.any() else float("nan")


class CollapseMetric(ReportMetric):
    """:func:`collapse_diagnostics` as a MONAI metric: `metric(y_pred=reports)`; hashes of the reports are gathered."""

    def _rows(self, reports: list[str], references: list[str] | None) -> np.ndarray:
        return _identities(reports)

    def aggregate(self) -> dict[str, float]:
        """Shares, number of empty reports and mean length since the last reset."""
        summary = _summary(self.gathered())
        names = ("distinct", "most_frequent", "empty", "words_mean", "words_std")
        return {f"{name}_reports" if name in names[:3] else name: float(getattr(summary, name)) for name in names}


def _identities(reports: Sequence[str]) -> np.ndarray:
    """128 bits of a hash of each report as two integers, and its number of words; `(cases, 3)`."""
    rows = []
    for report in reports:
        words = report.split()
        digest = hashlib.blake2b(" ".join(words).encode(), digest_size=16).digest()
        rows.append([*np.frombuffer(digest, dtype="<i8"), len(words)])
    return np.array(rows, dtype=np.int64)


def _summary(rows: np.ndarray) -> Collapse:
    _, counts = np.unique(rows[:, :2], axis=0, return_counts=True)
    words = np.sort(rows[:, 2])  # so that the order of cases doesn't change the last bits of the sums
    return Collapse(
        cases=len(rows),
        distinct=len(counts) / len(rows),
        most_frequent=int(counts.max()) / len(rows),
        empty=int((words == 0).sum()),
        words_mean=float(words.mean()),
        words_std=float(words.std()),
        words_quantiles=tuple(float(value) for value in np.quantile(words, LENGTH_QUANTILES)),
    )
