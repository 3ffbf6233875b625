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

"""The evaluator around a generator whose answers are given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from monai.data import Dataset
from monai.transforms import Compose, Lambda, ScaleIntensityRange
from transformers import PreTrainedConfig

from monai_u2.data.text_tokenizer import train_text_tokenizer
from monai_u2.evaluation import ReportEvaluator, ReportScorer
from monai_u2.evaluation.results import Evaluation
from monai_u2.exceptions import InputError


@dataclasses.dataclass
class Generator:
    """Answers as told: case -> text."""

    cases: list[dict[str, Any]]
    answers: dict[str, str]
    output_dir: Path
    passes = ("model",)
    settings = {"seed": 0}
    device = "cpu"

    network: Any = dataclasses.field(default_factory=lambda: SimpleNamespace(config=PreTrainedConfig(pad_token_id=0)))
    tokenizer: Any = dataclasses.field(default_factory=lambda: train_text_tokenizer(["a lung"], 270))
    dataset: Any = dataclasses.field(default_factory=lambda: Dataset([], ScaleIntensityRange(-1000.0, 400.0)))

    def __post_init__(self) -> None:
        self.left_out: dict[str, str] = {}

    def run(self) -> dict[str, dict[str, Any]]:
        answers = {case: {"text": text, "whole": True, "tokens": 1} for case, text in self.answers.items()}
        return {case: {"passes": {"model": answer}, "seconds": 1.0} for case, answer in answers.items()}


@pytest.fixture
def asked(references: list[dict[str, Any]], tmp_path: Path) -> Generator:
    """Four images: a report of each, two questions about the first two and one about the third; all answered right."""
    questions = [
        (0, "Left?", "Yes."),
        (0, "Right?", "No."),
        (1, "Left?", "No."),
        (1, "Right?", "Yes."),
        (2, "?", "No."),
    ]
    cases = [
        {"id": entry["id"], "image": str(place), "kind": "report", "question": "?", "reference": entry["report"]}
        for place, entry in enumerate(references[:4])
    ]
    for number, (image, question, answer) in enumerate(questions):
        told = {"id": f"q{number}", "image": str(image), "kind": "side", "question": question, "reference": answer}
        cases.append(told)
    for case in cases:
        case["patient"] = case["image"]
    return Generator(cases, {case["id"]: case["reference"] for case in cases}, tmp_path / "out")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Records and weights, for their hashes alone."""
    paths = tmp_path / "records.jsonl", tmp_path / "model.pt"
    for path in paths:
        path.write_text(path.name)
    return paths


def evaluated(generator: Generator, scorer: ReportScorer, files: tuple[Path, Path], **options: Any) -> Evaluation:
    return ReportEvaluator(generator, scorer, *files, **options).run()


def test_swapped_questions_are_scored_where_there_is_another(
    asked: Generator, scorer: ReportScorer, files: tuple[Path, Path]
) -> None:
    evaluation = evaluated(asked, scorer, files, controls=["swapped_questions"])
    model, control, _ = evaluation.metrics["runs"]
    assert {"green", "micro_f1", "crg"} <= model["metrics"].keys()
    assert control["metrics"].keys() == control["difference"].keys()
    assert not {"green", "micro_f1", "macro_f1", "crg"} & control["metrics"].keys()
    assert control["metrics"]["exact_answer"]["value"] == 0.0 and control["metrics"]["rougeL"]["value"] == 0.0
    assert control["difference"]["rougeL"]["difference"] == 1.0 and control["collapse"]["cases"] == 4
    assert [entry["id"] for entry in evaluation.predictions["swapped_questions"]] == ["q0", "q1", "q2", "q3"]
    assert "| green | 1.000 (1.000 to 1.000) | – |" in evaluation.table()
    page = (asked.output_dir / "evaluation.html").read_text()
    assert "over 4 of 9 cases" in page


def test_swapped_questions_without_a_reference_are_left_out(
    asked: Generator, scorer: ReportScorer, files: tuple[Path, Path]
) -> None:
    for case in asked.cases[4:]:
        case["reference"] = "Not given."
    evaluation = evaluated(asked, scorer, files, controls=["swapped_questions"])
    assert [run["name"] for run in evaluation.metrics["runs"]] == ["model", "references"]
    assert "no image has two questions" in (asked.output_dir / "generation.json").read_text()


CHANGES = {
    "network": SimpleNamespace(config=PreTrainedConfig(pad_token_id=3)),
    "tokenizer": train_text_tokenizer(["a heart"], 270),
    "transforms": Dataset([], Compose([ScaleIntensityRange(-1000.0, 500.0)])),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_what_reports_depend_on_is_told_apart(
    asked: Generator, scorer: ReportScorer, files: tuple[Path, Path], changed: str
) -> None:
    evaluated(asked, scorer, files, controls=[])
    again = dataclasses.replace(asked, tokenizer=train_text_tokenizer(["a lung"], 270))
    again.tokenizer(["a", "a lung"], padding=True)
    again.network.config = PreTrainedConfig(pad_token_id=0, name_or_path="elsewhere")
    evaluated(again, scorer, files, controls=[])
    other = dataclasses.replace(asked, **{{"transforms": "dataset"}.get(changed, changed): CHANGES[changed]})
    with pytest.raises(InputError, match=f"reports were made with another {changed}_sha256"):
        evaluated(other, scorer, files, controls=[])


def test_transforms_that_can_not_be_described_are_said(
    asked: Generator, scorer: ReportScorer, files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    asked.dataset = Dataset([], Lambda((number for number in ()).send))
    evaluated(asked, scorer, files, controls=[])
    assert "a change of the preprocessing would go unnoticed" in caplog.text
