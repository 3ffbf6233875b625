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

"""Numbered lines and citations."""

from __future__ import annotations

import pytest

from monai_u2.data.phantom import draw_case, write_report
from monai_u2.synthesis.report_lines import numbered_text, split_report, split_statements, without_citations


def test_sentences_are_lines_and_headings_their_section() -> None:
    report = "FINDINGS:\nLungs: A 1.5 cm nodule. No effusion!\n\nImpression: 1. Nodule, approx. 15 mm.\n2. Follow-up?"
    lines = split_report(report)
    assert [(line.number, line.section, line.text) for line in lines] == [
        (1, "findings", "Lungs: A 1.5 cm nodule."),
        (2, "findings", "No effusion!"),
        (3, "impression", "1. Nodule, approx. 15 mm."),
        (4, "impression", "2. Follow-up?"),
    ]
    assert numbered_text(lines).splitlines()[1] == "[2] No effusion!"


def test_chinese_sentences() -> None:
    assert [line.text for line in split_report("影像所见：右肺上叶见结节。未见胸腔积液。")] == [
        "右肺上叶见结节。",
        "未见胸腔积液。",
    ]


def test_no_word_of_a_phantom_report_is_lost() -> None:
    for number in range(30):
        report = write_report(draw_case(number)).text
        kept = " ".join(line.text for line in split_report(report))
        assert kept.split() == report.replace("FINDINGS:", "").replace("IMPRESSION:", "").split()


@pytest.mark.parametrize("report", ["", " \n", "FINDINGS:\n", "...\n-"])
def test_empty_reports_have_no_line(report: str) -> None:
    assert split_report(report) == []


def test_statements_and_what_they_cite() -> None:
    text = "A nodule [3]. An effusion. [1, 3] [2] Nothing.\nA mass [2-4]. See [a]."
    statements = split_statements(text)
    assert [(s.text, s.cited, s.malformed) for s in statements] == [
        ("A nodule.", (3,), False),
        ("An effusion.", (1, 3, 2), False),
        ("Nothing.", (), False),
        ("A mass.", (), True),
        ("See.", (), False),
    ]
    assert without_citations("A nodule [3], see [a].\nB [1, 2].") == "A nodule, see [a].\nB."
