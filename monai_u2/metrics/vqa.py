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

"""Accuracy of answers to questions: multiple choice by the letter, open answers by a judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monai_u2.exceptions import InputError
from monai_u2.metrics.report_metric import MeanReportScore, exact_mean

AnswerJudge = Callable[[str, str, str], "bool | None"]
"""From question, right answer and given answer to whether it is right, None where it can't tell."""

_BEFORE = re.compile(r"^(?:(?:the )?(?:correct |right |best )?(?:answer|option|choice)(?: is|:)+\s*)", re.IGNORECASE)
_LETTER = re.compile(r"^[(\[]?([A-Za-z])(?:[)\].:,]|\s*$)")
# other letters: right behind the first, at the start of a line, and in brackets where the first is in such
_BEHIND = re.compile(
    r"^[\s,;]*(?:(?:or|and|&)\s+[(\[]?([A-Z])\b|[(\[]?([A-Z])(?=[)\],;:]|\.?\s*$|\.?\s+(?:or|and)\b))", re.MULTILINE
)
_IN_LINE = re.compile(r"\n\s*(?:(?:or|and)\s+)?[(\[]?([A-Z])(?:[)\].:,]|[^\S\n]*(?=\n|$))")
_BRACKETED = re.compile(r"\b([A-Z])[)\]](?=[\s.:,]|$)")
_ASIDE = re.compile(r"\([^()]{2,}\)")


@dataclass(frozen=True)
class AnswerScores:
    """Which answers are right.

    Args:
        scores: 1 right, 0 wrong, NaN where the judge couldn't tell; `(questions,)`.
        unparsable: ids of multiple-choice answers without one letter; they count as wrong.
        failed: ids of open answers that the judge couldn't tell; they are kept out.
    """

    scores: np.ndarray
    unparsable: list[str]
    failed: list[str]

    @property
    def accuracy(self) -> float:
        """Share of right answers; NaN where there is none to tell."""
        return exact_mean(self.scores[~np.isnan(self.scores)])


def parse_choice(answer: str, choices: str = "ABCD") -> str | None:
    """Return the letter that an answer chooses; None where it doesn't choose exactly one.

    The letter stands alone, or first and followed by one of `) ] . : ,`, also after "the answer is": "B", "(b)", "B.
    Left kidney", "Answer: B". An article is no choice ("A cyst"), nor are two letters: another one right behind the
    first ("A, B", "A. or B."), at the start of a line, or in brackets as the first is ("A) liver B) spleen"). Elsewhere
    it belongs to the option's text ("D. Both A and B", "C. Aortic dissection, Stanford type B.").

    Args:
        answer: the answer's text.
        choices: the letters that can be chosen.
    """
    text = _BEFORE.sub("", answer.strip())
    match = _LETTER.match(text)
    if match is None or match[1].upper() not in choices.upper():
        return None
    rest = text[match.end() :]
    others = {letter for pair in _BEHIND.findall(rest) for letter in pair} | set(_IN_LINE.findall(rest))
    if match[0][-1] in ")]":
        others |= set(_BRACKETED.findall(_ASIDE.sub("", rest)))
    return match[1].upper() if not (others & set(choices.upper())) - {match[1].upper()} else None


def choice_scores(
    ids: Sequence[str], answers: Sequence[str], letters: Sequence[str], *, choices: str = "ABCD"
) -> AnswerScores:
    """Score multiple-choice answers by their letter, see :func:`parse_choice`.

    Args:
        ids: name of each question.
        answers: given answers.
        letters: the right letters, in the same order.
        choices: the letters that can be chosen.

    Raises:
        InputError: when the numbers differ, or a right letter is none of the choices.
    """
    _check_numbers(ids, answers, letters)
    for case, letter in zip(ids, letters):
        if len(letter) != 1 or letter not in choices:
            raise InputError(f"{case}: the right letter is {letter!r}; expected one of {', '.join(choices)}.")
    parsed = [parse_choice(answer, choices) for answer in answers]
    scores = np.array([choice == letter for choice, letter in zip(parsed, letters)], dtype=float)
    return AnswerScores(scores, [case for case, choice in zip(ids, parsed) if choice is None], [])


def open_scores(
    ids: Sequence[str],
    questions: Sequence[str],
    answers: Sequence[str],
    right_answers: Sequence[str],
    judge: AnswerJudge,
) -> AnswerScores:
    """Score open answers by a judge. An empty answer is wrong without asking.

    Args:
        ids: name of each question.
        questions: what was asked.
        answers: given answers.
        right_answers: what was to be answered.
        judge: see :data:`AnswerJudge`.

    Raises:
        InputError: when the numbers differ.
    """
    _check_numbers(ids, questions, answers, right_answers)
    told = [
        judge(question, right, answer) if answer.strip() else False
        for question, answer, right in zip(questions, answers, right_answers)
    ]
    scores = np.array([np.nan if right is None else float(right) for right in told], dtype=float)
    return AnswerScores(scores, [], [case for case, right in zip(ids, told) if right is None])


class ChoiceAccuracy(MeanReportScore):
    """Accuracy of multiple-choice answers as a MONAI metric: `metric(y_pred=answers, y=letters)`.

    Args:
        choices: the letters that can be chosen.
    """

    def __init__(self, choices: str = "ABCD") -> None:
        super().__init__(self._score, name="accuracy")
        self.choices = choices

    def _score(self, answers: Sequence[str], letters: Sequence[str]) -> dict[str, np.ndarray]:
        numbers = [str(number) for number in range(len(answers))]
        return {"accuracy": choice_scores(numbers, answers, letters, choices=self.choices).scores}


def _check_numbers(*texts: Sequence[str]) -> None:
    if len({len(part) for part in texts}) != 1:
        raise InputError(f"numbers of ids, questions and answers: {[len(part) for part in texts]}; expected as many.")
