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

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine

from monai_u2.handlers import WholeWeights
from monai_u2.inferers import ReportInferer
from monai_u2.networks import U2LLM, distribute
from monai_u2.processes import process_index

PROMPT = torch.tensor([[99, 99, 99, 99, 5, 6]])


def generate_unevenly(network: U2LLM, image: torch.Tensor) -> dict[str, Any]:
    """The second process has three cases and longer answers; the processes then train together."""
    network = distribute(network, "full_shard", torch.device("cpu"))
    answers = []

    def step(engine: Engine, case: int) -> None:
        with torch.no_grad():
            inferer = ReportInferer(max_new_tokens=4 + case, do_sample=False)
            answers.append(inferer(image, network, input_ids=PROMPT))

    evaluator = Engine(step)
    WholeWeights(network).attach(evaluator)
    for _ in range(2):
        evaluator.run([0, 1, 2] if process_index() else [0])
        network(image, PROMPT).logits.mean().backward()
    sizes = sum(parameter.to_local().numel() for parameter in network.parameters())
    return {"answers": answers, "share": sizes / sum(parameter.numel() for parameter in network.parameters())}


def test_processes_do_not_wait_for_each_other(in_processes: Callable[..., list[Any]], tiny_u2llm: U2LLM) -> None:
    image = torch.rand(1, 2, 8, 32, 32)
    expected = [
        tiny_u2llm.generate(image, PROMPT, max_new_tokens=4 + case, do_sample=False)[:, 6:] for case in range(3)
    ]
    first, second = in_processes(2, generate_unevenly, tiny_u2llm, image)
    assert [len(process["answers"]) for process in (first, second)] == [2, 6]
    assert all(torch.equal(answer, expected[0]) for answer in first["answers"])
    assert all(torch.equal(answer, expected[i % 3]) for i, answer in enumerate(second["answers"]))
    assert first["share"] < 0.6  # afterwards each holds its part again
