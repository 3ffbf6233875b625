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

import json
from pathlib import Path

import pytest
from question_controls import (
    SIDE_NAMES,
    SIDES,
    case_questions,
    is_about,
    question_controls,
    region_question,
    score,
    side_question,
    to_markdown,
)

from monai_u2.data import group_by_image
from monai_u2.data.phantom import ask_questions, draw_case, write_report
from monai_u2.data.phantom.dataset import case_records
from monai_u2.data.phantom.report import REGIONS

NUMBERS = range(200_000, 200_030)


@pytest.fixture(scope="module")
def cases() -> list[dict]:
    return group_by_image(record for number in NUMBERS for record in case_records(number, 8))


def true_answers(case: dict) -> dict[str, str]:
    """Answers from the truth alone."""
    report = write_report(draw_case(case["case"]))
    answers = {region_question(region): report.region_text(region) for region in REGIONS}
    for kind in SIDE_NAMES:
        for side in SIDES:
            answers[side_question(kind, side)] = "Yes." if f"{kind}, {side}" in case["findings"] else "No."
    return answers | {entry["question"]: entry["answer"] for entry in case["conversations"]}


def test_true_answers_score_one_and_swapped_ones_do_not(cases: list[dict]) -> None:
    scores = score(cases, [true_answers(case) for case in cases])
    own, other, difference, nothing = (
        scores["regions"][row]
        for row in (
            "the region's own question",
            "another region's question",
            "difference of the first two",
            "no finding in any region",
        )
    )
    perfect = {"value": 1.0, "low": 1.0, "high": 1.0}
    assert own == {"all": perfect, "with findings": perfect, "about": perfect}
    # no finding belongs to two regions, but "nothing there" is right for many
    assert other["with findings"]["value"] == 0 and other["about"]["value"] == 0
    assert 0 < other["all"]["value"] < nothing["all"]["value"] < 1
    assert difference["all"]["value"] == pytest.approx(1 - other["all"]["value"])
    assert difference["all"]["low"] > 0
    for row in scores["sides"].values():
        assert row["accuracy"] == row["both"] == perfect
        assert row["exchanged accuracy"]["value"] == row["exchanged both"]["value"] == 0
    assert scores["sides"]["all"]["count"] == sum(scores["sides"][kind]["count"] for kind in SIDE_NAMES)
    assert sorted(scores["records"]) == ["location", "presence", "side", "size"]
    for row in scores["records"].values():
        assert row["accuracy"] == perfect and row["majority"]["accuracy"] < 1
    assert scores["records"]["presence"]["balanced"] == scores["records"]["side"]["balanced"] == perfect
    assert f"| the region's own question {'| 1.000 (1.000–1.000) ' * 3}|" in to_markdown(scores)


def test_a_constant_answer_scores_like_the_controls(cases: list[dict]) -> None:
    constant = "No pleural effusion."
    scores = score(cases, [dict.fromkeys(true_answers(case), constant) for case in cases])
    own, other = (scores["regions"][f"{whose} question"] for whose in ("the region's own", "another region's"))
    assert own["all"]["value"] == pytest.approx(other["all"]["value"])
    assert own["all"]["value"] == pytest.approx(scores["regions"]["no finding in any region"]["all"]["value"])
    assert own["with findings"]["value"] == 0
    assert own["about"]["value"] == pytest.approx(1 / len(REGIONS))
    for row in scores["sides"].values():
        assert row["accuracy"]["value"] == row["exchanged accuracy"]["value"] == 0.5
        assert row["both"]["value"] == row["exchanged both"]["value"] == 0
    assert scores["records"]["presence"]["balanced"]["value"] == 0.5
    for row in scores["records"].values():
        assert row["accuracy"]["value"] < 1


def test_left_and_right_mixed_up(cases: list[dict]) -> None:
    mixed = {side_question(kind, a): side_question(kind, b) for kind in SIDE_NAMES for a, b in (SIDES, SIDES[::-1])}
    answers = []
    for case in cases:
        true = true_answers(case)
        answers.append({question: true[mixed.get(question, question)] for question in true})
    row = score(cases, answers)["sides"]["all"]
    assert row["accuracy"]["value"] == row["both"]["value"] == 0
    assert row["exchanged accuracy"]["value"] == row["exchanged both"]["value"] == 1


def test_is_about() -> None:
    assert is_about("There is a 35 mm nodule in the right upper lobe.", "Lungs")
    assert is_about("The heart is enlarged. The aorta is normal in caliber.", "Heart and vessels")
    assert not is_about("The heart is enlarged. The aorta is normal in caliber.", "Lungs")
    assert not is_about("The aorta is normal in caliber. The lungs are clear.", "Lungs")
    assert not is_about("Nodule.", "Lungs")
    assert not is_about("", "Lungs")


def test_questions_are_worded_as_in_training() -> None:
    asked = {entry["question"] for number in range(250) for entry in ask_questions(draw_case(number), 12)}
    assert {region_question(region) for region in REGIONS} <= asked
    assert {side_question(kind, side) for kind in SIDE_NAMES for side in SIDES} <= asked


def test_a_model_is_asked_all_questions(
    tiny_bundle: Path,
    phantoms: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from monai_u2.data import load_records
    from monai_u2.networks.u2_model import U2Model

    encoded = []
    original = U2Model.encode_image
    monkeypatch.setattr(
        U2Model, "encode_image", lambda self, image, *args: encoded.append(len(image)) or original(self, image, *args)
    )
    question_controls(str(phantoms["test"]), bundle=str(tiny_bundle), output=str(tmp_path / "scores.json"))
    assert encoded == [1, 1]  # each volume once for all its questions
    content = json.loads((tmp_path / "scores.json").read_text())
    cases = group_by_image(load_records(phantoms["test"]))
    assert [list(answers) for answers in content["answers"]] == [case_questions(case) for case in cases]
    assert content["regions"]["the region's own question"]["about"]["value"] < 1  # random weights
    assert "| the region's own question |" in capsys.readouterr().out
