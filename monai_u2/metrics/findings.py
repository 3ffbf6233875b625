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

"""Finding F1: which findings a report names, against which are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from monai_u2.exceptions import InputError
from monai_u2.metrics.report_metric import GatheredMetric
from monai_u2.metrics.significance import CaseStatistic, bootstrap_intervals, ratio

F1_AVERAGES: tuple[str, ...] = ("micro", "macro")


def micro_f1(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Micro-averaged F1 over cases and findings: `2 TP / (2 TP + FP + FN)`; 0 where nothing is named and nothing is
    there.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.

    Raises:
        ValueError: when the shapes differ.
    """
    return f1_statistic(predicted, reference, "micro").value


def macro_f1(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean of :func:`label_f1` over the labels that are named or there; 0 where none is.

    That is scikit-learn's with `zero_division=nan`. A 0 for the others would pull the resamples of an interval down,
    which lack rare labels more often than all cases do.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.

    Raises:
        ValueError: when the shapes differ.
    """
    return f1_statistic(predicted, reference, "macro").value


def label_f1(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """F1 of each label `(findings,)`; NaN where it is nowhere named nor there.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.

    Raises:
        ValueError: when the shapes differ.
    """
    predicted, reference = finding_pair(predicted, reference)
    hits = 2 * (predicted & reference).sum(axis=0)
    return ratio(hits, predicted.sum(axis=0) + reference.sum(axis=0), empty=float("nan"))


def f1_statistic(predicted: np.ndarray, reference: np.ndarray, average: str = "micro") -> CaseStatistic:
    """Micro or macro F1 for :mod:`monai_u2.metrics.significance`.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.
        average: one of :data:`F1_AVERAGES`.

    Raises:
        ValueError: when the shapes differ.
        InputError: for another average.
    """
    _check_average(average)
    predicted, reference = finding_pair(predicted, reference)
    hits, named = 2.0 * (predicted & reference), predicted.astype(float) + reference
    if average == "micro":
        hits, named = hits.sum(axis=1, keepdims=True), named.sum(axis=1, keepdims=True)
    return CaseStatistic(np.concatenate([hits, named], axis=1), _mean_ratio)


def label_f1_statistics(
    predicted: np.ndarray, reference: np.ndarray, labels: Sequence[str]
) -> dict[str, CaseStatistic]:
    """:func:`label_f1` of each label for :mod:`monai_u2.metrics.significance`.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.
        labels: names of the columns.

    Raises:
        ValueError: when the shapes differ.
    """
    predicted, reference = finding_pair(predicted, reference)
    counts = np.stack([2.0 * (predicted & reference), predicted.astype(float) + reference], axis=2)
    return {label: CaseStatistic(counts[:, column], _label_ratio) for column, label in enumerate(labels)}


def bootstrap_interval(
    predicted: np.ndarray, reference: np.ndarray, *, num_samples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`micro_f1` over cases.

    Args:
        predicted: boolean `(cases, findings)`, one case a patient.
        reference: boolean `(cases, findings)`.
        num_samples: number of resamples.
        confidence: coverage of the interval.
        seed: seed of the resampling.

    Returns:
        Lower and upper end.
    """
    statistics = {"f1": f1_statistic(predicted, reference, "micro")}
    interval = bootstrap_intervals(statistics, num_samples=num_samples, confidence=confidence, seed=seed)["f1"]
    return interval.low, interval.high


def finding_table(predicted: np.ndarray, reference: np.ndarray, labels: Sequence[str]) -> list[dict[str, float | str]]:
    """Counts, precision, recall and F1 of each kind of finding (the label up to its comma), then over all.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.
        labels: finding labels, `"kind"` or `"kind, location"`. A finding in the wrong place counts as wrong.

    Returns:
        One row a kind: `finding, present, named, precision, recall, f1`; the last row is `all`.
    """
    predicted, reference = np.asarray(predicted, dtype=bool), np.asarray(reference, dtype=bool)
    kinds = [label.split(",")[0] for label in labels]
    rows = []
    for kind in [*dict.fromkeys(kinds), "all"]:
        columns = [i for i, name in enumerate(kinds) if kind in (name, "all")]
        p, r = predicted[:, columns], reference[:, columns]
        hits = np.logical_and(p, r).sum()
        rows.append(
            {
                "finding": kind,
                "present": int(r.sum()),
                "named": int(p.sum()),
                "precision": float(hits / p.sum()) if p.any() else 0.0,
                "recall": float(hits / r.sum()) if r.any() else 0.0,
                "f1": micro_f1(p, r),
            }
        )
    return rows


def finding_pair(predicted: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as boolean `(cases, findings)`.

    Raises:
        ValueError: when the shapes differ.
    """
    predicted, reference = np.asarray(predicted, dtype=bool), np.asarray(reference, dtype=bool)
    if predicted.shape != reference.shape:
        raise ValueError(f"predicted {predicted.shape} and reference {reference.shape} findings must have one shape.")
    return predicted, reference


class FindingMetric(GatheredMetric):
    """Base of MONAI metrics of finding vectors `(F,)`, gathered over processes."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: object) -> torch.Tensor:
        if y is None:
            raise ValueError(f"{type(self).__name__} needs the reference findings.")
        return torch.stack([y_pred, y], dim=1)

    def findings(self) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and reference findings, boolean `(cases, findings)`, of all processes; each has to call this."""
        vectors = self.gathered() > 0.5
        return vectors[:, 0], vectors[:, 1]


class FindingF1(FindingMetric):
    """Finding F1 over all cases, as a MONAI metric of finding vectors `(F,)`.

    Args:
        average: one of :data:`F1_AVERAGES`, see :func:`micro_f1` and :func:`macro_f1`.

    Raises:
        InputError: for another average.
    """

    def __init__(self, average: str = "micro") -> None:
        super().__init__()
        _check_average(average)
        self.average = average

    def aggregate(self) -> float:
        """F1 of the cases since the last reset."""
        return f1_statistic(*self.findings(), self.average).value


def _mean_ratio(sums: np.ndarray) -> np.ndarray:
    hits, named = np.split(sums, 2, axis=-1)
    return ratio(ratio(hits, named, empty=0.0).sum(axis=-1), (named > 0).sum(axis=-1), empty=0.0)


def _label_ratio(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1], empty=float("nan"))


def _check_average(average: str) -> None:
    if average not in F1_AVERAGES:
        raise InputError(f"average is {average!r}; expected one of {', '.join(F1_AVERAGES)}.")
