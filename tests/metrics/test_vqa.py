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
from monai_u2.metrics import ChoiceAccuracy, choice_scores, open_scores, parse_choice


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" b ", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. Left kidney", "B"),
        ("b) left kidney", "B"),
        ("[C]: the spleen", "C"),
        ("Answer: D", "D"),
        ("The answer is D.", "D"),
        ("The correct option is: (A) liver", "A"),
        ("A. Both lungs and the pleura.", "A"),
        ("C. Vitamin C. is not meant", "C"),
        ("D. Both A and B", "D"),
        ("C. Aortic dissection, Stanford type B.", "C"),
        ("A) Aortic dissection (Stanford type B)", "A"),
        ("A. C. difficile colitis", "A"),
        ("", None),
        ("A nodule in the right lobe", None),
        ("Left kidney", None),
        ("E", None),
        ("E. None", None),
        ("A or B", None),
        ("A. or B.", None),
        ("A, B", None),
        ("A) liver B) spleen", None),
        ("A. liver\nB. spleen", None),
        ("AB", None),
        ("Because of the cyst, B", None),
    ],
)
def test_letter_is_read_strictly(answer: str, letter: str | None) -> None:
    assert parse_choice(answer) == letter


def test_other_letters_can_be_choices() -> None:
    assert parse_choice("E", "ABCDE") == "E" and parse_choice("C", "AB") is None


def test_unparsable_answers_are_wrong_and_named() -> None:
    ids = ["q1", "q2", "q3", "q4"]
    scored = choice_scores(ids, ["A. liver", "the spleen", "B", "C"], ["A", "A", "B", "D"])
    assert scored.scores.tolist() == [1, 0, 1, 0]
    assert scored.accuracy == 0.5 and scored.unparsable == ["q2"] and scored.failed == []


def test_open_answers_are_judged() -> None:
    def judge(question: str, right: str, answer: str) -> bool | None:
        assert question.endswith("?")
        return None if answer == "unclear" else answer == right

    questions = ["Where is the stone?"] * 4
    scored = open_scores(["a", "b", "c", "d"], questions, ["left", "right", "unclear", " "], ["left"] * 4, judge)
    assert scored.scores.tolist() == pytest.approx([1, 0, np.nan, 0], nan_ok=True)
    assert scored.accuracy == pytest.approx(1 / 3) and scored.failed == ["c"]
    assert np.isnan(open_scores(["c"], questions[:1], ["unclear"], ["left"], judge).accuracy)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="q1: the right letter is 'E'"):
        choice_scores(["q1"], ["A"], ["E"])
    with pytest.raises(InputError, match="q1: the right letter is ''"):
        choice_scores(["q1"], ["A"], [""])
    with pytest.raises(InputError, match=r"\[1, 2, 1\]"):
        choice_scores(["q1"], ["A", "B"], ["A"])
    with pytest.raises(InputError, match=r"\[1, 1, 2, 1\]"):
        open_scores(["q1"], ["?"], ["A", "B"], ["A"], lambda *texts: True)


def test_metric_is_equal_in_one_and_two_processes(in_one_and_two: Callable[..., Any]) -> None:
    answers, letters = ["A", "B. lung", "none", "(D)", "C"] * 3, ["A", "B", "C", "D", "D"] * 3
    assert in_one_and_two(ChoiceAccuracy(), (answers, letters)) == 0.6
