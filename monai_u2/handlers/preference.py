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

"""What is watched during preference optimization."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.utils import CommonKeys

from monai_u2.data.pairs import reference_path, write_reference
from monai_u2.exceptions import InputError
from monai_u2.losses.preference import PREFERENCE_STATISTICS
from monai_u2.processes import number_of_processes

logger = logging.getLogger(__name__)


class PreferenceStatistics:
    """Mean of the loss and of :meth:`monai_u2.losses.ReportPreferenceLoss.statistics` over an epoch, in the trainer's
    metrics.

    There MONAI's `StatsHandler`, TensorBoard and MLflow handlers find them. Attach it before them.
    """

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a MONAI trainer with :class:`monai_u2.engines.MicroBatchIteration` and a `ReportPreferenceLoss`.
        """
        Average(output_transform=_value("loss")).attach(engine, "preference_loss")
        for name in PREFERENCE_STATISTICS:
            Average(output_transform=_value(name)).attach(engine, name)


def _value(name: str) -> Callable[[Sequence[Mapping[str, torch.Tensor]]], float]:
    return lambda output: output[0][name].item()


class SaveReference:
    """Write the reference's log-probabilities of preference pairs beside them, see :mod:`monai_u2.data.pairs`.

    Args:
        path: file of the pairs.
        pairs: the pairs, in the order of the evaluator's data.
        model_path: weights of the reference.
        settings: how the images are prepared and the model is run.
    """

    def __init__(
        self, path: str, pairs: Sequence[Mapping[str, Any]], model_path: str, settings: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.pairs = pairs
        self.model_path = model_path
        self.settings = settings
        self.log_probs: list[tuple[float, float]] = []

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a MONAI evaluator with a `PreferenceInferer`, without decollating.

        Raises:
            InputError: when several processes run, each of which would write the whole file.
        """
        if number_of_processes() > 1:
            raise InputError(
                f"precompute_reference runs in {number_of_processes()} processes; expected one. Start it without "
                "torchrun and multi_gpu_train.json."
            )
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def __call__(self, engine: Engine) -> None:
        """
        Args:
            engine: the evaluator.
        """
        output = engine.state.output[CommonKeys.PRED]
        self.log_probs += zip(output["policy_chosen"].tolist(), output["policy_rejected"].tolist())

    def _write(self, engine: Engine) -> None:
        write_reference(self.path, self.pairs, self.log_probs, self.model_path, self.settings)
        logger.info("reference log-probabilities of %d pairs in %s", len(self.pairs), reference_path(self.path))


class StopOnCollapse:
    """End the training when chosen answers have become much less likely than under the reference.

    The loss falls too where both answers become unlikely, the rejected one faster; the model then writes neither.

    Args:
        max_fall: largest fall of the chosen answers' log-probability against the reference, in nats a token.
        window: number of steps over whose mean it is measured.

    Raises:
        ValueError: when one of them isn't above 0.
    """

    def __init__(self, max_fall: float = 0.5, window: int = 20) -> None:
        if max_fall <= 0 or window < 1:
            raise ValueError(f"max_fall {max_fall} must be above 0, window {window} at least 1.")
        self.max_fall = max_fall
        self.falls: deque[float] = deque(maxlen=window)

    def state_dict(self) -> dict[str, list[float]]:
        """The falls of the last steps."""
        return {"falls": [*self.falls]}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """
        Args:
            state: what :meth:`state_dict` gave.
        """
        self.falls.clear()
        self.falls.extend(state["falls"])

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a MONAI trainer with :class:`monai_u2.engines.MicroBatchIteration` and a `ReportPreferenceLoss`.
        """
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        self.falls.append(engine.state.output[0]["chosen_fall"].item())
        mean = sum(self.falls) / len(self.falls)
        if len(self.falls) == self.falls.maxlen and mean > self.max_fall:
            logger.warning(
                "training ends at step %d: chosen answers are %.2f nats a token less likely than under the reference "
                "(max_fall %s); lower the learning rate, raise beta or give sft_weight",
                engine.state.iteration,
                mean,
                self.max_fall,
            )
            engine.terminate()
