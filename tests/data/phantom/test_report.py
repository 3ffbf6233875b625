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

import re

import pytest

from monai_u2.data.phantom.cases import draw_case
from monai_u2.data.phantom.findings import FINDING_KINDS, FINDING_LABELS, PhantomCase
from monai_u2.data.phantom.parsing import parse_findings
from monai_u2.data.phantom.report import REGIONS, REPORT_QUESTIONS, ask_questions, grammar_texts, write_report
from monai_u2.data.records import QUESTION_KINDS


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [draw_case(number) for number in range(500)]


def test_report_states_the_findings_and_no_others(cases: list[PhantomCase]) -> None:
    for case in cases:
        text = write_report(case).text
        assert parse_findings(text) == sorted(case.labels), text
        assert parse_findings(text.split("IMPRESSION:")[1]) == sorted(case.labels), text


def test_layout(cases: list[PhantomCase]) -> None:
    for case in cases:
        lines = write_report(case).text.split("\n")
        assert [line.partition(":")[0] for line in lines[:-1]] == ["FINDINGS", *REGIONS, "IMPRESSION"]
        assert lines[-1].endswith(".")


def test_sentences_make_up_the_report_and_point_to_their_findings(cases: list[PhantomCase]) -> None:
    for case in cases:
        report = write_report(case)
        for section, text in zip(("FINDINGS", "IMPRESSION"), report.text.split("IMPRESSION:"), strict=True):
            sentences = [sentence for sentence in report.sentences if sentence["section"] == section]
            position = 0
            for sentence in sentences:
                position = text.index(sentence["text"], position) + len(sentence["text"])
                stated = [case.findings[index].label for index in sentence["findings"]]
                assert parse_findings(sentence["text"]) == sorted(stated)
            assert sorted(index for sentence in sentences for index in sentence["findings"]) == list(
                range(len(case.findings))
            )


def test_sizes_are_rounded_to_5_mm(cases: list[PhantomCase]) -> None:
    for case in cases:
        report = write_report(case)
        for index, finding in enumerate(case.findings):
            if finding.size_mm is None or finding.severity or finding.kind == "cardiomegaly":
                continue
            sentence = next(s["text"] for s in report.sentences if s["findings"] == [index])
            stated = int(sentence.split(" mm")[0].split()[-1])
            assert stated % 5 == 0 and abs(stated - finding.size_mm) <= 2.51, sentence


def test_same_findings_are_said_in_the_same_words(cases: list[PhantomCase]) -> None:
    """So that what differs between two reports can be seen."""
    said: dict[tuple, set[str]] = {}
    for case in cases:
        content = sorted((f.label, f.severity, f.size_mm and int(f.size_mm / 5 + 0.5)) for f in case.findings)
        said.setdefault(tuple(content), set()).add(write_report(case).text)
    assert all(len(texts) == 1 for texts in said.values())
    assert len(set.union(*said.values())) > 0.6 * len(cases)


def test_vocabulary_is_small_and_reports_are_short(cases: list[PhantomCase]) -> None:
    reports = [write_report(case).text.split() for case in cases]
    assert len({word.lower().strip(".:,") for words in reports for word in words}) < 150
    assert max(map(len, reports)) < 180


def test_questions_are_distinct_stable_and_true(cases: list[PhantomCase]) -> None:
    for case in cases[:200]:
        entries = ask_questions(case, 8)
        assert len({entry["question"] for entry in entries}) == 8
        assert ask_questions(case, 3) == entries[:3]
        for entry in entries:
            assert entry["kind"] == kind_of_wording(entry["question"])
            assert entry["answer"].endswith(".")
            check_answer(case, entry["question"], entry["answer"])


def kind_of_wording(question: str) -> str:
    """The kind of a question, told from its words alone."""
    if re.search(r" (on|in) the (right|left|thoracic|lumbar)\b", question):
        return "side"
    for start, kind in (("Where is", "location"), ("How large is", "size"), ("Is there", "presence")):
        if question.startswith(start):
            return kind
    return "presence" if question.startswith("Does this CT show") else "region"


