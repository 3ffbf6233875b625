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

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer

from monai_u2.data import MicroBatches
from monai_u2.engines import MicroBatchIteration, run_training
from monai_u2.exceptions import NonFiniteError
from monai_u2.handlers import GradientClipping


class Loss(torch.nn.Module):
    def normalizers(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"cases": torch.tensor(len(batch["image"]))}

    def forward(self, pred: torch.Tensor, targets: Any, normalizers: dict[str, torch.Tensor]) -> torch.Tensor:
        return pred.sum() / normalizers["cases"]


def collate(cases: list[tuple[int, float]]) -> dict[str, torch.Tensor]:
    index, values = zip(*cases)
    ones = torch.ones(len(cases), 1)
    return {"image": torch.tensor(values)[:, None], "attention_mask": ones, "case_index": torch.tensor(index)}


def train(network: torch.nn.Module, values: list[float], folder: Path) -> None:
    """Two steps; the second one's batch is of cases 4 to 9 with these values, two a micro-batch."""
    cut_up = MicroBatches(collate, 2)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[cut_up([(0, 1.0)]), cut_up(list(enumerate(values, start=4)))],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=Loss(),
        prepare_batch=lambda batch, *_, **__: (batch["image"], None, (), {}),
        iteration_update=MicroBatchIteration(),
        train_handlers=[GradientClipping(network.parameters(), 1e9)],
        decollate=False,
    )
    run_training(trainer, None, 1, folder)


def test_the_cases_of_a_loss_that_is_no_number_are_named_and_saved(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    with pytest.raises(NonFiniteError, match="loss nan at iteration 2.*of training cases 6, 7") as caught:
        train(network, [1.0, 2.0, float("nan"), 4.0, 5.0, 6.0], tmp_path)
    file = tmp_path / "nonfinite_step=1.pt"
    assert str(file) in str(caught.value)
    saved = torch.load(file, weights_only=True)
    assert torch.equal(saved["network"]["weight"], network.weight) and bool(torch.isfinite(network.weight))
    (batches,) = saved["batches"]
    assert [batch["case_index"].tolist() for batch in batches] == [[4, 5], [6, 7], [8, 9]]
    assert bool(batches[1]["image"].isnan().any())


class Steep(torch.nn.Module):
    """Zero at zero, where its slope is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight.abs().sqrt() * x


def test_gradients_that_are_no_numbers_are_named_with_the_whole_batch(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="gradient norm nan at iteration 1.*of training cases 0"):
        train(Steep(), [1.0], tmp_path)
    assert (tmp_path / "nonfinite_step=0.pt").is_file()
