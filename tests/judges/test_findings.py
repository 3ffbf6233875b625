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

import functools
from dataclasses import asdict
from typing import Any

import pytest

from monai_u2.data.phantom import FINDING_LABELS, draw_case, parse_findings, write_report
from monai_u2.exceptions import InputError
from monai_u2.judges import FindingList, FindingsJudge

JUDGE = FindingsJudge(parse_findings)
COUNTS = (
    "matched",
    "false_finding",
    "missing_finding",
    "wrong_location",
    "wrong_severity",
    "unfounded_comparison",
    "omitted_comparison",
    "insignificant",
)


@pytest.mark.parametrize(
    ("reference", "candidate", "counts"),
    [
        ("Right pleural effusion.", "A pleural effusion is seen on the right.", {"matched": 1}),
        ("Right pleural effusion.", "Left pleural effusion.", {"wrong_location": 1}),
        ("Right pleural effusion.", "No pleural effusion.", {"missing_finding": 1}),
        ("No pleural effusion.", "Right pleural effusion.", {"false_finding": 1}),
        ("Cardiomegaly.", "Splenomegaly.", {"false_finding": 1, "missing_finding": 1}),
        ("Bilateral pleural effusions.", "Left pleural effusion.", {"matched": 1, "missing_finding": 1}),
        ("Left pleural effusion.", "Bilateral pleural effusions.", {"matched": 1, "false_finding": 1}),
        (
            "Nodule in the right upper lobe. Nodule in the right lower lobe.",
            "Nodule in the left upper lobe.",
            {"wrong_location": 1, "missing_finding": 1},
        ),
        (
            "Nodule in the right upper lobe.",
            "Nodules in the left upper lobe and left lower lobe.",
            {"wrong_location": 1, "false_finding": 1},
        ),
        ("Normal CT of the chest and abdomen.", "The lungs are clear.", {"matched": 1}),
        ("Normal CT of the chest and abdomen.", "", {}),
        ("Cardiomegaly.", "", {"missing_finding": 1}),
        (
            "There is a 20 mm nodule in the right upper lobe.",
            "There is a 30 mm nodule in the right upper lobe.",
            {"matched": 1, "wrong_severity": 1},
        ),
        (
            "There is a 20 mm nodule in the right upper lobe.",
            "A 2.5 cm nodule is seen in the right upper lobe.",
            {"matched": 1, "insignificant": 1},
        ),
        (
            "There is a 20 mm nodule in the right upper lobe.",
            "A 2 x 1.5 cm nodule is seen in the right upper lobe.",
            {"matched": 1},
        ),
        ("A small right pleural effusion.", "A large right pleural effusion.", {"matched": 1, "wrong_severity": 1}),
        ("A small right pleural effusion.", "A mild right pleural effusion.", {"matched": 1}),
        ("A small right pleural effusion.", "A right pleural effusion.", {"matched": 1}),
        ("A small to moderate right pleural effusion.", "A large right pleural effusion.", {"matched": 1}),
        (
            "A 10 mm stone in the left kidney, before 5 mm.",
            "A 30 mm stone in the left kidney.",
            {"matched": 1},
        ),
        (
            "A 10 mm stone and a 20 mm cyst in the left kidney.",
            "A 30 mm stone in the left kidney.",
            {"matched": 1, "missing_finding": 1},
        ),
    ],
)
def test_counts(reference: str, candidate: str, counts: dict[str, int]) -> None:
    errors = asdict(JUDGE(reference, candidate))
    assert {name: errors[name] for name in COUNTS} == {name: counts.get(name, 0) for name in COUNTS}
    assert errors["status"] == "ok" and errors["judge"] == "findings" and errors["judge_version"] == JUDGE.version


def test_every_phantom_report_has_a_full_score_against_itself() -> None:
    reports = [write_report(draw_case(number)).text for number in range(100)]
    assert {errors.score for errors in JUDGE.batch(reports, reports)} == {1.0}


def test_sides_of_a_phantom_report_are_told_apart() -> None:
    number = next(n for n in range(100) if draw_case(n).labels == ["pleural effusion, right"])
    report = write_report(draw_case(number)).text
    errors = JUDGE(report, report.replace("right", "left"))
    assert errors.wrong_location == 1 and errors.score == 0.0
    assert errors.explanation == "wrong location: pleural effusion, left instead of pleural effusion, right"


def test_a_list_of_labels_in_place_of_a_parser() -> None:
    judge = FindingsJudge(labels=FINDING_LABELS)
    errors = judge("Right pleural effusion. Cardiomegaly.", "Left pleural effusion with cardiomegaly.")
    assert (errors.matched, errors.wrong_location, errors.score) == (1, 1, 0.5)


def test_the_version_tells_rules_apart() -> None:
    judges = [JUDGE, FindingsJudge(labels=["cyst"]), FindingsJudge(labels=["stone"])]
    judges.append(FindingsJudge(parse_findings, size_tolerance=0.5))
    assert len({judge.version for judge in judges}) == 4
    assert FindingsJudge(parse_findings).version == JUDGE.version


def test_the_version_tells_parsers_apart() -> None:
    nodule, effusion = FindingList(["nodule"]), FindingList(["pleural effusion, right"])

    def mine(text: str) -> list[str]:
        return [text]

    first = mine

    def mine(text: str) -> list[str]:
        return [text.lower()]

    parsers = (
        nodule,
        effusion,
        functools.partial(str.split, sep="a"),
        functools.partial(str.split, sep="b"),
        first,
        mine,
    )
    assert len({FindingsJudge(parser).version for parser in parsers}) == len(parsers)
    assert FindingsJudge(FindingList(["nodule"])).version == FindingsJudge(labels=["nodule"]).version
    assert FindingsJudge(parse_findings).version == FindingsJudge(parse_findings).version


@pytest.mark.parametrize("arguments", [{}, {"parser": parse_findings, "labels": ["cyst"]}])
def test_a_parser_or_a_list(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="a parser (nor|and) a list of labels; expected one of them"):
        FindingsJudge(**arguments)


def test_references_without_a_finding_say_nothing() -> None:
    assert JUDGE.reason_not_to_judge(["Normal CT of the chest.", "Cardiomegaly."]) is None
    assert JUDGE.reason_not_to_judge(["Normal CT of the chest."] * 2).startswith(
        "the judge reads no finding in any of 2 references"
    )
