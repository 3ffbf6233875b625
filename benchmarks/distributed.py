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

"""Tokens per second of a fine-tuning by several processes on as many cores, against one process on one core.

Weak scaling: each process has the same number of cases a step, so that the batch grows with the processes. The model,
its loss and its precision are those of the bundle's sft.json, the step that of its training; the volumes are random::

    python benchmarks/distributed.py --output runs/distributed.json
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import fire
import torch
from bundle_model import write_figures
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer

from monai_u2.data import MicroBatches, collate_reports
from monai_u2.engines import MicroBatchIteration, PrepareReportBatch
from monai_u2.exceptions import InputError
from monai_u2.handlers import GradientClipping
from monai_u2.networks import U2LLM, distribute
from monai_u2.processes import end_processes, process_index, start_processes


def random_cases(network: U2LLM, cases: int, slabs: int, questions: int, answer: int) -> list[dict[str, Any]]:
    """Volumes with questions of 12 tokens and answers of as many as asked for; others in each process."""
    generator = torch.Generator().manual_seed(process_index())
    size, vocabulary = network.model.vision_tower.image_size, network.config.text_config.vocab_size
    patches, findings = torch.tensor(network.model.vision_tower.grid).prod(), network.config.num_findings
    placeholders = torch.full((network.num_image_tokens,), network.config.image_token_id)
    made = []
    for _ in range(cases):
        texts = torch.randint(10, vocabulary, (questions, 12 + answer), generator=generator)
        texts[texts == network.config.image_token_id] = 10
        rows = [torch.cat([placeholders, text]) for text in texts]
        prompt = len(placeholders) + 12
        made.append(
            {
                "image": torch.rand(slabs, *size, generator=generator),
                "input_ids": rows,
                "question_ids": [text[:12] for text in texts],
                "labels": [torch.cat([torch.full((prompt,), -100), row[prompt:]]) for row in rows],
                "findings": torch.zeros(findings),
                "patch_findings": torch.zeros(slabs, int(patches), findings, dtype=torch.uint8),
            }
        )
    return made


class Clock:
    """When each step was done, and the tokens of it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.tokens: list[int] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.tokens.append(int(engine.state.output[0]["tokens"]))
        self.seconds.append(time.perf_counter())


def child(bundle: str, processes: int, distribution: str, steps: int, **sizes: int) -> None:
    """Run in each process; the first one prints the tokens per second after a first step."""
    torch.set_num_threads(1)
    parser = ConfigParser()
    parser.read_config(Path(bundle) / "configs" / "sft.json")
    parser.update({"bundle_root": str(Path(bundle).resolve())})
    device = torch.device("cpu")
    if processes > 1:
        start_processes()
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    cases = random_cases(network, **sizes)
    network = distribute(network, distribution, device) if processes > 1 else network
    clock = Clock()
    SupervisedTrainer(
        device=device,
        max_epochs=1,
        train_data_loader=[MicroBatches(collate_reports)(cases)] * (steps + 1),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-4),
        loss_function=parser.get_parsed_content("train#loss"),
        inferer=parser.get_parsed_content("train#inferer"),
        prepare_batch=PrepareReportBatch(),
        iteration_update=MicroBatchIteration(),
        train_handlers=[GradientClipping(network.parameters()), clock],
        decollate=False,
    ).run()
    if process_index() == 0:
        print(json.dumps(sum(clock.tokens[1:]) / (clock.seconds[-1] - clock.seconds[0])))
    end_processes()


def benchmark(
    output: str | None = None,
    bundle: str = "bundles/u2llm",
    processes: int = 2,
    distribution: str = "replicate",
    cases: int = 8,
    slabs: int = 3,
    questions: int = 3,
    answer: int = 100,
    steps: int = 6,
    rounds: int = 3,
    child_of: int = 0,
) -> None:
    """Print the tokens per second of one and of several processes, and their ratio.

    Args:
        output: JSON file for the figures.
        bundle: folder of the bundle.
        processes: number of processes, one thread each.
        distribution: "replicate" (DDP) or "full_shard" (FSDP2).
        cases: cases a step and process.
        slabs: slabs of each volume.
        questions: questions about each volume.
        answer: tokens of each answer.
        steps: steps that are measured, after a first one.
        rounds: rounds, alternating; the fastest of each counts.
        child_of: used by this script itself.
    """
    sizes = {"cases": cases, "slabs": slabs, "questions": questions, "answer": answer}
    if child_of:
        child(bundle, child_of, distribution, steps, **sizes)
        return
    if processes < 2 or min(*sizes.values(), steps, rounds) < 1:
        raise InputError("processes must be at least 2; cases, slabs, questions, answer, steps and rounds at least 1")
    options = {"bundle": bundle, "distribution": distribution, "steps": steps, **sizes}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def tokens_per_second(number: int) -> float:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
        command = [sys.executable, *(launcher if number > 1 else []), __file__, *arguments, "--child_of", str(number)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{number} processes: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])

    rates: dict[int, list[float]] = {1: [], processes: []}
    for _ in range(rounds):
        for number, measured in rates.items():
            measured.append(tokens_per_second(number))
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    best = {number: max(measured) for number, measured in rates.items()}
    figures = {"machine": machine, **options, "tokens per second": rates, "ratio": best[processes] / best[1]}
    print(f"{machine}; {distribution}, {sizes}")
    print("| processes, one core each | tokens per second |\n|---|---|")
    for number, rate in best.items():
        print(f"| {number} | {rate:.0f} |")
    print(f"ratio: {figures['ratio']:.2f}")
    write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(benchmark)
