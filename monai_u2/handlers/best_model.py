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

"""The best model of a training."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from monai_u2.handlers.checkpoint_files import write_checkpoint
from monai_u2.networks.parallel import full_state
from monai_u2.processes import process_index


class BestModelSaver:
    """Save the model with the largest key metric under a fixed name, and remember that metric over a resume.

    With several processes, each has to have the handler, and the first one writes.
    A part of the resumable checkpoint, so that the first validation after a resume doesn't replace a better model.

    Args:
        save_dir: folder of the model.
        save_dict: name -> object with `state_dict`; of a single object its state alone is written.
        filename: name of the file.
        newer: whether the newer of two models with equal metrics is kept.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        save_dict: Mapping[str, Any],
        filename: str = "model.pt",
        newer: bool = False,
    ) -> None:
        self.path = Path(save_dir) / filename
        self.save_dict = dict(save_dict)
        self.newer = newer
        self.best: float | None = None
        self.logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: an evaluator with a key metric.
        """
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save the model where the key metric is larger than ever, or as large, see ``newer``.

        Args:
            engine: the evaluator.

        Raises:
            InputError: when the model can't be written.
        """
        metric = float(engine.state.metrics[engine.state.key_metric_name])
        if self.best is not None and not (metric > self.best or (self.newer and metric == self.best)):
            return
        states = {name: full_state(part) for name, part in self.save_dict.items()}
        self.best = metric
        if process_index():
            return
        write_checkpoint(self.path, next(iter(states.values())) if len(states) == 1 else states)
        self.logger.info("saved %s with %s %.4f", self.path, engine.state.key_metric_name, metric)

    def state_dict(self) -> dict[str, float | None]:
        """The largest key metric so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: Mapping[str, float | None]) -> None:
        """Take up the largest key metric of an earlier run where its model is still there."""
        if self.path.is_file():
            self.best = state_dict["best"]
