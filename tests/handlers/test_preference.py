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

import logging

import pytest
import torch
from ignite.engine import Engine

from monai_u2.handlers import PreferenceStatistics, StopOnCollapse
from monai_u2.handlers.preference import preference_statistics


def output(policy_chosen: float, policy_rejected: float) -> dict[str, torch.Tensor]:
    values = {"policy_chosen": policy_chosen, "policy_rejected": policy_rejected}
    values |= {"reference_chosen": -4.0, "reference_rejected": -6.0, "chosen_lengths": 2.0, "rejected_lengths": 4.0}
    return {name: torch.tensor([value]) for name, value in values.items()}


def test_statistics_by_hand() -> None:
    found = {name: value.item() for name, value in preference_statistics(output(-3.0, -8.0), beta=0.5).items()}
    assert found == {
        "reward_chosen": 0.5,
        "reward_rejected": -1.0,
        "reward_margin": 1.5,
        "reward_accuracy": 1.0,
        "kl": 0.5,
        "log_prob_chosen": -1.5,
        "log_prob_rejected": -2.0,
        "length_chosen": 2.0,
        "length_rejected": 4.0,
    }


def run(handler: PreferenceStatistics | StopOnCollapse, outputs: list[dict[str, torch.Tensor]]) -> Engine:
    engine = Engine(lambda engine, batch: {"pred": batch, "loss": batch["policy_chosen"][0]})
    handler.attach(engine)
    engine.run(outputs, max_epochs=1)
    return engine


def test_means_over_an_epoch() -> None:
    metrics = run(PreferenceStatistics(beta=0.5), [output(-3.0, -8.0), output(-5.0, -6.0)]).state.metrics
    assert metrics["reward_margin"] == pytest.approx((1.5 - 0.5) / 2)
    assert metrics["reward_accuracy"] == pytest.approx(0.5) and len(metrics) == 10
    assert metrics["preference_loss"] == pytest.approx(-4.0)


def test_training_ends_when_chosen_answers_collapse(caplog: pytest.LogCaptureFixture) -> None:
    falling = [output(-4.0 - 0.5 * step, -30.0) for step in range(20)]
    with caplog.at_level(logging.WARNING):
        engine = run(StopOnCollapse(max_fall=1.0, window=3), falling)
    # means over three steps of 0.25 * step nats a token: above 1 first for the steps 4, 5 and 6
    assert engine.state.iteration == 7 and "1.25 nats a token less likely" in caplog.text
    assert run(StopOnCollapse(max_fall=1.0, window=3), [output(-4.0, -9.0)] * 20).state.iteration == 20


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_fall 0 must be above 0"):
        StopOnCollapse(max_fall=0)
