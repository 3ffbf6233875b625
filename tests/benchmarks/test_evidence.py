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

import evidence as benchmark
import numpy as np
import pytest
import torch
from evidence import BLIND, CHANCE, DEFAULT, boxes, calibration, chance, evidence, exchanged, masked, pointing, rate
from scipy import ndimage

from monai_u2.data import load_text_tokenizer
from monai_u2.evidence import TokenGrid
from monai_u2.exceptions import InputError

GRID = TokenGrid(2, (2, 4, 4), (8, 8, 8), np.diag([5.0, 4.0, 4.0, 1.0]))  # tokens of 40, 32 and 32 mm


def test_pointing() -> None:
    lesion = np.array([[100.0, 60.0, 60.0], [104.0, 60.0, 60.0]])
    inside = pointing(lesion[0], lesion, GRID)
    assert inside == {"hit": 1, "half a token": 1, "to the lesion": 0, "to its middle": 2}
    assert pointing(lesion[0] + [-30, 0, 31], lesion, GRID)["hit"] == 1
    beside = pointing(lesion[0] + [-30, 0, 33], lesion, GRID)
    assert (beside["hit"], beside["half a token"]) == (0, 0)
    assert beside["to the lesion"] == pytest.approx(np.hypot(30, 33))


def test_chance_is_the_mean_over_the_body() -> None:
    rng = np.random.default_rng(0)
    body = np.zeros(GRID.fine_shape, bool)
    body[2:14, 3:13, 3:13] = True
    lesion = rng.uniform([60, 40, 40], [80, 60, 70], size=(50, 3))
    places = np.argwhere(body) @ GRID.fine_affine[:3, :3].T + GRID.fine_affine[:3, 3]
    one_by_one = [pointing(place, lesion, GRID) for place in places]
    for name, value in chance(body, lesion, GRID).items():
        assert value == pytest.approx(np.mean([row[name] for row in one_by_one]))


def test_masking_fills_one_box() -> None:
    image = torch.rand(2, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    body = np.ones(GRID.fine_shape, bool)
    weights = torch.zeros(2, 32)
    weights[1, 5] = 1.0  # third layer of tokens, second row and column
    best, other = boxes(body, weights, GRID, np.random.default_rng(0))
    assert all(start <= token < start + 2 for start, token in zip(best, (2, 1, 1)))
    assert np.abs(best - other).max() >= 2
    changed = (masked(image, best, GRID) != image).reshape(32, 32, 32).numpy()
    (box,) = ndimage.find_objects(changed.astype(int))
    assert box == tuple(slice(8 * start, 8 * start + 16) for start in best)


def test_sides_are_exchanged_in_one_sentence(bundle: Path) -> None:
    tokenizer = load_text_tokenizer(bundle / "models" / "text_tokenizer")
    report = "FINDINGS:\nKidneys: A stone in the left kidney. A cyst in the left kidney."
    reading = benchmark.Reading([], *[torch.zeros(1)] * 4, report, {}, 0.0)
    wrong = exchanged(reading, 19, report.index(" A cyst"), tokenizer)
    assert wrong.report == report.replace("left", "right", 1)
    assert tokenizer.decode(wrong.answer_ids.tolist(), skip_special_tokens=True) == wrong.report
    assert wrong.answer_ids[-1] == tokenizer.eos_token_id


def test_rates_and_calibration() -> None:
    assert rate([[1.0, 0.0], [], [1.0]])["value"] == pytest.approx(2 / 3)
    assert np.isnan(rate([[], []])["value"])
    rows = [{"confidence": c, "methods": {DEFAULT: {"hit": h}}} for c, h in ((0.1, 0), (0.9, 1), (0.95, 0), (1.0, 1))]
    low, high = calibration([{"pointing": rows}, {"pointing": []}])
    assert low == {"count": 1, "confidence": 0.1, "hits": 0}
    assert high["count"] == 3 and high["hits"] == pytest.approx(2 / 3)


def test_what_is_asked_for_is_checked() -> None:
    with pytest.raises(InputError, match="some of .*'integrated gradient' among them"):
        evidence(methods="occlusion")
    with pytest.raises(InputError, match="no such file; expected a training's model.pt"):
        evidence(blind_checkpoint="none.pt")


def test_the_shipped_model_on_two_cases(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, plot = tmp_path / "table.json", tmp_path / "plots" / "calibration.png"
    cases = {"num_cases": 2, "first_case": 200_003}
    blind = tmp_path / "blind.pt"
    state = torch.load(bundle / "models" / "model.pt", weights_only=True)
    torch.save({name: torch.zeros_like(value) if "lm_head" in name else value for name, value in state.items()}, blind)
    options = {"methods": [DEFAULT, "attention"], "blind_checkpoint": str(blind), "plot": str(plot)}
    evidence(str(bundle), output=str(output), **options, **cases)
    assert plot.read_bytes().startswith(b"\x89PNG")
    content = json.loads(output.read_text())
    assert [case["case"] for case in content["cases"]] == [200_003, 200_004]
    table = content["table"]["pointing"]
    assert table[f"findings: {DEFAULT}"]["hit"]["value"] > table[f"findings: {CHANCE}"]["hit"]["value"]
    # without an output layer all texts are equally likely: no sentence rests on the image
    assert table[f"findings: {BLIND}"]["hit"]["value"] == 0 and np.isnan(
        table[f"findings: {BLIND}"]["to the lesion"]["value"]
    )
    assert f"| findings: {DEFAULT} |" in capsys.readouterr().out
