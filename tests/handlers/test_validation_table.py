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
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from monai_u2.handlers import ValidationTable
from monai_u2.processes import process_index

LABELS = ["nodule, right", "nodule, left", "cyst"]


def test_counts_and_examples(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predicted = [[1.0, 0, 0], [1, 0, 0], [0, 0, 1]]
    reference = [[1.0, 0, 0], [0, 1, 0], [0, 0, 0]]

    def step(engine: Engine, index: int) -> list[dict[str, object]]:
        engine.state.batch = [{"answer": f"reference {index}"}]
        return [
            {
                "report": f"report {min(index, 1)}",
                "report_whole": index != 2,
                "report_findings": torch.tensor(predicted[index]),
                "reference_findings": torch.tensor(reference[index]),
            }
        ]

    engine = Engine(step)
    ValidationTable(LABELS, tmp_path, num_examples=2).attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([0, 1, 2], max_epochs=2)
    summary = json.loads((tmp_path / "validation.json").read_text())
    assert summary["cases"] == 3 and summary["distinct_reports"] == 2
    rows = {row["finding"]: row for row in summary["findings"]}
    assert rows["nodule"]["f1"] == pytest.approx(0.5)
    assert rows["cyst"]["named"] == 1 and rows["cyst"]["f1"] == 0.0
    assert summary["micro_f1"] == rows["all"]["f1"] == pytest.approx(2 / 5)
    assert [example["reference"] for example in summary["examples"]] == ["reference 0", "reference 1"]
    assert summary["epoch"] == 2 and summary["cut_off_reports"] == 1
    assert "validation of 3 cases at epoch 2, 2 distinct reports, 1 cut off" in caplog.text
    assert "reference 0" not in caplog.text and "report 0" not in caplog.text  # patients' reports stay out of logs


def test_without_finding_labels_reports_alone_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def step(engine: Engine, index: int) -> list[dict[str, object]]:
        engine.state.batch = [{"answer": f"reference {index}"}]
        return [{"report": "same", "report_whole": True}]

    engine = Engine(step)
    ValidationTable([], tmp_path, num_examples=1).attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([0, 1])
    summary = json.loads((tmp_path / "validation.json").read_text())
    assert summary == {
        "epoch": 1,
        "cases": 2,
        "distinct_reports": 1,
        "cut_off_reports": 0,
        "examples": [{"reference": "reference 0", "report": "same"}],
    }
    assert "validation of 2 cases at epoch 1, 1 distinct reports" in caplog.text and "precision" not in caplog.text


def validate_share(folder: Path) -> bool:
    """Cases 0 and 2 in the first process, 1 in the second."""

    def step(engine: Engine, index: int) -> list[dict[str, object]]:
        engine.state.batch = [{"answer": f"reference {index}"}]
        findings = torch.tensor([1.0, 0, float(index == 1)])
        return [{"report": "same", "report_whole": False, "report_findings": findings, "reference_findings": findings}]

    engine = Engine(step)
    own = folder / str(process_index())
    ValidationTable(LABELS, own, num_examples=3).attach(engine)
    engine.run([1] if process_index() else [0, 2])
    return (own / "validation.json").exists()


def test_the_first_process_writes_the_table_of_all(in_processes: Callable[..., list[Any]], tmp_path: Path) -> None:
    assert in_processes(2, validate_share, tmp_path) == [True, False]
    summary = json.loads((tmp_path / "0" / "validation.json").read_text())
    assert summary["cases"] == 3 and summary["distinct_reports"] == 1 and summary["cut_off_reports"] == 3
    assert {row["finding"]: row["present"] for row in summary["findings"]} == {"nodule": 3, "cyst": 1, "all": 4}
    assert [example["reference"][-1] for example in summary["examples"]] == ["0", "2", "1"]
