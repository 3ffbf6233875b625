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

import pytest
import token_paths as token_paths_module
import torch
from monai.transforms import Compose
from token_paths import VARIANTS, batch_of, token_paths

from monai_u2.exceptions import InputError


def test_every_variant_is_trained_and_measured(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "token_paths.json"
    small = {"seeds": 1, "steps": 2, "num_train": 4, "num_validation": 3, "batch_size": 2}
    small |= {"bundle": str(tiny_bundle), "dataset_dir": str(tmp_path / "phantoms"), "output": str(output)}
    batches: list[tuple[torch.Tensor, list[int], list[float]]] = []

    def batch_and_note(cases: list[dict[str, Any]], prompt: Compose, zeros: torch.Tensor | None) -> dict[str, Any]:
        batch = batch_of(cases, prompt, zeros)
        if "labels" in batch:
            answers = batch["labels"][batch["labels"] != -100]
            batches.append((batch["image"], answers.tolist(), batch["findings"].flatten().tolist()))
        return batch

    monkeypatch.setattr(token_paths_module, "batch_of", batch_and_note)
    token_paths(str(tiny_bundle / "models" / "vision.pt"), **small)
    rows = {row["variant"]: row for row in json.loads(output.read_text())["runs"]}
    assert list(rows) == list(VARIANTS)
    for row in rows.values():
        assert len(row["losses"]) == 2 and row["losses"][0] > 0 and 0 <= row["f1"] <= 1
    assert len({row["losses"][0] for row in rows.values()}) == len(rows)
    assert len(batches) == 2 * len(VARIANTS)  # each path sees the same cases and answers in the same order
    for step in (0, 1):
        first, *others = batches[step::2]
        assert all((answers, findings) == first[1:] for _, answers, findings in others)
        for name, (tokens, _, _) in zip(VARIANTS, batches[step::2]):
            assert torch.equal(tokens, first[0]) != bool(VARIANTS[name].get("zeroed")), name
    assert rows["default, images zeroed"]["distinct"] == 1

    capsys.readouterr()
    token_paths(str(tiny_bundle / "models" / "vision.pt"), **small)
    table = capsys.readouterr().out
    assert "seed 0: F1" not in table and "| query resampler |" in table  # nothing is run again
    with pytest.raises(InputError, match="'steps': 2.*'steps': 3"):
        token_paths(str(tiny_bundle / "models" / "vision.pt"), **{**small, "steps": 3})
