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

"""From the scores of a case's samples to preference pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monai_u2.exceptions import InputError

NO_PAIR_REASONS: tuple[str, ...] = ("too_few_samples", "failed_judgements", "low_best_score", "small_margin")
"""Why a case gives no pair: fewer than two samples are left; fewer than two of them have a score; the best score isn't
above `min_best_score`; best and worst are closer than `min_margin`."""


@dataclass(frozen=True)
class PairRule:
    """Pairs the best with the worst, the second best with the second worst, and so on.

    Args:
        min_margin: smallest difference of the two scores, above 0.
        min_best_score: a chosen sample's score must be above this. At 0, as in the paper, nothing is preferred in which
            nothing is right.
        max_pairs_per_case: largest number of pairs; 1 for best and worst alone.

    Raises:
        InputError: for numbers out of range.
    """

    min_margin: float = 0.1
    min_best_score: float = 0.0
    max_pairs_per_case: int = 1

    def __post_init__(self) -> None:
        if self.min_margin <= 0 or not 0 <= self.min_best_score < 1 or self.max_pairs_per_case < 1:
            raise InputError(
                f"min_margin {self.min_margin}, min_best_score {self.min_best_score} and max_pairs_per_case "
                f"{self.max_pairs_per_case}: expected above 0, in [0, 1) and at least 1."
            )

    def __call__(self, scores: Mapping[int, float | None]) -> tuple[list[tuple[int, int]], str | None]:
        """Pair one case's samples.

        Args:
            scores: score of each sample that is left, by its place; None where its judgement failed.

        Returns:
            places of (chosen, rejected), each sample in one pair at most, of equal ones the earlier first; and one of
            :data:`NO_PAIR_REASONS` where there is no pair, else None.
        """
        scored = {place: score for place, score in scores.items() if score is not None}
        if len(scored) < 2:
            return [], "too_few_samples" if len(scores) < 2 else "failed_judgements"
        ranked = sorted(scored, key=lambda place: (-scored[place], place))
        if scored[ranked[0]] <= self.min_best_score:
            return [], "low_best_score"
        pairs = []
        for best, worst in zip(ranked[: len(ranked) // 2], reversed(ranked)):
            # differences of fractions are a little off
            close = scored[best] - scored[worst] < self.min_margin - 1e-9
            if close or scored[best] <= self.min_best_score or len(pairs) == self.max_pairs_per_case:
                break
            pairs.append((best, worst))
        return pairs, None if pairs else "small_margin"
