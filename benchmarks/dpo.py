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

"""A step of preference optimization against a straightforward one.

The straightforward step holds a second model as the reference, encodes the image for each of its four passes (chosen
and rejected answers, policy and reference), and makes the logits of whole sequences. The step of `dpo.json` leaves the
adapters out for the reference, encodes each image once, and makes logits where there is an answer, in chunks. Each runs
in a process of its own; rounds alternate, the fastest counts, and the losses must be equal::

    python benchmarks/dpo.py --output runs/dpo.json
"""

from __future__ import annotations

import copy
import json
import os
import platform
import subprocess
import sys
import time
from typing import Any

import fire
import torch
import torch.nn.functional as F
from bundle_model import peak_memory, reset_peak_memory, write_figures

from monai_u2.exceptions import InputError
from monai_u2.inferers import PreferenceInferer
from monai_u2.losses import PreferenceLoss
from monai_u2.networks import U2LLM, U2LLMConfig, prepare_finetuning

SIZES: dict[str, Any] = {"vocabulary": 128_000, "hidden": 512, "layers": 4, "pairs": 2, "slabs": 2, "queries": 256}
SIZES |= {"question": 48, "answer": 256, "vision": {}}
VARIANTS = ("straightforward", "here")
# the same for both: the heap gives back what is freed
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1048576"}


def built(size: dict[str, Any]) -> tuple[U2LLM, dict[str, torch.Tensor]]:
    """Policy with LoRA adapters that aren't at their start, and a batch of pairs."""
    torch.manual_seed(0)
    text = {"model_type": "llama", "vocab_size": size["vocabulary"], "hidden_size": size["hidden"]}
    text |= {"intermediate_size": 3 * size["hidden"], "num_hidden_layers": size["layers"], "num_attention_heads": 8}
    text |= {"num_key_value_heads": 8, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None}
    patch = size["vocabulary"] - 1
    config = U2LLMConfig(
        text_config=text | {"pad_token_id": 0},
        vision=size["vision"],
        u2_tokenizer={"num_heads": 4, "num_layers": 1, "num_selected": size["queries"], "num_queries": size["queries"]},
        image_token_id=patch,
    )
    frozen = ["model.vision_tower", "model.projector", "model.u2_tokenizer"]
    network = prepare_finetuning(U2LLM(config), lora={"r": 16, "target_modules": ["q_proj", "v_proj"]}, frozen=frozen)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    rows = 2 * size["pairs"]
    question = torch.randint(1, patch, (size["pairs"], size["question"])).repeat_interleave(2, dim=0)
    answers = torch.randint(1, patch, (rows, size["answer"]))
    ids = torch.cat([torch.full((rows, size["queries"]), patch), question, answers], dim=1)
    labels = ids.clone()
    labels[:, : -size["answer"]] = -100
    image = torch.rand(size["pairs"], size["slabs"], *network.model.vision_tower.image_size)
    image_index = torch.arange(size["pairs"]).repeat_interleave(2)
    batch = {"input_ids": ids, "labels": labels, "question_ids": question, "image_index": image_index}
    return network.train(), {"inputs": image, **batch}


def straightforward_loss(policy: U2LLM, reference: U2LLM, batch: dict[str, torch.Tensor], beta: float) -> torch.Tensor:
    """`-log σ(β ((log π_c - log π_r) - (log ρ_c - log ρ_r)))`, each term from the logits of a whole sequence."""

    def log_probs(model: U2LLM, first: int) -> torch.Tensor:
        ids, labels = batch["input_ids"][first::2], batch["labels"][first::2]
        logits = model(batch["inputs"], input_ids=ids, question_ids=batch["question_ids"][first::2]).logits
        tokens = logits[:, :-1].float().log_softmax(dim=-1)
        targets = labels[:, 1:]
        chosen = tokens.gather(2, targets.clamp(min=0)[..., None])[..., 0]
        return (chosen * (targets != -100)).double().sum(dim=1)

    chosen, rejected = log_probs(policy, 0), log_probs(policy, 1)
    with torch.no_grad():
        reference_chosen, reference_rejected = log_probs(reference, 0), log_probs(reference, 1)
    return -F.logsigmoid(beta * ((chosen - rejected) - (reference_chosen - reference_rejected))).mean()


def measure(variant: str, size: dict[str, Any], steps: int) -> dict[str, float]:
    """Seconds and growth of the process of a step, and the first loss."""
    network, batch = built(size)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-4)
    inferer, loss_function = PreferenceInferer("adapter", precision="float32"), PreferenceLoss(beta=0.1)
    before = reset_peak_memory()
    reference = None
    if variant == "straightforward":
        reference = copy.deepcopy(network).eval().requires_grad_(False)
        for name, parameter in reference.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    times, losses = [], []
    for _ in range(steps):
        begin = time.perf_counter()
        if reference is None:
            loss = loss_function(**inferer(network=network, **batch))
        else:
            loss = straightforward_loss(network, reference, batch, beta=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
        losses.append(loss.item())
    return {"seconds": min(times), "growth": peak_memory() - before, "loss": losses[0]}


def benchmark(
    output: str | None = None,
    rounds: int = 1,
    steps: int = 2,
    sizes: dict[str, Any] | None = None,
    child: str | None = None,
) -> None:
    """Print a table of both steps and their ratios.

    Args:
        output: JSON file for the figures.
        rounds: processes for each step.
        steps: steps in each process; the fastest counts.
        sizes: other sizes, see :data:`SIZES`; `vision` holds arguments of ViT3D, the paper's by default.
        child: used by this script itself.
    """
    size = SIZES | (sizes or {})
    if child is not None:
        given = json.loads(child) if isinstance(child, str) else child
        print(json.dumps(measure(given["variant"], given["size"], given["steps"])))
        return
    unknown = sorted(set(sizes or {}) - set(SIZES))
    if unknown or min(rounds, steps) < 1:
        raise InputError(
            f"sizes {unknown} aren't known, rounds is {rounds}, steps {steps}; expected some of {list(SIZES)}, and at "
            "least 1"
        )
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for variant in VARIANTS:
            task = json.dumps({"variant": variant, "size": size, "steps": steps})
            done = subprocess.run(
                [sys.executable, __file__, "--child", task],
                env={**os.environ, **ALLOCATOR},
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise RuntimeError(f"{variant} ended with {done.returncode}: {done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            held = best.setdefault(variant, found)
            best[variant] = {key: min(held[key], found[key]) for key in found}
    plain, here = (best[variant] for variant in VARIANTS)
    figures = {
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "sizes": size,
        **best,
        "faster": plain["seconds"] / here["seconds"],
        "smaller": plain["growth"] / max(here["growth"], 1),
        "difference of the losses": abs(plain["loss"] - here["loss"]),
    }
    print(f"{figures['machine']}; sizes {size}\n\n| step | seconds | growth, GB | loss |\n|---|---|---|---|")
    for variant in VARIANTS:
        row = best[variant]
        print(f"| {variant} | {row['seconds']:.2f} | {row['growth'] / 1e9:.2f} | {row['loss']:.6f} |")
    print(f"\nfaster {figures['faster']:.2f}, smaller {figures['smaller']:.2f}")
    write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(benchmark)
