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

"""CRG: finding labels scored so that naming what is rare and there counts more than staying silent."""

from __future__ import annotations

import numpy as np

from monai_u2.metrics.findings import FindingMetric, finding_pair
from monai_u2.metrics.significance import CaseStatistic, ratio


def crg_score(predicted: np.ndarray, reference: np.ndarray) -> float:
    """CRG over cases and findings: 1 for the reference itself, 1/3 for reports that name nothing or everything.

    With X labels of which A are positive: `r = (X - A) / 2A`, `U = (X - A) / 2`, `s = r TP - r FN - FP` and
    `CRG = U / (2U - s)` (https://arxiv.org/abs/2505.17167). That is `1 / (1 + 2 FN / A + 2 FP / (X - A))`, the share of
    missed positives and of falsely named negatives. Without a positive (A = 0), or without a negative (A = X), the
    formula as published divides by 0; here the share of what isn't there is 0, so that it is 1 where nothing is wrong.

    Args:
        predicted: boolean `(cases, findings)`.
        reference: boolean `(cases, findings)`.

    Raises:
        ValueError: when the shapes differ or there is no label.
    """
    return crg_statistic(predicted, reference).value


def crg_statistic(predicted: np.ndarray, reference: np.ndarray) -> CaseStatistic:
    """:func:`crg_score` for :mod:`monai_u2.metrics.significance`."""
    predicted, reference = finding_pair(predicted, reference)
    if not predicted.size:
        raise ValueError(f"{predicted.shape} findings hold no label.")
    counts = (reference & ~predicted, reference, predicted & ~reference, ~reference)
    return CaseStatistic(np.stack([count.sum(axis=1) for count in counts], axis=1).astype(float), _crg)


class FindingCRG(FindingMetric):
    """CRG of all cases, as a MONAI metric of finding vectors `(F,)`, see :func:`crg_score`."""

    def aggregate(self) -> float:
        """CRG of the cases since the last reset."""
        return crg_score(*self.findings())


def _crg(sums: np.ndarray) -> np.ndarray:
    missed, positives, false, negatives = (sums[..., i] for i in range(4))
    return 1 / (1 + 2 * ratio(missed, positives, empty=0.0) + 2 * ratio(false, negatives, empty=0.0))
