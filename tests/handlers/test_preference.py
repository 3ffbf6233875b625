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

from monai_u2.exceptions import InputError
from monai_u2.handlers import PreferenceStatistics, SaveReference, StopOnCollapse
from monai_u2.losses.preference import PREFERENCE_STATISTICS

NAMES = ("loss", *PREFERENCE_STATISTICS)


def run(handler: PreferenceStatistics | StopOnCollapse, falls: list[float]) -> Engine:
    """Steps of a trainer all of whose numbers are the fall."""
    engine = Engine(lambda engine, fall: [{name: torch.tensor(fall) for name in NAMES}])
    handler.attach(engine)
    engine.run(falls, max_epochs=1)
    return engine


def test_means_over_an_epoch() -> None:
    metrics = run(PreferenceStatistics(), [0.5, 1.0]).state.metrics
    assert metrics == {**dict.fromkeys(PREFERENCE_STATISTICS, 0.75), "preference_loss": 0.75}


def test_training_ends_when_chosen_answers_collapse(caplog: pytest.LogCaptureFixture) -> None:
    falling = [0.25 * step for step in range(20)]
    with caplog.at_level(logging.WARNING):
        engine = run(StopOnCollapse(max_fall=1.0, window=3), falling)
    # means over three steps: above 1 first for the steps 4, 5 and 6
    assert engine.state.iteration == 7 and "1.25 nats a token less likely" in caplog.text
    assert run(StopOnCollapse(max_fall=1.0, window=3), [0.0] * 20).state.iteration == 20


def test_a_resumed_training_ends_at_the_same_step() -> None:
    before = StopOnCollapse(max_fall=1.0, window=3)
    run(before, [0.25 * step for step in range(5)])
    after = StopOnCollapse(max_fall=1.0, window=3)
    after.load_state_dict(before.state_dict())
    assert run(after, [0.25 * step for step in range(5, 20)]).state.iteration == 7 - 5


def test_the_reference_is_precomputed_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_u2.handlers.preference.number_of_processes", lambda: 2)
    with pytest.raises(InputError, match="precompute_reference runs in 2 processes; expected one"):
        SaveReference("pairs.jsonl", [], "model.pt", {}).attach(Engine(lambda engine, batch: None))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_fall 0 must be above 0"):
        StopOnCollapse(max_fall=0)
