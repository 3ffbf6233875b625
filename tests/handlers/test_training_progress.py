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
import time

import pytest
import torch
from ignite.engine import Engine, Events

from monai_u2.handlers import TrainingProgress


def test_tokens_per_second_of_the_epoch() -> None:
    def step(engine: Engine, tokens: int) -> list[dict[str, torch.Tensor]]:
        time.sleep(0.05)
        return [{"loss": torch.tensor(0.5), "tokens": torch.tensor(tokens)}]

    engine, shown, rates = Engine(step), io.StringIO(), []
    TrainingProgress(file=shown, mininterval=0.0).attach(engine)

    @engine.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        rates.append(engine.state.metrics["tokens_per_second"])
        time.sleep(0.5)

    engine.run([100, 300], max_epochs=2)
    assert rates == pytest.approx([400 / 0.1] * 2, rel=0.5)
    assert "loss=0.5" in shown.getvalue() and "tokens_per_second=" in shown.getvalue()
