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

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monai_u2.exceptions import InputError
from monai_u2.metrics import CollapseMetric, collapse_diagnostics, findings_per_normal_case

REPORTS = ["No finding.", "No  finding.\n", "A cyst in the liver.", "", "No finding."]


def test_by_hand() -> None:
    found = collapse_diagnostics(REPORTS)
    assert found.cases == 5 and found.empty == 1
    assert found.distinct == pytest.approx(3 / 5) and found.most_frequent == pytest.approx(3 / 5)
    assert found.words_mean == pytest.approx(11 / 5)
    assert found.words_std == pytest.approx(np.std([2, 2, 5, 0, 2]))
    assert found.words_quantiles == pytest.approx((0, 0.4, 2, 2, 2, 4.4, 5))


def test_a_template_is_seen(pairs: tuple[list[str], list[str]]) -> None:
    reports, references = pairs
    template = collapse_diagnostics([references[0]] * len(references))
    assert template.distinct == 1 / len(references) and template.most_frequent == 1 and template.words_std == 0
    assert collapse_diagnostics(references).distinct > 0.7
    with pytest.raises(InputError, match="no reports"):
        collapse_diagnostics([])


def test_findings_per_normal_case() -> None:
    reference = np.array([[0, 0], [1, 0], [0, 0]])
    assert findings_per_normal_case(np.array([[1, 1], [1, 1], [0, 1]]), reference) == 1.5
    assert findings_per_normal_case(reference, reference) == 0
    assert np.isnan(findings_per_normal_case(np.ones((2, 2)), np.ones((2, 2))))
    with pytest.raises(ValueError, match="one shape"):
        findings_per_normal_case(np.ones((2, 2)), np.ones((3, 2)))


def test_metric_is_equal_in_one_and_two_processes(
    pairs: tuple[list[str], list[str]], in_one_and_two: Callable[..., Any]
) -> None:
    found, expected = in_one_and_two(CollapseMetric(), pairs), collapse_diagnostics(pairs[0])
    assert found == {
        "distinct_reports": expected.distinct,
        "most_frequent_reports": expected.most_frequent,
        "empty_reports": expected.empty,
        "words_mean": expected.words_mean,
        "words_std": expected.words_std,
    }
