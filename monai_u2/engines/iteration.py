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

"""A training step over micro-batches and processes whose gradients are those of the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from monai_u2.engines.inspection import diverged
from monai_u2.networks.parallel import gradients_kept_local
from monai_u2.processes import number_of_processes, sum_over_processes


class MicroBatchIteration:
    """`iteration_update` of MONAI's `SupervisedTrainer`: one optimizer step for all micro-batches of a batch.

    Means in the loss divide by what the whole batch holds, over all micro-batches and processes: loss and gradients are
    those of the batch in one piece, however it is cut up, up to rounding. Not so with layers that mix cases, such as
    batch normalization in training, or that draw random numbers, such as dropout. An iteration of the engine is an
    optimizer step: schedules, clipping and checkpoints see whole steps. Gradients of replicas are exchanged
    once a step.

    The loss function has `normalizers(targets)`, what its means divide by, which adds up over the parts of a batch,
    and takes their sums as third argument, see :class:`monai_u2.losses.ReportLoss`. It may have
    `statistics(prediction, normalizers)`, further scalars that add up, see
    :class:`monai_u2.losses.ReportPreferenceLoss`.

    The engine's output is `[{"loss", "tokens", …}]`: the batch's loss, the number of tokens of its prompts and answers,
    and the loss function's statistics, all over all processes.
    """

    def __call__(
        self, engine: SupervisedTrainer, batchdata: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, torch.Tensor]]:
        """
        Args:
            engine: the trainer, with `decollate=False`.
            batchdata: micro-batches, see :class:`monai_u2.data.MicroBatches`.

        Raises:
            NonFiniteError: when the loss isn't finite; the step isn't taken then.
        """
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        normalizers, tokens = self._count(engine, batchdata)
        statistics = getattr(engine.loss_function, "statistics", lambda prediction, normalizers: {})
        losses, watched = [], []
        for number, micro_batch in enumerate(batchdata, start=1):
            inputs, targets, args, kwargs = engine.prepare_batch(
                micro_batch, engine.state.device, engine.non_blocking, **engine.to_kwargs
            )
            with gradients_kept_local(engine.network, number < len(batchdata)):
                prediction = engine.inferer(inputs, engine.network, *args, **kwargs)
                loss = engine.loss_function(prediction, targets, normalizers)
                # gradients are averaged over the processes, and this is a sum
                (loss * number_of_processes()).backward()
            losses.append(loss.detach())
            watched.append({"loss": loss.detach(), **statistics(prediction, normalizers)})
        sums = torch.stack([torch.stack([value.double() for value in part.values()]) for part in watched]).sum(dim=0)
        sums = sum_over_processes(sums)
        total = sums[0]
        if not bool(torch.isfinite(total)):
            parts = [part for part, loss in zip(batchdata, losses) if not bool(torch.isfinite(loss))]
            raise diverged("loss", total, engine, parts)
        engine.state.output = [{**dict(zip(watched[0], sums)), "tokens": tokens}]
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    @staticmethod
    def _count(
        engine: SupervisedTrainer, batchdata: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Normalizers and tokens of the whole batch, in one exchange between the processes."""
        of_parts = [
            {**engine.loss_function.normalizers(micro_batch), "tokens": micro_batch["attention_mask"].sum()}
            for micro_batch in batchdata
        ]
        sums = torch.stack([torch.stack([*counts.values()]).double() for counts in of_parts]).sum(dim=0)
        sums = sum_over_processes(sums.to(engine.state.device))
        counts = dict(zip(of_parts[0], sums.float()))
        return counts, counts.pop("tokens")
