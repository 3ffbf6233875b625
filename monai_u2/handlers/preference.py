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

logger = logging.getLogger(__name__)


def preference_statistics(output: Mapping[str, torch.Tensor], beta: float) -> dict[str, torch.Tensor]:
    """Rewards and their kin, one value a pair `(B,)`.

    Args:
        output: what a `PreferenceInferer` gives.
        beta: of the loss; scales the rewards.

    Returns:
        `reward_chosen` and `reward_rejected` (β times the log-ratio of policy and reference), `reward_margin` (their
        difference), `reward_accuracy` (1 where it is above 0), `kl` (how much less likely the answers, samples of the
        reference, are under the policy: mean of both log-ratios with the sign exchanged), `log_prob_chosen` and
        `log_prob_rejected` (a token), `length_chosen` and `length_rejected` (tokens).
    """
    values = {name: value.detach() for name, value in output.items()}
    chosen = values["policy_chosen"] - values["reference_chosen"]
    rejected = values["policy_rejected"] - values["reference_rejected"]
    return {
        "reward_chosen": beta * chosen,
        "reward_rejected": beta * rejected,
        "reward_margin": beta * (chosen - rejected),
        "reward_accuracy": (chosen > rejected).double(),
        "kl": -(chosen + rejected) / 2,
        "log_prob_chosen": values["policy_chosen"] / values["chosen_lengths"],
        "log_prob_rejected": values["policy_rejected"] / values["rejected_lengths"],
        "length_chosen": values["chosen_lengths"].double(),
        "length_rejected": values["rejected_lengths"].double(),
    }


class PreferenceStatistics:
    """Mean of the loss and of :func:`preference_statistics` over an epoch and all processes, in the trainer's metrics.

    There MONAI's `StatsHandler`, TensorBoard and MLflow handlers find them. Attach it before them.

    Args:
        beta: of the loss.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a MONAI trainer with a `PreferenceInferer`, without decollating.
        """
        Average(output_transform=lambda output: output[CommonKeys.LOSS].item()).attach(engine, "preference_loss")
        names = ("reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "kl")
        for name in (*names, "log_prob_chosen", "log_prob_rejected", "length_chosen", "length_rejected"):
            Average(output_transform=self._mean(name)).attach(engine, name)

    def _mean(self, name: str) -> Callable[[Mapping[str, Mapping[str, torch.Tensor]]], float]:
        return lambda output: preference_statistics(output[CommonKeys.PRED], self.beta)[name].mean().item()


class SaveReference:
    """Write the reference's log-probabilities of preference pairs beside them, see :mod:`monai_u2.data.pairs`.

    Args:
        path: file of the pairs.
        pairs: the pairs, in the order of the evaluator's data.
        model_path: weights of the reference.
    """

    def __init__(self, path: str, pairs: Sequence[Mapping[str, Any]], model_path: str) -> None:
        self.path = path
        self.pairs = pairs
        self.model_path = model_path
        self.log_probs: list[tuple[float, float]] = []

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a MONAI evaluator with a `PreferenceInferer`, without decollating.
        """
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
        write_reference(self.path, self.pairs, self.log_probs, self.model_path)
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

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: a MONAI trainer with a `PreferenceInferer`, without decollating.
        """
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """
        Args:
            engine: the trainer.
        """
        pair = engine.state.output[CommonKeys.PRED]
        fall = (pair["reference_chosen"] - pair["policy_chosen"].detach()) / pair["chosen_lengths"]
        self.falls.append(fall.mean().item())
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
