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
from image_controls import image_controls

from monai_u2.data.phantom import FINDING_LABELS


def test_every_control_has_its_row(
    tiny_bundle: Path, phantoms: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figures.json"
    blind = str(tiny_bundle / "models" / "model.pt")  # the same weights: what it must write is known
    image_controls(str(phantoms["test"]), str(tiny_bundle), output=str(output), batch_size=2, blind_checkpoint=blind)
    figures = json.loads(output.read_text())
    assert figures["cases"] == 2
    assert set(figures["table"]) == {
        "model",
        "images shuffled",
        "images zeroed",
        "trained with images zeroed",
        "most frequent report",
        "same findings for all",
    }
    reports = figures["reports"]
    assert all(len(texts) == 2 for texts in reports.values())
    assert reports["trained with images zeroed"] == reports["images zeroed"]
    assert len(figures["findings"]) <= len(FINDING_LABELS) + 1
    assert "| trained with images zeroed |" in capsys.readouterr().out


def test_without_blind_model_its_row_is_left_out(
    tiny_bundle: Path, phantoms: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    image_controls(str(phantoms["test"]), str(tiny_bundle), batch_size=2)
    table = capsys.readouterr().out
    assert "| images zeroed |" in table and "trained with images zeroed" not in table
