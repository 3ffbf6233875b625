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
glibc's default allocator, so both settings are measured::

    python benchmarks/tokenizer.py --output runs/tokenizer.json
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from typing import Any

import fire
import torch
from bundle_model import peak_memory, reset_peak_memory, write_figures
from literal_tokenizer import literal_tokenizer
from torch import nn

from monai_u2.exceptions import InputError
from monai_u2.networks import PaperU2Tokenizer, U2Tokenizer, ViT3D

PAPER = {"slabs": 8, "tokens": 256, "channels": 2048, "heads": 8, "layers": 4, "selected": 1024, "queries": 256}
PAPER |= {"text": 64, "grid": [4, 8, 8], "vision": {}}
ALLOCATORS = {"default": {}, "mmap above 1 MiB": {"MALLOC_MMAP_THRESHOLD_": "1048576"}}
TOKENIZERS = ("literal", "paper", "folded", "default")
TOWERS = ("literal tower", "tower")
PARTS = ("tokenizer", "vision")


def tokenizer_operations(size: dict[str, Any]) -> float:
    """Floating-point operations of the published function's products, forward, a volume."""
    c, k, q, text = size["channels"], size["selected"], size["queries"], size["text"]
    tokens = size["slabs"] * size["tokens"]
    visual = k + k // 2 + k // 4
    refiner = 2 * 8 * tokens * c**2 + 4 * tokens * (size["tokens"] + size["slabs"]) * c
    selection = 4 * tokens * c * k
    projections = 2 * c**2 * (8 * q + 2 * visual + 2 * text)
    aggregator = projections + 4 * q * (q + visual + text) * c
    final = 2 * c**2 * (q + visual) + 4 * q * visual * c
    return size["layers"] * (refiner + aggregator) + selection + final


def tower_operations(tower: ViT3D, slabs: int) -> float:
    """Floating-point operations of the vision tower's products, forward."""
    hidden = tower.norm.normalized_shape[0]
    mlp = tower.blocks[0].mlp.linear1.out_features
    patches = 1
    for count in tower.grid:
        patches *= count
    embedding = 2 * patches * tower.patch_embedding.patch_embeddings[1].in_features * hidden
    tokens = patches + 1
    block = 2 * tokens * (4 * hidden**2 + 2 * hidden * mlp) + 4 * tokens**2 * hidden
    return slabs * (embedding + len(tower.blocks) * block)


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


def measure(variant: str, mode: str, dtype: str, size: dict[str, Any]) -> dict[str, float]:
    """One variant in this process: seconds and growth of the process of one call, its operations."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    grad = mode == "training"
    torch.set_grad_enabled(grad)
    if variant in TOWERS:
        module: nn.Module = ViT3D(**size["vision"]).to(kind)
        inputs = (torch.rand(size["slabs"], 1, *module.image_size, dtype=kind),)
        operations = tower_operations(module, size["slabs"])
        run = module if variant == "tower" else lambda image: literal_tower(module, image)
    else:
        shape = {"hidden_size": size["channels"], "num_heads": size["heads"], "num_selected": size["selected"]}
        shape["num_queries"] = size["queries"]
        module = U2Tokenizer(**shape) if variant == "default" else PaperU2Tokenizer(**shape, num_layers=size["layers"])
        module = module.to(kind)
        tokens = torch.randn(1, size["slabs"], size["tokens"], size["channels"], dtype=kind, requires_grad=grad)
        inputs = (tokens, torch.randn(1, size["text"], size["channels"], dtype=kind))
        operations = tokenizer_operations(size)
        if variant == "literal":
            state = dict(module.named_parameters())
            run = lambda *given: literal_tokenizer(state, *given, size["heads"], size["layers"])  # noqa: E731
        elif variant == "folded":
            module = module.fold()
            run = module
        else:
            run = lambda *given: module(*given, grid=size["grid"])  # noqa: E731
    before = reset_peak_memory()
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        out = run(*inputs)
        if grad:
            out.float().square().mean().backward()
        times.append(time.perf_counter() - begin)
        if grad:
            module.zero_grad(set_to_none=True)
    return {"seconds": min(times), "growth": peak_memory() - before, "operations": operations}


def in_new_process(allocator: str, **arguments: Any) -> dict[str, float]:
    """:func:`measure` in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(arguments)],
        env={**os.environ, **ALLOCATORS[allocator]},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{arguments['variant']}, {arguments['mode']}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def parity(size: dict[str, Any]) -> dict[str, float]:
    """Largest difference to the literal function, relative to its largest output: paper and folded.

    Relative positions and queries are drawn large here: at the published initialization all outputs are about equal.
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
    tokens, text = (
        torch.randn(1, *shape, size["channels"]) for shape in ((size["slabs"], size["tokens"]), (size["text"],))
    )
    expected = literal_tokenizer(dict(module.named_parameters()), tokens, text, size["heads"], size["layers"])
    differences = {}
    for name, other in (("paper", module), ("folded", module.fold())):
        differences[name] = ((other(tokens, text) - expected).abs().max() / expected.abs().max()).item()
    spread = (expected - expected.mean(dim=1, keepdim=True)).norm() / expected.norm()
    return differences | {"spread of the outputs": spread.item()}


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
        parts: some of "tokenizer" and "vision".
        peak_size: size of the square product that measures the peak.
        child: used by this script itself.
    """
    if child is not None:
        print(json.dumps(measure(**(json.loads(child) if isinstance(child, str) else child))))
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
    if "tokenizer" in parts:
        figures["difference to the literal function"] = parity(size)
        print("difference to the literal function: " + json.dumps(figures["difference to the literal function"]))
    plan = []
    if "tokenizer" in parts:
        for allocator in ALLOCATORS:
            plan.append((allocator, "forward", "float32", TOKENIZERS))
            plan.append((allocator, "training", "float32", ("literal", "paper", "default")))
        plan.append(("default", "forward", "bfloat16", TOKENIZERS))
    if "vision" in parts:
        plan += [("default", "forward", dtype, TOWERS) for dtype in ("float32", "bfloat16")]
    print(
        "\n| allocator | | | seconds | ratio | of the peak | growth, GB | ratio |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for allocator, mode, dtype, variants in plan:
        best: dict[str, dict[str, float]] = {}
        for _ in range(rounds):
            for variant in variants:
                found = in_new_process(allocator, variant=variant, mode=mode, dtype=dtype, size=size)
                held = best.setdefault(variant, found)
                best[variant] = {key: min(held[key], found[key]) for key in found}
        first = best[variants[0]]
        for variant, row in best.items():
            share = row["operations"] * (3 if mode == "training" else 1) / row["seconds"] / peaks[dtype]
            row |= {"faster": first["seconds"] / row["seconds"], "smaller": first["growth"] / max(row["growth"], 1)}
            # the default computes another function: no share of the published one's operations
            row |= {"share of peak": None if variant == "default" else share}
            figures["rows"].append({"allocator": allocator, "mode": mode, "dtype": dtype, "variant": variant, **row})
            shown = "" if variant == "default" else f"{share:.0%}"
            print(
                f"| {allocator} | {mode}, {dtype} | {variant} | {row['seconds']:.2f} | {row['faster']:.2f} | "
                f"{shown} | {row['growth'] / 1e9:.2f} | {row['smaller']:.2f} |",
                flush=True,
            )
        write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(benchmark)
