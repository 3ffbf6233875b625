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

"""Stop a training whose validations don't get better."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping

from monai_u2.exceptions import InputError

logger = logging.getLogger(__name__)


class ResumableEarlyStopping(EarlyStopping):
    """ignite's `EarlyStopping` on an evaluator's key metric; a resumed training goes on counting.

    Args:
        patience: number of validations without a larger key metric after which the training stops.
        trainer: the trainer.

    Raises:
        InputError: when `patience` isn't at least 1.
    """

    def __init__(self, patience: int, trainer: Engine) -> None:
        if not isinstance(patience, int) or patience < 1:
            raise InputError(
                f"early_stopping_patience is {patience!r}; expected a whole number of validations, 1 or more, or null."
            )
        super().__init__(patience, lambda engine: engine.state.metrics[engine.state.key_metric_name], trainer)

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        self.trainer.add_event_handler(Events.STARTED, self._stay_stopped)

    def _stay_stopped(self, trainer: Engine) -> None:
        if self.counter >= self.patience:
            logger.warning(
                "the training had ended after %d validations without a better one; give a larger "
                "--early_stopping_patience to go on.",
                self.counter,
            )
            trainer.terminate()
