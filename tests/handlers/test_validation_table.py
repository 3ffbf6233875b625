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
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from monai_u2.handlers import ValidationTable

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
    assert (
        "validation of 3 cases at epoch 2, 2 distinct reports, 1 cut off" in caplog.text and "report 1" in caplog.text
    )
