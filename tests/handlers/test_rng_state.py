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

import io
import logging
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from monai_u2.handlers import RNGState


def draws() -> list[float]:
    # an odd number of normal ones: the generators of Python and NumPy keep the second of each pair
    return [
        random.gauss(0, 1),
        random.random(),
        float(np.random.randn()),
        float(np.random.rand()),
        *torch.rand(3).tolist(),
        torch.randn(1).item(),
    ]


def run(state: RNGState, iterations: int, disturb: bool = False) -> list[list[float]]:
    drawn: list[list[float]] = []
    engine = Engine(lambda engine, batch: drawn.append(draws()))
    state.attach(engine)
    if disturb:
        draws()
    engine.run(range(iterations))
    return drawn


def test_generators_go_on_where_they_were() -> None:
    whole = run(RNGState(seed=3), 5)
    assert run(RNGState(seed=3), 2, disturb=True) == whole[:2]
    file = io.BytesIO()
    torch.save(RNGState(seed=3).state_dict(), file)
    file.seek(0)
    saved: dict[str, Any] = torch.load(file, weights_only=True)
    resumed = RNGState(seed=99)
    resumed.load_state_dict(saved)
    assert run(resumed, 3, disturb=True) == whole[2:]
    assert run(RNGState(seed=4), 1) != whole[:1]


def of_process() -> dict[str, Any]:
    state = RNGState(seed=3)
    drawn = run(state, 2)
    return {"drawn": drawn, "state": state.state_dict(), "next": draws()}


def of_resumed(state: dict[str, Any]) -> list[list[float]]:
    resumed = RNGState(seed=99)
    resumed.load_state_dict(state)
    return run(resumed, 1, disturb=True)


def test_each_process_has_its_own(in_processes: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture) -> None:
    results = in_processes(2, of_process)
    assert results[0]["drawn"] != results[1]["drawn"] and results[0]["drawn"] == run(RNGState(seed=3), 2)
    resumed = in_processes(2, of_resumed, results[1]["state"])
    assert resumed == [[result["next"]] for result in results]
    with caplog.at_level(logging.WARNING):
        alone = of_resumed(results[0]["state"])
    assert alone == resumed[0] and "resumed by 1 processes in place of 2" in caplog.text
    third = in_processes(3, of_resumed, results[0]["state"])
    assert third[:2] == resumed and third[2] not in resumed
