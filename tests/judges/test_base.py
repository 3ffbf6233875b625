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
from monai_u2.judges import SIGNIFICANT_ERRORS, FindingErrors, Judge


class LengthJudge(Judge):
    """Matches as many findings as the candidate has letters."""

    name = "length"
    version = "7"

    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        return [FindingErrors(matched=len(candidate)) for _, candidate in pairs]


@pytest.mark.parametrize(
    ("counts", "score"),
    [
        ({"matched": 3}, 1.0),
        ({"matched": 3, "insignificant": 5}, 1.0),
        ({"matched": 1, **dict.fromkeys(SIGNIFICANT_ERRORS, 1)}, 1 / 7),
        ({"matched": 2, "wrong_severity": 2}, 0.5),
        ({"missing_finding": 1}, 0.0),
        ({}, 0.0),
        ({"matched": 3, "status": "failed"}, None),
        ({"status": "truncated"}, None),
        ({"status": "unparsable"}, None),
    ],
)
def test_score(counts: dict[str, Any], score: float | None) -> None:
    errors = FindingErrors(**counts)
    assert errors.score == (None if score is None else pytest.approx(score))
    assert errors.significant == sum(counts.get(name, 0) for name in SIGNIFICANT_ERRORS)


@pytest.mark.parametrize(
    "counts", [{"matched": -1}, {"false_finding": 1.5}, {"matched": True}, {"insignificant": "2"}, {"status": "good"}]
)
def test_counts_and_status_are_checked(counts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        FindingErrors(**counts)


def test_every_judgement_carries_judge_and_version_in_order() -> None:
    judge = LengthJudge()
    results = judge.batch(["r"] * 3, ["a", "abc", ""])
    assert [errors.matched for errors in results] == [1, 3, 0]
    assert {(errors.judge, errors.judge_version) for errors in results} == {("length", "7")}
    assert judge("r", "ab").matched == 2


def test_an_empty_reference_is_an_error() -> None:
    with pytest.raises(InputError, match="reference report 1 is empty"):
        LengthJudge().batch(["a", " \n"], ["a", "b"])
    with pytest.raises(ValueError, match="2 references and 1 candidates"):
        LengthJudge().batch(["a", "b"], ["a"])
