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

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from monai_u2.data.phantom import parse_findings
from monai_u2.exceptions import InputError
from monai_u2.judges import FindingErrors, FindingsJudge, Judge
from monai_u2.metrics import GreenScore, green_scores

Pairs = tuple[list[str], list[str]]


class FailingJudge(Judge):
    """Can't judge reports that speak of the aorta alone, nor empty ones."""

    name = "failing"
    version = "1"

    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        statuses = {"aorta": "unparsable", "": "truncated"}
        return [
            FindingErrors(status=statuses[report]) if report in statuses else FindingErrors(matched=1, false_finding=1)
            for _, report in pairs
        ]


def test_scores_are_the_judges_own(pairs: Pairs) -> None:
    judge = FindingsJudge(parse_findings)
    ids = [f"case {number}" for number in range(len(pairs[0]))]
    scored = green_scores(ids, *pairs, judge, batch_size=7)
    assert scored.scores.tolist() == [judge(reference, report).score for report, reference in zip(*pairs)]
    assert scored.mean == pytest.approx(scored.scores.mean()) and 0.1 < scored.mean < 0.9
    assert scored.failed == {} and scored.judge == f"findings {judge.version}"


def test_failed_judgements_are_kept_out_and_named(pairs: Pairs, caplog: pytest.LogCaptureFixture) -> None:
    ids = [f"case {number}" for number in range(len(pairs[0]))]
    with caplog.at_level(logging.WARNING):
        scored = green_scores(ids, *pairs, FailingJudge())
    assert scored.failed == {"case 9": "truncated", "case 11": "unparsable"}
    assert scored.mean == 0.5 and np.isnan(scored.scores[[9, 11]]).all()
    assert "2 (case 9 truncated, case 11 unparsable)" in caplog.text
    assert "aorta" not in caplog.text.replace("unparsable", "")


def test_no_judgement_at_all_has_no_mean() -> None:
    assert np.isnan(green_scores(["a"], ["aorta"], ["heart"], FailingJudge()).mean)


def test_numbers_must_fit() -> None:
    with pytest.raises(InputError, match="1 ids, 2 reports, 2 references"):
        green_scores(["a"], ["x", "y"], ["x", "y"], FailingJudge())
    with pytest.raises(InputError, match="reference report 0 is empty"):
        green_scores(["a"], ["x"], [" "], FailingJudge())


@pytest.mark.parametrize("judge", [FindingsJudge(parse_findings), FailingJudge()], ids=lambda judge: judge.name)
def test_metric_is_equal_in_one_and_two_processes(
    pairs: Pairs, in_one_and_two: Callable[..., Any], judge: Judge
) -> None:
    ids = [str(number) for number in range(len(pairs[0]))]
    assert in_one_and_two(GreenScore(judge), pairs) == green_scores(ids, *pairs, judge).mean
