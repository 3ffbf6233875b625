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

"""How fast and how big the tokenizer and the vision tower are, against the published equations written out literally.

Each figure comes from a process of its own, rounds alternate between the variants, the fastest round counts; ratios are
of one run. The literal tokenizer sums each of its 1024 selected tokens in a loop, by which the heap fragments under
glibc's default allocator: its first call waits for the heap to grow, later calls find it grown. So two settings of the
allocator are measured, and first and later calls by themselves::

    python benchmarks/tokenizer.py --output runs/tokenizer.json
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import fire
import torch
from bundle_model import peak_memory, reset_peak_memory, write_figures
from literal_tokenizer import literal_tokenizer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from monai_u2.exceptions import InputError
from monai_u2.networks import PaperU2Tokenizer, U2Tokenizer, ViT3D

PAPER = {"slabs": 8, "tokens": 256, "channels": 2048, "heads": 8, "layers": 4, "selected": 1024, "queries": 256}
PAPER |= {"text": 64, "grid": [4, 8, 8], "vision": {}}
ALLOCATORS = {"default": {}, "mmap above 1 MiB": {"MALLOC_MMAP_THRESHOLD_": "1048576"}}
TOKENIZERS = ("literal", "paper", "folded", "default")
TOWERS = ("literal tower", "tower")
PARTS = ("forward", "training", "bfloat16", "vision")
MEASURED = ("first call", "later call", "growth")


def matmul_peak(dtype: torch.dtype, size: int) -> float:
    """Operations per second of the largest square product tried."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times)


def literal_tower(tower: ViT3D, image: torch.Tensor) -> torch.Tensor:
    """The tower with all attention matrices held, as without fused attention."""
    x = tower.patch_embedding(image)
    x = torch.cat([tower.cls_token.expand(len(x), -1, -1), x], dim=1)
    for block in tower.blocks:
        attention, heads = block.attn, block.attn.num_heads
        normed = block.norm1(x)
        q, k, v = attention.qkv(normed).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        x = x + attention.out_proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return tower.norm(x)[:, 1:]


def built(variant: str, dtype: torch.dtype, size: dict[str, Any]) -> tuple[nn.Module, Callable, list[torch.Tensor]]:
    """The module of a variant, what is run of it, and the inputs."""
    if variant in TOWERS:
        tower = ViT3D(**size["vision"]).to(dtype)
        inputs = [torch.rand(size["slabs"], 1, *tower.image_size).to(dtype)]
        return tower, tower if variant == "tower" else partial(literal_tower, tower), inputs
    shape = {"hidden_size": size["channels"], "num_heads": size["heads"], "num_selected": size["selected"]}
    shape["num_queries"] = size["queries"]
    module = U2Tokenizer(**shape) if variant == "default" else PaperU2Tokenizer(**shape, num_layers=size["layers"])
    module = module.to(dtype)
    lengths = (size["slabs"], size["tokens"]), (size["text"],)
    inputs = [torch.randn(1, *length, size["channels"]).to(dtype) for length in lengths]
    if variant == "literal":
        state = dict(module.named_parameters())
        return module, partial(literal_tokenizer, state, heads=size["heads"], num_layers=size["layers"]), inputs
    if variant == "folded":
        module = module.fold()
    return module, partial(module, grid=size["grid"]), inputs


def operations(variant: str, size: dict[str, Any]) -> float | None:
    """Floating-point operations of a variant's products, forward, as PyTorch counts them; None for the default, whose
    masks need values."""
    if variant == "default":
        return None
    with torch.device("meta"), torch.no_grad():
        module, run, inputs = built(variant, torch.float32, size)
        module.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            run(*inputs)
    total = counter.get_total_flops()
    if variant == "literal":  # sums its selected tokens without a product
        total += 2 * size["slabs"] * size["tokens"] * size["channels"] * size["selected"]
    return total


def measure(variant: str, mode: str, dtype: str, size: dict[str, Any]) -> dict[str, float]:
    """One variant in this process: seconds of its first call and of the fastest later one, growth of the process."""
    torch.manual_seed(0)
    grad = mode == "training"
    torch.set_grad_enabled(grad)
    module, run, inputs = built(variant, getattr(torch, dtype), size)
    inputs[0].requires_grad_(grad)
    before = reset_peak_memory()
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        out = run(*inputs)
        if grad:
            out.float().square().mean().backward()
        times.append(time.perf_counter() - begin)
        if grad:
            module.zero_grad(set_to_none=True)
    return {"first call": times[0], "later call": min(times[1:]), "growth": peak_memory() - before}


