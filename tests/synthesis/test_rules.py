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

"""Rules that reject: each planted error for its own reason, and good texts not at all."""

from __future__ import annotations

import pytest

from monai_u2.data.phantom import draw_case, write_report
from monai_u2.synthesis import CitationRule, split_report
from monai_u2.synthesis.rules import (
    REASONS,
    check_cited_text,
    check_comparison,
    check_coverage,
    check_language,
    check_substance,
)
from tests.synthesis.scripted_model import COMPARED, GERMAN, VACUOUS, cited, contradicted

LINES = split_report(
    "There is a 20 mm nodule in the right upper lobe.\nNo pleural effusion.\nThe liver is unremarkable.\n"
    "A 1.5 cm cyst is seen in the left kidney.\nModerate effusion on the left."
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A nodule of 2 cm lies in the right upper lobe [1].", None),
        ("The left kidney has a cyst of 15 mm [4].", None),
        ("There is no pleural effusion [2].", None),
        ("There is a 20 mm nodule in the right upper lobe and a 15 mm cyst in the left kidney [1, 4].", None),
        ("No kidney cyst is on the right [2].", "unsupported"),
        ("The pleural spaces hold no effusion [2].", None),
        ("There is a 20 mm nodule in the right upper lobe [9].", "unknown_line"),
        ("There is a 20 mm nodule in the right upper lobe [0].", "unknown_line"),
        ("There is a 20 mm nodule in the right upper lobe [1-2].", "malformed_citation"),
        ("There is a 20 mm nodule in the right upper lobe [3].", "wrong_number"),
        ("There is a nodule in the upper lobe [3].", "unsupported"),
        ("There is a large nodule in the right upper lobe with spiculated cavitating margins [1].", "unsupported"),
        ("There is a 20 mm nodule in the right upper lobe [1, 3].", "unsupported"),
        ("There is a 25 mm nodule in the right upper lobe [1].", "wrong_number"),
        ("There is a 20 mm nodule in the left upper lobe [1].", "contradiction"),
        ("There is no nodule in the right upper lobe [1].", "contradiction"),
        ("There is a pleural effusion [2].", "contradiction"),
        ("Yes. There is a 20 mm nodule in the right upper lobe [1].", None),
        ("It is large. There is a 20 mm nodule in the right upper lobe [1].", "missing_citation"),
        ("There is a 20 mm nodule in the right upper lobe.", "missing_citation"),
    ],
)
def test_citations(text: str, reason: str | None) -> None:
    problem = check_cited_text(text, LINES, CitationRule(), every_statement=True)
    assert (problem and problem.reason) == reason, problem


def test_reasoning_may_have_sentences_without_citation() -> None:
    good = "The question is about the lungs. There is a 20 mm nodule in the right upper lobe [1]. Biopsy may be needed."
    assert check_cited_text(good, LINES, CitationRule(), every_statement=False) is None
    for claim in ("The upper lobe nodule is round.", "It measures 7 mm.", "It is on the left."):
        problem = check_cited_text(f"{good} {claim}", LINES, CitationRule(), every_statement=False)
        assert problem.reason == "missing_citation"
    asked = "Is the upper lobe nodule on the left?"
    echo = f"{good} The upper lobe nodule on the left is asked for."
    assert check_cited_text(echo, LINES, CitationRule(), every_statement=False, question=asked) is None


def test_every_line_of_the_phantom_supports_itself_and_not_its_opposite() -> None:
    for number in range(25):
        lines = split_report(write_report(draw_case(number)).text)
        for line in lines:
            rule = CitationRule()
            assert check_cited_text(cited(line.text, line.number), lines, rule, every_statement=True) is None
            opposite = check_cited_text(cited(contradicted(line.text), line.number), lines, rule, every_statement=True)
            assert opposite.reason == "contradiction", (line.text, contradicted(line.text))


def test_a_judge_may_decide_what_words_do_not() -> None:
    text = "A roundish opacity lies there [1]."
    assert check_cited_text(text, LINES, CitationRule(), every_statement=True).reason == "unsupported"
    assert check_cited_text(text, LINES, CitationRule(0.0), every_statement=True) is None


@pytest.mark.parametrize(
    ("thinking", "vacuous"),
    [
        (VACUOUS, True),
        ("I read the report. The answer follows.", True),
        ("There is a nodule in the upper lobe [1]. So the answer is yes.", False),
        ("Fluid around the lung would be an effusion, and none is there [2].", False),
    ],
)
def test_vacuous_reasoning(thinking: str, vacuous: bool) -> None:
    problem = check_substance(thinking, LINES)
    assert (problem is not None) is vacuous and (not vacuous or problem.reason == "vacuous")


def test_comparisons_are_for_reports_that_compare() -> None:
    assert check_comparison(COMPARED, "There is a nodule.", "en").reason == "comparison"
    assert check_comparison(COMPARED, "The nodule is unchanged since 2019.", "en") is None
    assert check_comparison("There is a nodule.", "There is a nodule.", "en") is None
    for declared in ("COMPARISON: None.", "Comparison: No prior studies.", "Prior study: not available"):
        assert check_comparison(COMPARED, f"{declared}\nThere is a nodule.", "en").reason == "comparison", declared


def test_language() -> None:
    assert check_language(GERMAN, "en").reason == "other_language" and check_language(COMPARED, "en") is None


def test_coverage() -> None:
    assert check_coverage("A [1]. B [4, 5].", LINES) is None
    problem = check_coverage("A [1]. B [4].", LINES)
    assert problem.reason == "uncovered_finding" and problem.detail.startswith("line 5")


def test_a_finding_beside_a_denial_is_to_be_covered() -> None:
    lines = split_report("The heart is normal in size, no effusion.\nA 5 mm nodule, no calcification.")
    assert check_coverage("A nodule of 5 mm [2].", lines) is None
    assert check_coverage("The heart is normal [1].", lines).reason == "uncovered_finding"


def test_every_reason_is_explained() -> None:
    assert all(REASONS.values()) and all(reason.islower() for reason in REASONS)
