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
import torch
import training_memory


@pytest.fixture(autouse=True)
def small(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "CONFIGS", tiny_bundle / "configs")
    monkeypatch.setattr(training_memory, "CHECKED", [("sft", None, None)])


def test_tensors_without_content_need_what_real_ones_do() -> None:
    parser = training_memory.parsed("sft", None, None)
    network = training_memory.materialized(training_memory.on_meta(parser))
    for tensor in network.state_dict().values():
        tensor.zero_()
    real = sum(training_memory.tracked_peak(parser, network, "sft").values())
    assert training_memory.computed("sft", None, None, 1)["total"] == pytest.approx(real / 1e9, rel=0.05)


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training_memory.benchmark(str(tmp_path / "out.json"), cases=[["sft", None, None, 1], ["dpo", None, None, 2]])
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    sft, dpo = rows["sft.json"], rows["dpo.json"]
    parser = training_memory.parsed("sft", None, None)
    weights = sum(p.numel() for p in training_memory.on_meta(parser).parameters()) * 4 / 1e9
    assert sft["weights"] == pytest.approx(weights)
    assert sft["weights"] == pytest.approx(sft["trained"] * 4)
    assert sft["gathered"] == 0 < dpo["gathered"] and dpo["trained"] < sft["trained"] / 5
    assert "| sft.json | 1 |" in capsys.readouterr().out


def test_all_recipes_fit_all_shapes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_memory, "CONFIGS", bundle / "configs")
    for training, shapes, recipe, _ in training_memory.CASES:
        network = training_memory.on_meta(training_memory.parsed(training, shapes, recipe))
        precisions = {p.dtype for p in network.parameters()}
        assert precisions == ({torch.float32, torch.bfloat16} if recipe in ("cpu", "one_gpu_24gb") else {torch.float32})
