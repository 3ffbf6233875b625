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
from monai.metrics import CumulativeIterationMetric


def micro_f1(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Micro-averaged F1 over cases and findings: `2 TP / (2 TP + FP + FN)`; 0 where nothing is named and nothing is
    there.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.

    Raises:
        ValueError: when the shapes differ.
    """
    predicted, reference = np.asarray(predicted, dtype=bool), np.asarray(reference, dtype=bool)
    if predicted.shape != reference.shape:
        raise ValueError(f"predicted {predicted.shape} and reference {reference.shape} findings must have one shape.")
    true_positives = np.logical_and(predicted, reference).sum()
    named = predicted.sum() + reference.sum()
    return float(2 * true_positives / named) if named else 0.0


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
    rng = np.random.default_rng(seed)
    predicted, reference = np.asarray(predicted, dtype=bool), np.asarray(reference, dtype=bool)
    true_positives = np.logical_and(predicted, reference).sum(axis=1)
    named = predicted.sum(axis=1) + reference.sum(axis=1)
    draws = rng.integers(len(named), size=(num_samples, len(named)))
    totals = named[draws].sum(axis=1)
    scores = np.where(totals > 0, 2 * true_positives[draws].sum(axis=1) / np.maximum(totals, 1), 0.0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


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


class FindingF1(CumulativeIterationMetric):
    """Micro finding F1 over all cases, as a MONAI metric.

    Called with batches of finding vectors `(F,)`; gathered over processes and computed by :func:`micro_f1`.
    """

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: object) -> torch.Tensor:
        if y is None:
            raise ValueError("FindingF1 needs the reference findings.")
        return torch.stack([y_pred, y], dim=1)

    def aggregate(self) -> float:
        """Micro F1 of the cases since the last reset."""
        buffer = self.get_buffer()
        if buffer is None:
            raise ValueError("FindingF1 has seen no case.")
        counts = np.asarray(buffer.cpu()) > 0.5
        return micro_f1(counts[:, 0], counts[:, 1])
