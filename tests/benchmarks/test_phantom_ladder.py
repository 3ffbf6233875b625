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

import numpy as np
import torch
from phantom_ladder import SupervisedTower, best_thresholds, phantom_ladder

from monai_u2.data import group_by_image, load_records
from monai_u2.data.phantom import FINDING_LABELS
from monai_u2.networks import U2LLM


def test_tower_gives_the_finding_logits_of_the_whole_model(tiny_u2llm: U2LLM) -> None:
    image, mask = torch.rand(2, 3, 8, 32, 32), torch.tensor([[True] * 3, [True, True, False]])
    expected = tiny_u2llm.model.encode_image(image, mask).finding_logits
    torch.testing.assert_close(SupervisedTower(tiny_u2llm)(image, mask), expected)


def test_thresholds_are_those_of_the_best_f1() -> None:
    """Logits of 2 where a finding is, of 1 where not: any threshold between divides them."""
    truth = np.random.default_rng(0).random((40, len(FINDING_LABELS))) < 0.2
    thresholds = best_thresholds(truth + 1.0, truth)
    assert np.all((thresholds >= 1.0) & (thresholds < 2.0))


def test_whole_ladder_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "ladder.json"
    sizes = {"num_train": 2, "num_validation": 2, "num_test": 2, "steps": 2, "batch_size": 2}
    names = ["easy", "hard"]
    phantom_ladder(str(tmp_path / "data"), bundle=str(tiny_bundle), difficulties=names, output=str(output), **sizes)
    figures = json.loads(output.read_text())
    assert list(figures) == names
    for name, rows in figures.items():
        assert rows.pop("steps") in (0, 1, 2) and set(rows) == {"upper bound", "model"}
        test = load_records(tmp_path / "data" / name / "test.jsonl")
        present = sum(len(case["findings"]) for case in group_by_image(test))
        for row in rows.values():
            assert row["findings"][-1]["finding"] == "all" and row["findings"][-1]["present"] == present
            assert row["low"] <= row["f1"] <= row["high"]
