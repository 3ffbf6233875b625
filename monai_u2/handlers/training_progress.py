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

"""How fast a training goes."""

from __future__ import annotations

import time
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar

METRIC = "tokens_per_second"


class TrainingProgress(ProgressBar):
    """ignite's progress bar with the loss and the tokens per second since the epoch began.

    The latter is also left in the engine's metrics, where statistics and tracking find it. Time for validation and
    checkpoints at the end of an epoch doesn't count.

    Args:
        kwargs: arguments of `tqdm`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._tokens = 0
        self._start = 0.0

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a trainer with :class:`monai_u2.engines.MicroBatchIteration`.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        super().attach(
            engine, metric_names=[METRIC], output_transform=lambda output: {"loss": float(output[0]["loss"])}
        )

    def _begin(self, engine: Engine) -> None:
        self._tokens, self._start = 0, time.monotonic()

    def _count(self, engine: Engine) -> None:
        self._tokens += int(engine.state.output[0]["tokens"])
        engine.state.metrics[METRIC] = self._tokens / (time.monotonic() - self._start)
