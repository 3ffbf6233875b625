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

from __future__ import annotations

from typing import Any

import pytest

from monai_u2.exceptions import InputError
from monai_u2.preferences import PairRule


@pytest.mark.parametrize(
    ("rule", "scores", "pairs", "reason"),
    [
        ({}, {0: 0.2, 1: 0.8, 2: 0.5}, [(1, 0)], None),
        ({}, {3: 0.8, 1: 0.8, 2: 0.2, 0: 0.2}, [(1, 2)], None),
        ({}, {0: None, 1: 0.8, 2: None, 4: 0.1}, [(1, 4)], None),
        ({}, {}, [], "too_few_samples"),
        ({}, {0: 1.0}, [], "too_few_samples"),
        ({}, {0: 1.0, 1: None, 2: None}, [], "failed_judgements"),
        ({}, {0: 0.0, 1: 0.0}, [], "low_best_score"),
        ({}, {0: 0.5, 1: 0.5, 2: 0.45}, [], "small_margin"),
        ({}, {0: 0.3, 1: 0.2}, [(0, 1)], None),  # 0.3 - 0.2 is less than 0.1 in floating point
        ({"min_margin": 0.3}, {0: 0.5, 1: 0.25}, [], "small_margin"),
        ({"min_best_score": 0.5}, {0: 0.5, 1: 0.0}, [], "low_best_score"),
        ({"max_pairs_per_case": 2}, {0: 0.1, 1: 0.9, 2: 0.7, 3: 0.3}, [(1, 0), (2, 3)], None),
        ({"max_pairs_per_case": 9}, {0: 0.1, 1: 0.9, 2: 0.7, 3: 0.3, 4: 0.5}, [(1, 0), (2, 3)], None),
        ({"max_pairs_per_case": 9}, {0: 0.1, 1: 0.9, 2: 0.5, 3: 0.45}, [(1, 0)], None),
        ({"max_pairs_per_case": 9, "min_best_score": 0.5}, {0: 0.0, 1: 0.9, 2: 0.4, 3: 0.1}, [(1, 0)], None),
    ],
)
def test_pairs(
    rule: dict[str, Any], scores: dict[int, float | None], pairs: list[tuple[int, int]], reason: str | None
) -> None:
    assert PairRule(**rule)(scores) == (pairs, reason)


@pytest.mark.parametrize("options", [{"min_margin": 0}, {"min_best_score": 1}, {"max_pairs_per_case": 0}])
def test_settings_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        PairRule(**options)
