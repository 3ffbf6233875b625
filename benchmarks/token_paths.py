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

"""Token paths between vision tower and language model at equal budget.

Each path starts from the same frozen, pre-trained vision tower and sees the same cases in the same order for the same
number of steps; what is compared is the finding F1 of the greedy reports on the same validation cases, over seeds::

    python benchmarks/token_paths.py --vision bundles/u2llm/models/vision.pt --output docs/results/token_paths.json

Beside the paths: finding logits as a prefix of the language model, and both with images zeroed. Each run takes minutes;
runs that the output file has already, with the same settings, aren't repeated.
"""

from __future__ import annotations

import json
import logging
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from bundle_model import write_figures
from monai.bundle import ConfigParser
from monai.transforms import Compose
from monai.utils import set_determinism
from torch import nn
from tqdm import tqdm

from monai_u2.data import check_batch_size, collate_reports, group_by_image, load_records
from monai_u2.data.phantom import FINDING_LABELS, generate_phantoms, parse_findings
from monai_u2.data.phantom.dataset import PHANTOM_VERSION
from monai_u2.engines import PrepareReportBatch
from monai_u2.exceptions import InputError
from monai_u2.losses import FindingLoss, ReportLoss
from monai_u2.metrics import micro_f1

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"tokenizer": {"type": "paper", "num_layers": 4}},
    "linear projector": {"tokenizer": {"type": "linear", "pooled_grid": [4, 2, 4]}},
    "query resampler": {"tokenizer": {"type": "resampler", "num_layers": 2}},
    "default + finding logits": {"finding_tokens": 4},
    "default, images zeroed": {"zeroed": True},
    "default + finding logits, images zeroed": {"finding_tokens": 4, "zeroed": True},
}
_KEPT_OPTIONS = {
    "paper": ("num_heads", "num_selected", "num_queries"),
    "linear": (),
    "resampler": ("num_heads", "num_queries"),
}


class PrecomputedTokens(nn.Module):
    """Stands in for a frozen vision tower: what comes in as slabs are its tokens already."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.grid = tower.grid

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`(M, 1, 1, N, C)` to `(M, N, C)`."""
        return image[:, 0, 0]


def configured(bundle: str, **overrides: Any) -> ConfigParser:
    """The bundle's sft.json with overrides."""
    parser = ConfigParser()
    parser.read_config(str(Path(bundle) / "configs" / "sft.json"))
    parser["bundle_root"] = str(Path(bundle).resolve())
    for key, value in overrides.items():
        parser[key] = value
    return parser


@torch.no_grad()
def encode(parser: ConfigParser, items: list[dict[str, Any]], name: str) -> tuple[list[dict[str, Any]], torch.Tensor]:
    """The vision tower's tokens of each case (float16), and those of a slab of zeros."""
    tower = parser.get_parsed_content("network").model.vision_tower.eval()
    blocks = ("load_transforms", "image_transforms", "target_transforms", "finding_transforms")
    preprocess = Compose([step for block in blocks for step in parser.get_parsed_content(block)])
    cases = []
    for item in tqdm(items, desc=name):
        case = preprocess({key: item[key] for key in ("image", "lesion_mask", "findings")})
        tokens = tower(case["image"].as_tensor()[:, None].float()).half()
        cases.append(item | {"tokens": tokens[:, None], "vector": torch.as_tensor(case["findings"])})
    zeros = tower(torch.zeros(1, 1, *tower.image_size)).half()
    return cases, zeros[:, None]


def build(bundle: str, vision: str, variant: dict[str, Any]) -> tuple[nn.Module, ConfigParser]:
    """Network of a variant with precomputed tokens in the place of the vision tower."""
    parser = configured(bundle, vision_checkpoint=vision)
    options = dict(parser["network_def#config#u2_tokenizer"])
    if "tokenizer" in variant:
        override = variant["tokenizer"]
        kept = _KEPT_OPTIONS[override["type"]]
        parser["network_def#config#u2_tokenizer"] = {key: options[key] for key in kept if key in options} | override
    parser["num_finding_tokens"] = variant.get("finding_tokens", 0)
    network = parser.get_parsed_content("network")
    network.model.vision_tower = PrecomputedTokens(network.model.vision_tower)
    return network, parser


