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

"""Memory that a training step needs, computed from shapes: recipes of configs/models with language models' shapes.

Two steps run on tensors without content (PyTorch's FakeTensorMode), with the longest prompts and the most slabs that
the configuration admits; PyTorch's MemTracker counts the results of every operation. No GPU and no weights are needed.
`--check` takes the same steps for real on this CPU and compares::

    python benchmarks/training_memory.py --check True --output runs/training_memory.json

A process of several holds its share of weights, gradients and the optimizer's state, and the layers at work as a whole
(gathered). What CUDA itself takes and what its allocator leaves unused aren't counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import fire
import torch
from bundle_model import peak_memory, reset_peak_memory, write_figures
from monai.bundle import ConfigParser
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_layers import GradientCheckpointingLayer

from monai_u2.exceptions import InputError
from monai_u2.inferers import AutocastInferer, PreferenceInferer
from monai_u2.losses import PreferenceLoss, ReportLoss
from monai_u2.networks import U2LLM, prepare_finetuning

CONFIGS = Path(__file__).parents[1] / "bundles" / "u2llm" / "configs"
# training, shapes, recipe, processes that share the weights
CASES = [
    ("sft", "llama32_1b", "four_gpus", 4),
    ("dpo", "llama32_1b", "four_gpus", 4),
    ("sft", "qwen3_4b", "four_gpus", 4),
    ("sft", "qwen3_8b", "four_gpus", 4),
    ("sft", "llama32_1b", "one_gpu_24gb", 1),
    ("dpo", "llama32_1b", "one_gpu_24gb", 1),
    ("sft", "qwen3_4b", "one_gpu_24gb", 1),
    ("sft", "llama32_1b", "cpu", 1),
    ("dpo", "llama32_1b", "cpu", 1),
    ("sft", None, None, 1),
]
CHECKED = [("sft", "llama32_1b", "cpu"), ("dpo", "llama32_1b", "cpu"), ("sft", None, None)]
GB = 1e9


class PeakTracker(MemTracker):
    """The largest sum of what a process holds, of parts that processes share and parts that they don't.

    Modules have no statistics of their own, which one that is called twice in a step, such as a reference, can't have.

    Args:
        processes: number that share weights, gradients and the optimizer's state.
    """

    SHARED = ("Parameter", "Gradient", "Optstate")

    def __init__(self, processes: int = 1) -> None:
        super().__init__()
        self.processes = processes
        self.peak: dict[str, float] = {}

    def count_as_gradient(self, parameter: torch.nn.Parameter) -> None:
        self._update_and_maybe_create_winfos(parameter.grad, _MemRefType.GRAD)

    def _nothing(self, *args: Any) -> None: ...

    _pre_fw_hook = _post_fw_hook = _pre_bw_hook = _post_bw_hook = _nothing

    def _update_peak_stats(self, peak_state: Any) -> None:
        for held in self._curr_mem_snap.values():
            parts = {getattr(name, "value", name): size for name, size in held.items()}
            total = parts.pop("Total")
            shared = sum(parts[name] for name in self.SHARED)
            now = {name: parts[name] / self.processes for name in self.SHARED}
            now["Activation"] = total - shared
            if sum(now.values()) > sum(self.peak.values()):
                self.peak = now


class AllTrue(TorchDispatchMode):
    """Tensors without content have no true places: all of them are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.ops.aten.nonzero.default:
            return torch.stack(self.places(args[0]), dim=1)
        if func is torch.ops.aten.index.Tensor:
            indices: list[Any] = []
            for index in args[1]:
                indices += self.places(index) if index is not None and index.dtype == torch.bool else [index]
            args = (args[0], indices)
        return func(*args, **(kwargs or {}))

    @staticmethod
    def places(mask: torch.Tensor) -> list[torch.Tensor]:
        """Index along each axis of each place `(mask.numel(),)`."""
        axes = torch.meshgrid(*[torch.arange(size) for size in mask.shape], indexing="ij")
        return [axis.flatten() for axis in axes]


def parsed(training: str, shapes: str | None, recipe: str | None) -> ConfigParser:
    """The configuration that a user would start."""
    parser = ConfigParser()
    models = [CONFIGS / "models" / f"{name}.json" for name in (shapes, recipe) if name]
    parser.read_config([CONFIGS / f"{training}.json", *models])
    parser["bundle_root"] = str(CONFIGS.parent)
    return parser


def batch(parser: ConfigParser, network: U2LLM, training: str, processes: int) -> dict[str, torch.Tensor]:
    """A micro-batch of the longest prompts and the most slabs."""
    read = parser.get_parsed_content
    cases = read("micro_batch_size") or read("batch_size") // processes
    rows = 2 if training == "dpo" else read("questions_per_image")
    queries, length, answer = network.num_image_tokens, read("max_length"), read("max_new_tokens")
    ids = torch.cat(
        [
            torch.full((cases * rows, queries), network.config.image_token_id),
            torch.ones(cases * rows, length - queries, dtype=torch.long),
        ],
        dim=1,
    )
    labels = torch.cat([torch.full((cases * rows, length - answer), -100), ids[:, -answer:]], dim=1)
    return {
        "image": torch.zeros(cases, read("max_slabs"), *network.model.vision_tower.image_size),
        "input_ids": ids,
        "question_ids": torch.ones(cases * rows, 64, dtype=torch.long),
        "image_index": torch.arange(cases).repeat_interleave(rows),
        "labels": labels,
    }


