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
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer

from monai_u2.engines import attach_handlers, run_training
from monai_u2.handlers import BestModelSaver, TrainingCheckpoints


def engines(max_epochs: int) -> tuple[SupervisedTrainer, SupervisedEvaluator]:
    network = torch.nn.Linear(1, 1)
    data = [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}] * 2
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=torch.nn.MSELoss(),
        decollate=False,
    )
    return trainer, SupervisedEvaluator(device="cpu", val_data_loader=data, network=network, decollate=False)


@pytest.mark.parametrize(("val_interval", "validated"), [(2, 3), (3, 0)])
def test_the_last_epoch_is_validated_where_it_is_not_due(val_interval: int, validated: int, tmp_path: Path) -> None:
    trainer, evaluator = engines(max_epochs=3)
    run_training(trainer, evaluator, val_interval, tmp_path)
    assert trainer.state.iteration == 6 and evaluator.state.epoch == validated


def test_the_result_of_the_last_validation_is_kept(tmp_path: Path) -> None:
    trainer, evaluator = engines(max_epochs=3)
    best = BestModelSaver(tmp_path, {"model": trainer.network})
    evaluator.state.key_metric_name = "f1"
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.state.metrics.update(f1=0.5))
    best.attach(evaluator)
    checkpoints = TrainingCheckpoints(tmp_path, {"trainer": trainer, "best_model": best})
    checkpoints.start(trainer)
    run_training(trainer, evaluator, 2, tmp_path, checkpoints)
    state = torch.load(tmp_path / "checkpoint_step=6.pt", weights_only=True)
    assert state["best_model"] == {"best": 0.5}


def test_an_epoch_that_was_ended_within_is_not_validated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer, evaluator = engines(max_epochs=3)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda engine: engine.terminate())
    with caplog.at_level(logging.WARNING):
        run_training(trainer, evaluator, 3, tmp_path)
    assert trainer.state.iteration == 3 and evaluator.state.epoch == 0
    assert "epoch 2 was ended after 1 of 2 steps and isn't validated" in caplog.text


def test_an_epoch_that_was_ended_in_its_last_step_is_not_validated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, evaluator = engines(max_epochs=3)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), lambda engine: engine.terminate())
    with caplog.at_level(logging.WARNING):
        run_training(trainer, evaluator, 1, tmp_path)
    assert trainer.state.iteration == 4
    assert "epoch 2 was ended after 2 of 2 steps and isn't validated" in caplog.text


def test_a_finished_training_is_not_started_again(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    trainer, evaluator = engines(max_epochs=3)
    trainer.load_state_dict({"iteration": 6, "epoch_length": 2, "max_epochs": 3})
    before = trainer.network.weight.clone()
    with caplog.at_level(logging.WARNING):
        run_training(trainer, evaluator, 2, tmp_path)
    assert torch.equal(trainer.network.weight, before) and evaluator.state.epoch == 3
    assert "all 3 epochs are trained; give a larger --max_epochs" in caplog.text


def test_disabled_handlers_are_left_out() -> None:
    class Handler:
        engine: Engine | None = None

        def attach(self, engine: Engine) -> None:
            self.engine = engine

    engine, handlers = Engine(lambda engine, batch: None), [Handler(), Handler()]
    attach_handlers(engine, handlers[0], None, handlers[1])
    assert [handler.engine for handler in handlers] == [engine, engine]
