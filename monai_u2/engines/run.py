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

"""A whole training."""

from __future__ import annotations

import logging
import os
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator, Trainer

from monai_u2.engines.inspection import save_for_inspection, with_file
from monai_u2.exceptions import NonFiniteError
from monai_u2.handlers.training_checkpoints import TrainingCheckpoints
from monai_u2.processes import explain_lost_process

logger = logging.getLogger(__name__)


def attach_handlers(engine: Engine, *handlers: Any) -> None:
    """Attach handlers to an engine, in their order.

    Args:
        engine: the engine.
        handlers: the handlers; None for those that are disabled.
    """
    for handler in handlers:
        if handler is not None:
            handler.attach(engine)


def run_training(
    trainer: Trainer,
    evaluator: Evaluator,
    val_interval: int,
    output_dir: str | os.PathLike[str],
    checkpoints: TrainingCheckpoints | None = None,
) -> None:
    """Train to the end of the last epoch, and validate it where its validation isn't due anyway.

    A training that was resumed after its last epoch isn't started again, as ignite would do.

    Args:
        trainer: the trainer, which may be resumed.
        evaluator: the evaluator.
        val_interval: number of epochs after which the trainer validates.
        output_dir: folder of what is saved of a training that diverges.
        checkpoints: where the result of that last validation is kept for a resumed training.

    Raises:
        NonFiniteError: when the loss or the gradients aren't finite, with the file that was saved to look into.
        RuntimeError: when another process was lost.
    """
    try:
        _run(trainer, evaluator, val_interval, checkpoints)
    except NonFiniteError as error:
        raise with_file(error, save_for_inspection(trainer, output_dir)) from error
    except RuntimeError as error:
        if explanation := explain_lost_process(error):
            raise RuntimeError(explanation) from error
        raise


def _run(trainer: Trainer, evaluator: Evaluator, val_interval: int, checkpoints: TrainingCheckpoints | None) -> None:
    state = trainer.state
    whole: list[int] = []
    if state.iteration < state.max_epochs * state.epoch_length:
        # a handler that ends the training in an epoch's last step takes the end of the epoch away, too
        count = trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: whole.append(state.epoch))
        trainer.run()
        count.remove()
    else:
        whole.append(state.epoch)
        logger.warning("all %d epochs are trained; give a larger --max_epochs to go on.", state.epoch)
    if state.iteration % state.epoch_length or state.epoch not in whole:
        logger.warning(
            "epoch %d was ended after %d of %d steps and isn't validated; the model is that of the best validation "
            "before, where there was one.",
            state.epoch,
            state.iteration % state.epoch_length or state.epoch_length,
            state.epoch_length,
        )
    elif state.epoch % val_interval:
        evaluator.run(state.epoch)
        if checkpoints is not None:
            checkpoints.save(trainer)