def test_questions_of_a_case() -> None:
    expected = [
        ("Where is the hypodense liver lesion?", "Right lobe.", "location"),
        ("Describe the bones.", "No fracture is seen.", "region"),
        ("Is there a hypodense liver lesion in the left lobe?", "No.", "side"),
        ("Is there a hypodense liver lesion in the right lobe?", "Yes.", "side"),
        ("What is seen in the pleura?", "No pleural effusion.", "region"),
        ("Describe the pleura.", "No pleural effusion.", "region"),
        ("Does this CT show a lung nodule?", "Yes, in the right middle lobe.", "presence"),
        ("Is there splenomegaly?", "No.", "presence"),
    ]
    entries = ask_questions(draw_case(17), 8)
    assert [(entry["question"], entry["answer"], entry["kind"]) for entry in entries] == expected


def test_questions_are_of_every_kind_but_the_report(cases: list[PhantomCase]) -> None:
    kinds = {entry["kind"] for case in cases[:50] for entry in ask_questions(case, 8)}
    assert kinds == set(QUESTION_KINDS) - {"report"}


def check_answer(case: PhantomCase, question: str, answer: str) -> None:
    """Check a finding's answer against the labels, with words of the question and answer only."""
    lowered = question.lower().replace("aneurysm of the abdominal aorta", "aortic aneurysm")
    kind = next((kind for kind in FINDING_KINDS if kind in lowered), None)
    if kind is None:
        assert parse_findings(answer) == sorted(set(parse_findings(answer)) & set(case.labels))
        return
    labels = [label for label in case.labels if label.partition(", ")[0] == kind]
    if question.startswith("Where"):
        places = answer.lower().strip(".").split(" and ")
        assert sorted(f"{kind}, {place}" for place in places) == sorted(labels)
    elif question.startswith("How large"):
        assert len(labels) == 1
    else:
        asked = [label for label in FINDING_LABELS if label.startswith(kind)]
        place = lowered.split(kind)[1].strip(" ?").removeprefix("in the ").removeprefix("on the ")
        if place:
            asked = [label for label in asked if label.endswith(place)]
            assert len(asked) == 1
        there = [label for label in asked if label in case.labels]
        assert answer.startswith("Yes" if there else "No."), (question, answer, labels)
        if there and not place:
            assert all(label.partition(", ")[2] in answer for label in there)


@pytest.mark.parametrize("kind", ["presence", "side"])
def test_yes_and_no_are_balanced(cases: list[PhantomCase], kind: str) -> None:
    answers = [
        entry["answer"].startswith("Yes")
        for case in cases
        if case.findings
        for entry in ask_questions(case, 12)
        if entry["kind"] == kind
    ]
    assert 0.43 < sum(answers) / len(answers) < 0.57


def test_a_finding_is_also_asked_for_where_it_is_not(cases: list[PhantomCase]) -> None:
    answers: dict[str, list[str]] = {}
    for case in cases:
        for entry in ask_questions(case, 30):
            if entry["kind"] == "side":
                name = re.split(r" (?:on|in) the (?=right|left|thoracic|lumbar)", entry["question"])[0]
                answers.setdefault(f"{case.number} {name}", []).append(entry["answer"])
    there = [given for given in answers.values() if "Yes." in given]
    assert len(there) > 100
    assert sum("No." in given for given in there) > 0.9 * len(there)


def test_too_many_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="ask for fewer"):
        ask_questions(draw_case(3), 1000)


def test_grammar_texts() -> None:
    texts = grammar_texts(20, seed=1)
    assert texts == grammar_texts(20, seed=1)
    assert texts != grammar_texts(20, seed=2)
    assert set(REPORT_QUESTIONS) <= set(texts)
    assert sum(text.startswith("FINDINGS:") for text in texts) == 20
