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
from ignite.engine import Engine, Events

from monai_u2.exceptions import InputError
from monai_u2.handlers import ResumableEarlyStopping


def train(scores: list[float], patience: int, state: dict | None = None) -> tuple[int, dict]:
    """Number of epochs, one validation each, and the state afterwards."""
    trainer, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    stopping = ResumableEarlyStopping(patience, trainer)
    if state is not None:
        stopping.load_state_dict(state)
    stopping.attach(evaluator)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        evaluator.state.metrics = {"f1": scores[engine.state.epoch - 1]}
        evaluator.state.key_metric_name = "f1"
        evaluator.run([0])

    trainer.run([0], max_epochs=len(scores))
    return trainer.state.epoch, stopping.state_dict()


def test_stops_after_validations_without_gain_also_over_a_resume() -> None:
    assert train([0.1, 0.3, 0.3, 0.2, 0.9], patience=2)[0] == 4
    epochs, state = train([0.1, 0.3, 0.3], patience=2)
    assert epochs == 3
    assert train([0.2, 0.9], patience=2, state=state)[0] == 1
    assert train([0.4, 0.3, 0.2, 0.9], patience=2, state=state)[0] == 3


def test_what_was_stopped_stays_stopped(caplog: pytest.LogCaptureFixture) -> None:
    _, state = train([0.3, 0.2, 0.1], patience=2)
    with caplog.at_level(logging.WARNING):
        epochs, _ = train([0.9, 0.9], patience=2, state=state)
    assert epochs == 0 and "ended after 2 validations without a better one" in caplog.text
    assert train([0.9, 0.9], patience=3, state=state)[0] == 2


@pytest.mark.parametrize("patience", [0, 1.5])
def test_patience_that_is_none_is_refused(patience: float) -> None:
    with pytest.raises(InputError, match="early_stopping_patience is .*expected a whole number of validations"):
        ResumableEarlyStopping(patience, Engine(lambda engine, batch: None))
