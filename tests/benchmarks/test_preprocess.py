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
from typing import Any

import preprocess
import pytest
import torch
from literal_preprocessing import literal_preprocessing
from safetensors.torch import load_file

from monai_u2.data.cached_dataset import LARGEST_ERRORS

GOLDEN = Path(__file__).parents[1] / "golden"
CASES: dict[str, dict[str, Any]] = {
    name: case
    for name, case in json.loads((GOLDEN / "manifest.json").read_text())["cases"].items()
    if name.startswith("preprocess_")
}


@pytest.mark.parametrize("name", CASES)
def test_the_baseline_is_the_published_function(name: str) -> None:
    golden, options = load_file(GOLDEN / f"{name}.safetensors"), CASES[name]["ctor"]
    out = literal_preprocessing(
        golden["input.volume_xyz"].numpy(), options["target_image_size"], options["padding_size"], 32
    )
    torch.testing.assert_close(out, golden["output.y"], rtol=0, atol=1e-6)


def test_every_way_is_measured(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "PAPER", {"in_plane_size": 48, "depth": 32, "slab_depth": 16})
    monkeypatch.delitem(preprocess.WAYS, "default, `llama32_1b.json`")
    preprocess.benchmark(str(tmp_path / "out.json"), shape=(64, 60, 40), rounds=1, bundle=str(bundle))
    figures = json.loads((tmp_path / "out.json").read_text())
    assert list(figures["ways"]) == [preprocess.PUBLISHED, *preprocess.WAYS]
    assert figures["difference"] < 1e-4
    for way, row in figures["ways"].items():
        assert row["seconds"] > 0 and row["peak"] >= 0
        assert row["slabs"][1:] == ([16, 64, 96] if "sft" in way else [16, 48, 48]), way
    caches = [row["cache"] for row in figures["ways"].values() if "cache" in row]
    for cache in caches:
        assert all(cache[dtype]["error"] <= LARGEST_ERRORS[dtype] + 1e-7 for dtype in LARGEST_ERRORS)
        assert cache["float32"]["bytes"] > cache["float16"]["bytes"] > cache["uint8"]["bytes"]
    assert len(caches) == 2 and "| published, step by step | 2×16×48×48 |" in capsys.readouterr().out
