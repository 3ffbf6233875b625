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
import random
from typing import Any

import numpy as np
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
