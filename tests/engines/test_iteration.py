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

"""One optimizer step over a batch in parts against the same batch in one piece."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents

from monai_u2.data import MicroBatches, collate_reports
from monai_u2.engines import MicroBatchIteration, PrepareReportBatch
from monai_u2.losses import FindingLoss, ReportLoss
from monai_u2.networks import U2LLM


def cases() -> list[dict[str, Any]]:
    """Five volumes of one to three slabs, with one to three questions, answers of one to nine tokens, one with no
    finding at all."""
    draw = torch.Generator().manual_seed(0)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=draw)

    out = []
    for number in range(5):
        slabs, answers = 1 + number % 3, [1 + (3 * number + i) % 9 for i in range(1 + number % 3)]
        patches = integers(2, slabs, 32, 5).to(torch.uint8) * (number > 0)
        patches[integers(3, *patches.shape) == 0] *= 255
        prompts = [torch.cat([torch.full((4,), 99), 2 + integers(90, 3 + i)]) for i in range(len(answers))]
        texts = [2 + integers(90, length) for length in answers]
        out.append(
            {
                "image": torch.rand(slabs, 8, 32, 32, generator=draw),
                "input_ids": [torch.cat(pair) for pair in zip(prompts, texts)],
                "question_ids": [prompt[4:] for prompt in prompts],
                "labels": [torch.cat([torch.full_like(p, -100), text]) for p, text in zip(prompts, texts)],
                "findings": integers(2, 5).float() * (number > 0),
                "patch_findings": patches,
            }
        )
    return out


def step(network: U2LLM, size: int | None) -> tuple[dict[str, torch.Tensor], float, int, list[str]]:
    """Gradients, loss, tokens and events of a step."""
    events: list[str] = []

    class Watch:
        def attach(self, engine: Engine) -> None:
            for event in (IterationEvents.BACKWARD_COMPLETED, IterationEvents.MODEL_COMPLETED):
                engine.add_event_handler(event, lambda engine, name=event.name: events.append(name))

    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[MicroBatches(collate_reports, size)(cases())],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=ReportLoss(FindingLoss(patch_weight=1.0, slab_weight=0.5, volume_weight=2.0)),
        prepare_batch=PrepareReportBatch(),
        iteration_update=MicroBatchIteration(),
        train_handlers=[Watch()],
        decollate=False,
    )
    trainer.run()
    (output,) = trainer.state.output
    gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return gradients, output["loss"].item(), int(output["tokens"]), events


@pytest.mark.parametrize("size", [1, 2, 4])
def test_parts_give_the_gradients_of_the_whole(tiny_u2llm: U2LLM, size: int) -> None:
    gradients, loss, tokens, events = step(tiny_u2llm, None)
    of_parts = step(tiny_u2llm, size)
    assert of_parts[1] == pytest.approx(loss, rel=1e-6)
    assert of_parts[2:] == (tokens, events)
    assert tokens == sum(len(row) for case in cases() for row in case["input_ids"])
    assert events == ["BACKWARD_COMPLETED", "MODEL_COMPLETED"]
    assert of_parts[0].keys() == gradients.keys() and len(gradients) > 50
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_parts[0][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    # what a mean of the parts' means would give is something else
    means = [ReportLoss()(tiny_u2llm(*arguments(case)), labels(case)).item() for case in cases()]
    whole = ReportLoss()(tiny_u2llm(*arguments(*cases())), labels(*cases())).item()
    assert abs(sum(means) / len(means) - whole) > 1e-3


def arguments(*some: dict[str, Any]) -> list[torch.Tensor]:
    batch = collate_reports(some)
    return [batch[key] for key in ("image", "input_ids", "attention_mask")] + [
        batch["question_ids"],
        batch["question_mask"],
        batch["slab_mask"],
        batch["image_index"],
    ]


def labels(*some: dict[str, Any]) -> dict[str, torch.Tensor]:
    return collate_reports(some)
