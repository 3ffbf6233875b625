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

from monai_u2.judges import SIGNIFICANT_ERRORS, parse_green

NAMES = (
    "False report of a finding in the candidate",
    "Missing a finding present in the reference",
    "Misidentification of a finding's anatomic location/position",
    "Misassessment of the severity of a finding",
    "Mentioning a comparison that isn't in the reference",
    "Omitting a comparison detailing a change from a prior study",
)


def errors(*values: str, names: tuple[str, ...] = NAMES) -> str:
    return "\n".join(f"({letter}) {name}: {value}" for letter, name, value in zip("abcdef", names, values))


NO_ERRORS = errors(*["0."] * 6)


def text(
    significant: str | None = NO_ERRORS,
    insignificant: str | None = NO_ERRORS,
    matched: str | None = "0.",
    explanation: str | None = "Both reports agree.",
) -> str:
    sections = {
        "Explanation": explanation,
        "Clinically Significant Errors": significant,
        "Clinically Insignificant Errors": insignificant,
        "Matched Findings": matched,
    }
    return "\n\n".join(f"[{name}]:\n{content}" for name, content in sections.items() if content is not None)


WELL_FORMED = {
    "nothing": (text(), [0, 0, 0, 0, 0, 0], 0, 0),
    "counts and findings": (
        text(
            errors("1. Effusion.", "2. Nodule; No pneumothorax.", "0.", "1. Mild, not severe.", "0.", "3. a; b; c"),
            errors("0.", "1. Granuloma.", "0.", "0.", "1. Since May.", "0."),
            "3. Clear lungs; Normal heart; No fracture.",
        ),
        [1, 2, 0, 1, 0, 3],
        2,
        3,
    ),
    "counts alone": (text(errors("0", "2", "0", "0", "0", "0"), matched="4"), [0, 2, 0, 0, 0, 0], 0, 4),
    "count and noun": (
        text(errors("1 error: x", "2 errors", *["0."] * 4), matched="3 findings"),
        [1, 2, 0, 0, 0, 0],
        0,
        3,
    ),
    "count, adjective and noun": (text(matched="2 matched findings: a; b"), [0] * 6, 0, 2),
    "some kinds only": (
        text("(b) Missing: 1. Rib fractures.\n(e) Comparison: 1. CT.", "None."),
        [0, 1, 0, 0, 1, 0],
        0,
        0,
    ),
    "kinds in another order": (text("(c) Location: 2. a; b\n(a) False: 1. c"), [1, 0, 2, 0, 0, 0], 0, 0),
    "digits instead of letters": (text("(1) False: 1. a\n(6) Omitted: 2. b; c"), [1, 0, 0, 0, 0, 2], 0, 0),
    "all on one line": (text(errors("1. a", *["0."] * 5).replace("\n", " ")), [1, 0, 0, 0, 0, 0], 0, 0),
    "words for no errors": (text("No clinically significant errors.", "None identified.", "1. a"), [0] * 6, 0, 1),
    "a kind without errors": (text(errors("None.", "No errors", *["0."] * 4)), [0] * 6, 0, 0),
    "no matched findings": (text(matched="None."), [0] * 6, 0, 0),
    "numbers inside a list": (text(matched="2. 1) Clear lungs; 2) Normal heart"), [0] * 6, 0, 2),
    "numbered lines without a count": (
        text(errors("0.", "\n1. Effusion\n2. Nodule; small", *["0."] * 4), matched="1. Lungs\n2. Heart\n3. Spleen"),
        [0, 2, 0, 0, 0, 0],
        0,
        3,
    ),
    "numbered lines below a count": (text(matched="3.\n1. Lungs\n2. Heart\n3. Spleen"), [0] * 6, 0, 3),
    "numbered lines below a count and noun": (text(matched="2 findings:\n1. Lungs\n2. Heart"), [0] * 6, 0, 2),
    "decimals inside a list": (text(matched="2. 1.5 cm nodule; 2.5 cm cyst"), [0] * 6, 0, 2),
    "a blank line inside a section": (text(errors("1. a", "1. b\n", *["0."] * 4)), [1, 1, 0, 0, 0, 0], 0, 0),
    "markdown and control tokens": (
        "```\n" + text().replace("[Matched Findings]:", "**[Matched Findings]:**") + "\n```</s>",
        [0] * 6,
        0,
        0,
    ),
    "Windows line ends": (text(matched="1. a").replace("\n", "\r\n"), [0] * 6, 0, 1),
    "headers in capitals": (text(matched="1. a").replace("[Matched Findings]:", "[MATCHED FINDINGS]"), [0] * 6, 0, 1),
    "explanation without its header": (text(explanation=None, matched="1. a"), [0] * 6, 0, 1),
    "German": (
        text(
            errors(
                "0.", "1. Pleuraerguss rechts", *["0."] * 4, names=("Falscher Befund", "Fehlender Befund", *NAMES[2:])
            ),
            "None.",
            "2. Unauffällige Leber; kein Aneurysma",
            "Der Erguss fehlt.",
        ),
        [0, 1, 0, 0, 0, 0],
        0,
        2,
    ),
    "Chinese": (
        text(
            "(a) 候选报告中的错误发现：1。右侧胸腔积液\n(b) 遗漏：2。结节；囊肿",
            "(a) 错误：0。",
            "1。心脏正常",
            "漏诊。",
        ),
        [1, 2, 0, 0, 0, 0],
        0,
        1,
    ),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed(name: str) -> None:
    content, significant, insignificant, matched = WELL_FORMED[name]
    found = parse_green(content)
    assert found.status == "ok", found.explanation
    assert [getattr(found, kind) for kind in SIGNIFICANT_ERRORS] == significant
    assert (found.insignificant, found.matched) == (insignificant, matched)


def test_the_explanation_is_kept() -> None:
    assert parse_green(text(explanation="The effusion is missing.\nThe rest agrees.")).explanation == (
        "The effusion is missing.\nThe rest agrees."
    )
    bare = parse_green(": The effusion is missing.\n\n" + text(explanation=None))
    assert bare.explanation == "The effusion is missing."


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (text(matched=None), "truncated"),
        (text(matched=""), "truncated"),
        (text(insignificant=None, matched=None), "truncated"),
        (text(significant="(a) False report: 1. Effu", insignificant=None, matched=None), "truncated"),
        (text(significant=None, insignificant=None, matched=None), "truncated"),
        ("", "unparsable"),
        ("The reports agree.", "unparsable"),
        (text(significant=None), "unparsable"),
        (text(insignificant=None), "unparsable"),
        (text(significant=""), "unparsable"),
        (text() + "\n\n" + text(), "unparsable"),
        (text(significant="Two findings are missing."), "unparsable"),
        (text(significant="1.\n" + NO_ERRORS), "unparsable"),
        (text(significant="(a) False report: two"), "unparsable"),
        (text(significant="(a) False report: 1. a\n(a) False report: 1. b"), "unparsable"),
        (text(significant="(a) False report: 0.\n(b) Missing a finding 2. x; y"), "unparsable"),
        (text(significant="(a) False report: "), "unparsable"),
        (text(matched="Clear lungs; normal heart"), "unparsable"),
        (text(matched="No pneumothorax; no effusion"), "unparsable"),
        (text(matched="2.5 cm nodule"), "unparsable"),
        (text(matched="2 cm nodule"), "unparsable"),
        (text(matched="-1. a"), "unparsable"),
    ],
)
def test_what_cannot_be_read_has_no_score(content: str, status: str) -> None:
    found = parse_green(content)
    assert found.status == status and found.score is None and found.explanation


def test_a_text_cut_anywhere_before_the_last_section_is_no_judgement() -> None:
    whole = text(errors("1. a", *["0."] * 5), matched="2. x; y")
    end = whole.index("2. x; y")
    assert {parse_green(whole[:length]).status for length in range(end)} <= {"truncated", "unparsable"}
