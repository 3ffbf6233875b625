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

import pytest

from monai_u2.data.phantom import draw_case, parse_findings, write_report
from monai_u2.evaluation.marked_report import Mark, mark_report
from monai_u2.exceptions import InputError

REPORT = """FINDINGS:
Lungs: There is a 20 mm nodule in the right upper lobe. A 3.5 cm nodule is seen in the left lower lobe.
Pleura: No pleural effusion.
IMPRESSION:
Nodule in the right upper lobe. Cardiomegaly."""
RIGHT, LEFT = "lung nodule, right upper lobe", "lung nodule, left lower lobe"


def marks(wrong: str) -> dict[str, tuple[Mark, ...]]:
    counted = parse_findings(REPORT)
    assert counted == [LEFT, RIGHT]
    lines = mark_report(REPORT, parse_findings, counted=counted, other=[RIGHT, "cardiomegaly"], wrong=wrong)
    return {sentence.text.strip(): sentence.marks for line in lines for sentence in line}


@pytest.mark.parametrize("wrong", ["missed", "false"])
def test_sentences_get_the_marks_of_their_findings(wrong: str) -> None:
    found = marks(wrong)
    assert found["There is a 20 mm nodule in the right upper lobe."] == (Mark("matched", RIGHT),)
    assert found["A 3.5 cm nodule is seen in the left lower lobe."] == (Mark(wrong, LEFT),)
    assert found["No pleural effusion."] == ()
    assert found["Nodule in the right upper lobe."] == (Mark("matched", RIGHT),)


def test_a_finding_outside_of_the_scored_part_is_uncounted() -> None:
    assert marks("false")["Cardiomegaly."] == (Mark("uncounted", "cardiomegaly"),)


@pytest.mark.parametrize(
    "text", [REPORT, write_report(draw_case(3)).text, "no end", "a\n\nb. c?! d", "", "3.5 cm. 2. x"]
)
def test_no_character_is_lost(text: str) -> None:
    lines = ["".join(sentence.heading + sentence.text for sentence in line) for line in mark_report(text)]
    assert lines == text.splitlines()


def test_headings_are_those_at_the_start_of_a_line() -> None:
    line = mark_report("Heart and vessels: Normal. Aorta: wide.")[0]
    assert [sentence.heading for sentence in line] == ["Heart and vessels:", ""]


def test_unknown_wrong_is_refused() -> None:
    with pytest.raises(InputError, match="'absent'; expected one of missed, false"):
        mark_report(REPORT, wrong="absent")
