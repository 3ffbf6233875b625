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

"""GREEN-like scores of reports by a judge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_u2.exceptions import InputError
from monai_u2.judges.base import FindingErrors, Judge
from monai_u2.metrics.cases import listed_ids
from monai_u2.metrics.report_metric import MeanReportScore, exact_mean

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GreenScores:
    """What a judge says of each case.

    Args:
        scores: matched / (matched + significant errors), `(cases,)`; NaN where there is no judgement.
        judgements: of each case.
        failed: id -> status, one of :data:`monai_u2.judges.STATUSES`, of the cases without a judgement.
        judge: name and version of the judge: scores are comparable within one.
    """

    scores: np.ndarray
    judgements: list[FindingErrors]
    failed: dict[str, str]
    judge: str

    @property
    def mean(self) -> float:
        """Mean of the judged cases; NaN where there is none."""
        return exact_mean(self.scores[~np.isnan(self.scores)])


def green_scores(
    ids: Sequence[str], reports: Sequence[str], references: Sequence[str], judge: Judge, *, batch_size: int = 64
) -> GreenScores:
    """Let a judge score reports (GREEN, https://arxiv.org/abs/2405.03595). A case whose judgement failed has no score.

    Args:
        ids: name of each case.
        reports: generated reports.
        references: reference reports, in the same order.
        judge: any of :mod:`monai_u2.judges`.
        batch_size: cases that the judge gets at once.

    Raises:
        InputError: when a reference is empty, the numbers differ, or the judge can't be reached.
    """
    if not len(ids) == len(reports) == len(references):
        raise InputError(f"{len(ids)} ids, {len(reports)} reports, {len(references)} references; expected as many.")
    judgements: list[FindingErrors] = []
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        judgements += judge.batch(references[part], reports[part])
    scores = np.array([np.nan if errors.score is None else errors.score for errors in judgements], dtype=float)
    failed = {case: errors.status for case, errors in zip(ids, judgements) if errors.status != "ok"}
    if failed:
        logger.warning(
            "%s: cases of %d without a judgement, kept out of the mean: %s",
            judge.name,
            len(ids),
            listed_ids([f"{case} {status}" for case, status in failed.items()]),
        )
    return GreenScores(scores, judgements, failed, f"{judge.name} {judge.version}")


class GreenScore(MeanReportScore):
    """Mean of :func:`green_scores` as a MONAI metric; a case whose judgement failed is kept out of it.

    Args:
        judge: any of :mod:`monai_u2.judges`.
    """

    def __init__(self, judge: Judge) -> None:
        super().__init__(self._judge, name="green")
        self.judge = judge

    def _judge(self, reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
        scores = [errors.score for errors in self.judge.batch(references, reports)]
        return {"green": np.array([np.nan if score is None else score for score in scores])}
