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
from phantom_ladder import SupervisedCNN, best_thresholds, phantom_ladder

from monai_u2.data.phantom import FINDING_LABELS


def test_padded_slabs_change_nothing() -> None:
    torch.manual_seed(0)
    network = SupervisedCNN([[0.0, 0.5], [0.4, 0.7]], 5).eval()
    image = torch.rand(1, 2, 16, 16, 16)
    padded = torch.cat([image, torch.rand(1, 1, 16, 16, 16)], dim=1)
    alone = network(image, torch.tensor([[True, True]]))
    assert alone.shape == (1, 2, 8, 5)
    torch.testing.assert_close(network(padded, torch.tensor([[True, True, False]]))[:, :2], alone)


def test_the_place_in_the_volume_is_seen() -> None:
    torch.manual_seed(0)
    network = SupervisedCNN([[0.0, 1.0]], 5).eval()
    slab = torch.rand(1, 1, 16, 16, 16)
    first, second = network(slab.repeat(1, 2, 1, 1, 1), torch.tensor([[True, True]]))[0]
    assert not torch.allclose(first, second, atol=1e-3)


def test_thresholds_are_those_of_the_best_f1() -> None:
    """Logits of 2 where a finding is, of 1 where not: any threshold between divides them."""
    truth = np.random.default_rng(0).random((40, len(FINDING_LABELS))) < 0.2
    thresholds = best_thresholds(truth + 1.0, truth)
    assert np.all((thresholds >= 1.0) & (thresholds < 2.0))


def test_whole_ladder_runs(tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "ladder.json"
    sizes = {"num_train": 2, "num_validation": 2, "num_test": 2, "steps": 2, "batch_size": 2}
    phantom_ladder(str(tmp_path / "data"), bundle=str(tiny_bundle), difficulties="easy", output=str(output), **sizes)
    figures = json.loads(output.read_text())
    assert set(figures["easy"]) == {"upper bound", "model"}
    assert all(0 <= row["f1"] <= 1 for row in figures["easy"].values())
