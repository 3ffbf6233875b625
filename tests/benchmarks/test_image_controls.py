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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import image_controls as image_controls_module
import numpy as np
import pytest
import torch
from image_controls import best_constant, generate, image_controls
from monai.bundle import ConfigParser


def test_every_control_has_its_row(
    tiny_bundle: Path,
    phantoms: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, list[torch.Tensor]] = {}

    def generate_and_note(
        parser: ConfigParser, cases: list[dict[str, Any]], batch_size: int, name: str
    ) -> Iterator[str]:
        seen[name] = [case["image"] for case in cases]
        return generate(parser, cases, batch_size, name)

    monkeypatch.setattr(image_controls_module, "generate", generate_and_note)
    output = tmp_path / "figures.json"
    blind = str(tiny_bundle / "models" / "model.pt")  # the same weights: what it must write is known
    image_controls(str(phantoms["test"]), str(tiny_bundle), output=str(output), batch_size=2, blind_checkpoint=blind)
    figures = json.loads(output.read_text())
    assert figures["cases"] == 2
    assert list(figures["table"]) == [
        "model",
        "images shuffled",
        "images zeroed",
        "trained with images zeroed",
        "most frequent report",
        "same findings for all",
    ]
    first, second = seen["model"]
    assert not torch.equal(first[:1], second[:1])
    assert torch.equal(seen["images shuffled"][0], second) and torch.equal(seen["images shuffled"][1], first)
    for name in ("images zeroed", "trained with images zeroed"):
        assert [image.shape for image in seen[name]] == [first.shape, second.shape]
        assert not any(image.any() for image in seen[name])
    reports = figures["reports"]
    assert all(len(texts) == 2 for texts in reports.values())
    assert reports["trained with images zeroed"] == reports["images zeroed"]
    assert "| trained with images zeroed |" in capsys.readouterr().out


def test_best_constant_names_the_most_frequent_findings() -> None:
    truth = np.zeros((10, 3), dtype=bool)
    truth[:9, 1] = truth[:2, 0] = True
    assert best_constant(truth).tolist() == [[False, True, False]] * 10


def test_without_blind_model_its_row_is_left_out(
    tiny_bundle: Path, phantoms: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    image_controls(str(phantoms["test"]), str(tiny_bundle), batch_size=2)
    table = capsys.readouterr().out
    assert "| images zeroed |" in table and "trained with images zeroed" not in table