def steps(
    parser: ConfigParser, network: U2LLM, optimizer: torch.optim.Optimizer, training: str, processes: int
) -> None:
    """Two optimizer steps: in the second one the optimizer has its state. Each has two micro-batches where the process
    has several: in the second one there are gradients already."""
    precision = parser.get_parsed_content("precision")
    cases = parser.get_parsed_content("batch_size") // processes
    several = cases > (parser.get_parsed_content("micro_batch_size") or cases)
    for number in range(4 if several else 2):
        inputs = batch(parser, network, training, processes)
        image, labels = inputs.pop("image"), inputs["labels"]
        if training == "dpo":
            reference = "precomputed" if parser.get_parsed_content("lora") is None else "adapter"
            inputs["reference_log_probs"] = torch.zeros(len(labels) // 2, 2)
            loss = PreferenceLoss()(**PreferenceInferer(reference, precision=precision)(image, network, **inputs))
        else:
            del inputs["labels"]
            loss = ReportLoss()(AutocastInferer(precision)(image, network, **inputs), {"labels": labels})
        loss.backward()
        del loss
        if not several or number % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def on_meta(parser: ConfigParser) -> U2LLM:
    """The model with its adapters and what is frozen, without weights."""
    names = ("lora", "frozen", "activation_checkpointing", "frozen_precision")
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
        return prepare_finetuning(network, *[parser.get_parsed_content(name) for name in names]).train()


def materialized(network: U2LLM) -> U2LLM:
    network.to_empty(device="cpu")
    network.tie_weights()
    return network


def trained_by(network: U2LLM) -> list[torch.nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def tracked_peak(parser: ConfigParser, network: U2LLM, training: str, processes: int = 1) -> dict[str, float]:
    """Bytes of the parts of what a process holds when it holds most, in two steps."""
    optimizer = torch.optim.AdamW(trained_by(network))
    tracker = PeakTracker(processes)
    tracker.track_external(network, optimizer)
    for parameter in trained_by(network):
        parameter.register_post_accumulate_grad_hook(tracker.count_as_gradient)
    with tracker, AllTrue():
        steps(parser, network, optimizer, training, processes)
    return tracker.peak


def computed(training: str, shapes: str | None, recipe: str | None, processes: int) -> dict[str, Any]:
    """GB of a process, by shapes."""
    parser = parsed(training, shapes, recipe)
    network = on_meta(parser)
    with FakeTensorMode(allow_non_fake_inputs=True), mock.patch("torch.compiler.is_compiling", return_value=True):
        peak = tracked_peak(parser, materialized(network), training, processes)
    gathered = 0
    if processes > 1:
        layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
        of_layers = [size(layer.parameters()) for layer in layers]
        # the layer at work, the next one, and what is outside of layers
        gathered = 2 * max(of_layers) + size(network.parameters()) - sum(of_layers)
    names = {"weights": "Parameter", "gradients": "Gradient", "optimizer": "Optstate", "activations": "Activation"}
    out = {mine: peak[name] / GB for mine, name in names.items()} | {"gathered": gathered / GB}
    return out | {"total": sum(out.values()), "trained": sum(p.numel() for p in trained_by(network)) / 1e9}


def measured(training: str, shapes: str | None, recipe: str | None) -> float:
    """GB by which a process grows over two real steps."""
    parser = parsed(training, shapes, recipe)
    network = on_meta(parser)
    before = reset_peak_memory()
    for tensor in materialized(network).state_dict().values():
        tensor.zero_()
    steps(parser, network, torch.optim.AdamW(trained_by(network)), training, processes=1)
    return (peak_memory() - before) / GB


def checked(case: tuple[str, str | None, str | None]) -> float:
    """`measured` in a process of its own, whose heap gives back what is freed."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str([*case])],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def name_of(case: tuple[str, str | None, str | None]) -> str:
    training, shapes, recipe = case
    return " + ".join(f"{name}.json" for name in (training, shapes, recipe) if name)


def benchmark(
    output: str | None = None, check: bool = False, cases: list[Any] | None = None, measure: Any = None
) -> None:
    """Print the table.

    Args:
        output: JSON file of the figures.
        check: take the steps of some cases for real on this CPU; the largest takes 12 GB and minutes.
        cases: `[training, shapes, recipe, processes]` of each row.
        measure: used by the script itself.
    """
    if measure is not None:
        print(measured(*measure))
        return
    rows: dict[str, Any] = {}
    columns = ("weights", "gradients", "optimizer", "gathered", "activations", "total")
    print(f"| configuration | processes | trained, billions | {' | '.join(columns)}, GB |\n|{9 * '---|'}")
    for training, shapes, recipe, processes in cases or CASES:
        name = name_of((training, shapes, recipe))
        row = computed(training, shapes, recipe, processes)
        rows[name] = {**row, "processes": processes}
        shown = " | ".join(f"{row[column]:.1f}" for column in columns)
        print(f"| {name} | {processes} | {row['trained']:.2f} | {shown} |", flush=True)
    if check:
        print("\n| configuration | computed, GB | measured, GB | ratio |\n|---|---|---|---|")
        for case in CHECKED:
            name = name_of(case)
            rows[name]["measured"] = checked(case)
            mine, real = rows[name]["total"], rows[name]["measured"]
            print(f"| {name} | {mine:.2f} | {real:.2f} | {real / mine:.2f} |", flush=True)
    write_figures(output, {"rows": rows})


if __name__ == "__main__":
    try:
        fire.Fire(benchmark)
    except InputError as error:
        sys.exit(str(error))