def in_new_process(task: str, allocator: str, **arguments: Any) -> dict[str, float]:
    """:func:`measure` or :func:`parity` in a process of its own: the literal function leaves it with a grown heap."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps({"task": task, **arguments})],
        env={**os.environ, **ALLOCATORS[allocator]},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"{task} of {arguments} ended with {done.returncode} (-9: not enough memory): {done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def parity(size: dict[str, Any]) -> dict[str, float]:
    """Distance of paper and folded to the literal function, in float64, as a share of how much its outputs differ.

    In float64, since the published function's outputs are about equal at any random weights: in float32 their
    difference is of the size of rounding. Relative positions and weights of queries and keys are drawn large.
    """
    torch.manual_seed(0)
    module = PaperU2Tokenizer(
        size["channels"], size["heads"], size["layers"], size["selected"], size["queries"]
    ).requires_grad_(False)
    for name, parameter in module.named_parameters():
        if name.endswith(("wq.weight", "wk.weight", "score_net.weight")):
            parameter.mul_(4.0)
        elif name.endswith("relative_bias"):
            parameter.normal_()
    module = module.double()
    shapes = (size["slabs"], size["tokens"]), (size["text"],)
    tokens, text = (torch.randn(1, *shape, size["channels"], dtype=torch.float64) for shape in shapes)
    expected = literal_tokenizer(dict(module.named_parameters()), tokens, text, size["heads"], size["layers"])
    spread = (expected - expected.mean(dim=1, keepdim=True)).norm()
    others = (("paper", module), ("folded", module.fold()))
    return {name: ((other(tokens, text) - expected).norm() / spread).item() for name, other in others}


def benchmark(
    output: str | None = None,
    rounds: int = 2,
    sizes: dict[str, Any] | None = None,
    parts: list[str] | str = PARTS,
    peak_size: int = 4096,
    child: str | None = None,
) -> None:
    """Print the tables.

    Args:
        output: JSON file for the figures.
        rounds: processes for each figure; the fastest counts.
        sizes: other sizes than the paper's, see :data:`PAPER`; `vision` holds arguments of ViT3D.
        parts: some of "forward", "training", "bfloat16" (the tokenizer's) and "vision" (the tower's).
        peak_size: size of the square product that measures the peak.
        child: used by this script itself.
    """
    if child is not None:
        given = json.loads(child) if isinstance(child, str) else dict(child)
        print(json.dumps({"measure": measure, "parity": parity}[given.pop("task")](**given)))
        return
    unknown = set(sizes or {}) - set(PAPER)
    if unknown or rounds < 1:
        raise InputError(
            f"sizes {sorted(unknown)} aren't known, rounds is {rounds}; expected some of {list(PAPER)}, at least 1"
        )
    parts = [parts] if isinstance(parts, str) else list(parts)
    if unknown := sorted(set(parts) - set(PARTS)):
        raise InputError(f"parts {unknown} aren't known; expected some of {list(PARTS)}")
    size = PAPER | (sizes or {})
    machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    machine |= {"torch": torch.__version__}
    peaks = {name: matmul_peak(getattr(torch, name), peak_size) for name in ("float32", "bfloat16")}
    print(f"{machine}; sizes {size}")
    print(f"peak of a {peak_size}² product: " + ", ".join(f"{n} {p / 1e9:.0f} GFLOP/s" for n, p in peaks.items()))
    figures: dict[str, Any] = {"machine": machine, "sizes": size, "peak": peaks, "rows": []}
    if "forward" in parts:
        figures["difference to the literal function"] = in_new_process("parity", "mmap above 1 MiB", size=size)
        print("difference to the literal function: " + json.dumps(figures["difference to the literal function"]))
    plan = []
    for allocator in ALLOCATORS:
        if "forward" in parts:
            plan.append((allocator, "forward", "float32", TOKENIZERS))
        if "training" in parts:
            plan.append((allocator, "training", "float32", ("literal", "paper", "default")))
    if "bfloat16" in parts:
        plan.append(("default", "forward", "bfloat16", TOKENIZERS))
    if "vision" in parts:
        plan += [("default", "forward", dtype, TOWERS) for dtype in ("float32", "bfloat16")]
    print(
        "\n| allocator | | | first call, s | ratio | later call, s | ratio | of the peak | growth, GB | ratio |\n"
        "|---|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for allocator, mode, dtype, variants in plan:
        best: dict[str, dict[str, float]] = {}
        for _ in range(rounds):
            for variant in variants:
                found = in_new_process("measure", allocator, variant=variant, mode=mode, dtype=dtype, size=size)
                held = best.setdefault(variant, found)
                best[variant] = {key: min(held[key], found[key]) for key in found}
        literal = best[variants[0]]
        for variant, row in best.items():
            share = operations(variant, size)
            if share is not None:  # going back takes twice the operations
                share *= (3 if mode == "training" else 1) / row["later call"] / peaks[dtype]
            ratios = {f"ratio of {key}": literal[key] / max(row[key], 1e-9) for key in MEASURED}
            row |= {"share of peak": share, **ratios}
            figures["rows"].append({"allocator": allocator, "mode": mode, "dtype": dtype, "variant": variant, **row})
            print(
                f"| {allocator} | {mode}, {dtype} | {variant} | {row['first call']:.2f} | "
                f"{row['ratio of first call']:.2f} | {row['later call']:.2f} | {row['ratio of later call']:.2f} | "
                f"{'' if share is None else f'{share:.0%}'} | {row['growth'] / 1e9:.2f} | "
                f"{row['ratio of growth']:.2f} |",
                flush=True,
            )
        write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(benchmark)
