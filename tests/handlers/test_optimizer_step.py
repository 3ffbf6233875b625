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

import pytest
import torch
from monai.engines import SupervisedTrainer

from monai_u2.exceptions import NonFiniteError
from monai_u2.handlers import GradientClipping


def train(scale: float, max_norm: float) -> torch.Tensor:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1, bias=False)
    before = network.weight.detach().clone()
    SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(1, 3), "label": torch.zeros(1, 1)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda pred, label: scale * pred.sum(),
        train_handlers=[GradientClipping(network.parameters(), max_norm)],
        decollate=False,
    ).run()
    return before - network.weight.detach()


def test_step_is_clipped_to_the_norm() -> None:
    assert train(100.0, 0.5).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert train(0.1, 0.5).norm().item() == pytest.approx(0.1 * 3**0.5, rel=1e-4)


def test_infinite_gradient_stops_the_training() -> None:
    with pytest.raises(NonFiniteError, match="gradient norm nan at iteration 1"):
        train(float("nan"), 0.5)