def batch_of(cases: list[dict[str, Any]], prompt: Compose, zeros: torch.Tensor | None) -> dict[str, Any]:
    """Collated batch with tokens as image, zeroed where asked for."""
    items = []
    for case in cases:
        tokens = case["tokens"] if zeros is None else zeros.expand_as(case["tokens"])
        asked = prompt({key: case[key] for key in ("conversations", "question") if key in case})
        ids = {key: asked[key] for key in ("input_ids", "question_ids", "labels") if key in asked}
        items.append({"image": tokens.float(), "findings": case["vector"], **ids})
    return collate_reports(items)


def train(
    network: nn.Module,
    parser: ConfigParser,
    cases: list[dict[str, Any]],
    zeros: torch.Tensor | None,
    seed: int,
    steps: int,
    batch_size: int,
) -> list[float]:
    """Train on the answers (and on the findings, at the image tokens); returns the loss of each step."""
    transforms = parser.get_parsed_content("train#preprocessing_transforms")
    first = next(i for i, step in enumerate(transforms) if type(step).__name__ == "RandSelectConversationsd")
    prompt = Compose(transforms[first:]).set_random_state(seed)
    loss_function, prepare = ReportLoss(FindingLoss(volume_weight=1.0)), PrepareReportBatch()
    optimizer = torch.optim.AdamW(network.parameters(), lr=parser["learning_rate"], betas=(0.9, 0.98))
    warmup = 50
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * np.cos(np.pi * step / steps))
    )
    rng, order, losses = np.random.default_rng(seed), [], []
    network.train()
    for _ in tqdm(range(steps), desc="steps", mininterval=5):
        if len(order) < batch_size:
            order = order + list(rng.permutation(len(cases)))
        chosen, order = order[:batch_size], order[batch_size:]
        image, targets, _, arguments = prepare(batch_of([cases[i] for i in chosen], prompt, zeros))
        with torch.autocast("cpu", torch.bfloat16):
            output = network(image, **arguments)
        loss = loss_function(output, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(round(loss.item(), 4))
    return losses


@torch.no_grad()
def evaluate(
    network: nn.Module, parser: ConfigParser, cases: list[dict[str, Any]], zeros: torch.Tensor | None
) -> dict[str, Any]:
    """Finding F1 of the greedy reports, and how many of them differ."""
    prompt = Compose([parser.get_parsed_content("validate#preprocessing_transforms")[-1]])
    inferer, tokenizer = parser.get_parsed_content("validate#inferer"), parser.get_parsed_content("text_tokenizer")
    prepare, reports = PrepareReportBatch(), []
    network.eval()
    for start in range(0, len(cases), 32):
        image, _, _, arguments = prepare(batch_of(cases[start : start + 32], prompt, zeros))
        ids = inferer(image, network, **arguments)
        reports += [tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in ids]
    predicted = np.array([[label in parse_findings(report) for label in FINDING_LABELS] for report in reports])
    reference = np.array([[label in case["findings"] for label in FINDING_LABELS] for case in cases])
    return {"f1": micro_f1(predicted, reference), "distinct": len(set(reports))}


def finished_runs(output: str | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs in the output file.

    Raises:
        InputError: when they have other settings.
    """
    if output is None or not Path(output).is_file():
        return []
    figures = json.loads(Path(output).read_text())
    held = figures.get("settings") if isinstance(figures, dict) else None
    if held != settings:
        raise InputError(
            f"output {output} holds runs with the settings {held}; these are {settings}: choose another file, or "
            "delete it"
        )
    return figures["runs"]


def token_paths(
    vision: str = "bundles/u2llm/models/vision.pt",
    bundle: str = "bundles/u2llm",
    dataset_dir: str | None = None,
    variants: str | list[str] | None = None,
    seeds: int = 3,
    steps: int = 600,
    num_train: int = 600,
    num_validation: int = 100,
    batch_size: int = 8,
    learning_rate: float | None = None,
    questions_per_image: int = 1,
    question_weights: dict[str, float] | None = None,
    output: str | None = None,
) -> None:
    """Train and compare the variants; print a table of mean and range over the seeds.

    Args:
        vision: vision checkpoint, the same start for all.
        bundle: folder of the bundle.
        dataset_dir: folder of the phantoms; the bundle's by default.
        variants: names of :data:`VARIANTS`; all of them by default.
        seeds: number of seeds.
        steps: training steps of each run.
        num_train: training cases.
        num_validation: cases to compare on.
        batch_size: cases a step.
        learning_rate: of all but the vision tower, which is frozen; that of sft.json by default.
        questions_per_image: questions about each.
        question_weights: their mixture; whole reports alone by default.
        output: JSON file for the figures; runs that it has aren't repeated.
    """
    logging.getLogger("monai").setLevel(logging.ERROR)
    names = list(VARIANTS) if variants is None else [variants] if isinstance(variants, str) else list(variants)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise InputError(f"variants {unknown} aren't known; expected some of {list(VARIANTS)}")
    if not Path(vision).is_file():
        raise InputError(f"vision {vision}: there is no such file; expected the vision.pt of a pre-training")
    common = {"vision_checkpoint": vision, **({"dataset_dir": dataset_dir} if dataset_dir else {})}
    parser = configured(bundle, **common)
    settings = {"steps": steps, "num_train": num_train, "num_validation": num_validation, "batch_size": batch_size}
    settings |= {"learning_rate": learning_rate or parser["learning_rate"], "questions_per_image": questions_per_image}
    settings |= {"question_weights": question_weights or {"report": 1.0}, "phantom_version": PHANTOM_VERSION}
    settings |= {"network": parser["network_def#config"]}
    settings |= {"vision_sha256": sha256(Path(vision).read_bytes()).hexdigest()}
    rows = finished_runs(output, settings)
    root = parser.get_parsed_content("dataset_dir")
    paths = generate_phantoms(root, num_train, num_validation, 0, questions_per_case=12)
    training = check_batch_size(group_by_image(load_records(paths["train"])), batch_size)
    validation = [r for r in load_records(paths["validation"]) if r["kind"] == "report"]
    training, zeros = encode(parser, training, "training cases")
    validation, _ = encode(parser, validation, "validation cases")
    for seed in range(seeds):
        for name in names:
            if any((row["variant"], row["seed"]) == (name, seed) for row in rows):
                continue
            variant, begin = VARIANTS[name], time.time()
            set_determinism(seed)
            network, own = build(bundle, vision, variant)
            for key in ("learning_rate", "questions_per_image", "question_weights"):
                own[key] = settings[key]
            blank = zeros if variant.get("zeroed") else None
            losses = train(network, own, training, blank, seed, steps, batch_size)
            result = evaluate(network, own, validation, blank)
            size = sum(p.numel() for p in network.model.u2_tokenizer.parameters())
            rows.append({"variant": name, "seed": seed, **result, "parameters": size, "losses": losses})
            print(f"{name}, seed {seed}: F1 {result['f1']:.3f}, {result['distinct']} distinct reports, ", end="")
            print(f"loss {np.mean(losses[-50:]):.3f}, {time.time() - begin:.0f} s", flush=True)
            write_figures(output, {"settings": settings, "runs": rows}, indent=None)
    print(f"\n{steps} steps of {batch_size} cases, {num_train} training and {len(validation)} validation cases\n")
    print("| token path | parameters | F1, mean | lowest | highest |\n|---|---|---|---|---|")
    for name in names:
        scores = [row["f1"] for row in rows if row["variant"] == name and row["seed"] < seeds]
        size = next(row["parameters"] for row in rows if row["variant"] == name)
        print(f"| {name} | {size / 1e6:.2f} M | {np.mean(scores):.3f} | {min(scores):.3f} | {max(scores):.3f} |")


if __name__ == "__main__":
    fire.Fire(token_paths)
