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

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from torch.distributed.fsdp import fully_shard

from monai_u2.exceptions import InputError
from monai_u2.handlers import WeightAverage


def train(average: WeightAverage, weights: list[float]) -> float:
    """Steps that set the weight, and the average afterwards."""
    engine = Engine(lambda engine, weight: average.model.weight.data.fill_(weight))
    average.attach(engine)
    engine.run(weights)
    return average.ema_model.weight.item()


def model(weight: float) -> torch.nn.Module:
    network = torch.nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(weight)
    return network


def test_average_by_hand_also_over_a_resume() -> None:
    average = WeightAverage(model(1.0), decay=0.75)
    first = 0.75 * 1.0 + 0.25 * 2.0
    assert train(average, [2.0]) == pytest.approx(first)
    resumed = WeightAverage(model(2.0), decay=0.75)
    resumed.load_state_dict(average.state_dict())
    assert train(resumed, [4.0]) == pytest.approx(0.75 * first + 0.25 * 4.0)


@pytest.mark.parametrize("decay", [0.0, 1.0, 2, "0.9"])
def test_decay_that_is_none_is_refused(decay: Any) -> None:
    with pytest.raises(InputError, match="ema_decay is .*expected a number above 0 and below 1"):
        WeightAverage(model(1.0), decay)


def of_shards() -> str:
    network = torch.nn.Linear(2, 1)
    fully_shard(network)
    with pytest.raises(InputError) as caught:
        WeightAverage(network, 0.9)
    return str(caught.value)


def test_shards_are_refused(in_processes: Callable[..., list[Any]]) -> None:
    assert "leave it out with full_shard" in in_processes(2, of_shards)[0]
