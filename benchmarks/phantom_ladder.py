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

"""The phantom's difficulties, and what can be seen on each: an upper bound by supervised vision alone.

The vision tower of the bundle's model with its finding head is fine-tuned on the difficulty's own cases and told which
finding is in which place of the volume (lesion masks). It writes no report: it only has to name the findings, with a
threshold for each kind of finding; thresholds and number of steps, 0 among them, are those that are best on
validation cases. What it names on held-out cases is there to be seen after the preprocessing. Beside it the bundle's
model, trained on `default` alone, by the findings of its greedy reports::

    python benchmarks/phantom_ladder.py --dataset_dir runs/ladder --output docs/results/phantom_ladder.json
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from bundle_model import findings_matrix, load_bundle, write_figures
from image_controls import generate
from monai.bundle import ConfigParser
from monai.transforms import Compose
from monai.utils import convert_to_tensor, set_determinism
from torch import nn
from tqdm import tqdm

from monai_u2.data import CachedDataset, check_batch_size, collate_reports, group_by_image, load_records
from monai_u2.data.phantom import DIFFICULTIES, FINDING_LABELS, generate_phantoms, parse_findings
from monai_u2.losses import FindingLoss
from monai_u2.metrics import bootstrap_interval, finding_table, micro_f1
from monai_u2.networks.finding_head import volume_finding_logits

LEARNING_RATE = 1e-3


class SupervisedTower(nn.Module):
    """A network's vision tower and its finding head, without token path and language model.

    Args:
        network: :class:`monai_u2.networks.U2LLM` with a pre-trained vision tower.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.vision_tower = network.model.vision_tower
        self.finding_head = network.model.finding_head

    def forward(self, image: torch.Tensor, slab_mask: torch.Tensor) -> torch.Tensor:
        """`(B, T, D, H, W)` to logits `(B, T, N, F)`."""
        logits = self.finding_head(self.vision_tower(image[slab_mask][:, None]))
        padded = logits.new_zeros(*slab_mask.shape, *logits.shape[1:])
        padded[slab_mask] = logits
        return padded


def preprocessed(parser: ConfigParser, records: Path, cache: Path) -> CachedDataset:
    """Cases of a records file, through the blocks that training shares; cached."""
    blocks = ("load_transforms", "image_transforms", "target_transforms")
    cached = [step for block in blocks for step in parser.get_parsed_content(block)]
    transform = Compose([*cached, *parser.get_parsed_content("finding_transforms")])
    cases = [
        {key: case[key] for key in ("image", "lesion_mask", "findings")}
        for case in group_by_image(load_records(records))
    ]
    return CachedDataset(cases, transform, cache, len(cached))


def batch_of(dataset: CachedDataset, indexes: list[int]) -> dict[str, Any]:
    cases = [dataset[i] for i in indexes]
    keys = ("image", "patch_findings", "findings")
    return collate_reports([{key: convert_to_tensor(case[key], track_meta=False) for key in keys} for case in cases])


def train(
    network: nn.Module, dataset: CachedDataset, steps: int, batch_size: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Patches (from lesion masks) and volumes, AdamW with a cosine; gives the state before and after each quarter."""
    yield deepcopy(network.state_dict())
    loss_function = FindingLoss(patch_weight=1.0, slab_weight=1.0, volume_weight=1.0, alpha=0.5)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    rng, order = np.random.default_rng(seed), []
    network.train()
    for step in tqdm(range(1, steps + 1), desc="supervised tower", mininterval=10):
        if len(order) < batch_size:
            order = order + rng.permutation(len(dataset)).tolist()
        chosen, order = order[:batch_size], order[batch_size:]
        batch = batch_of(dataset, chosen)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(batch["image"], batch["slab_mask"])
        loss = loss_function(logits, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(steps // 4, 1) == 0:
            yield deepcopy(network.state_dict())
            network.train()


@torch.no_grad()
def predict(network: nn.Module, dataset: CachedDataset) -> np.ndarray:
    """Logits `(cases, findings)`, without those of the kinds."""
    network.eval()
    rows = []
    for start in range(0, len(dataset), 16):
        batch = batch_of(dataset, list(range(start, min(start + 16, len(dataset)))))
        rows.append(volume_finding_logits(network(batch["image"], batch["slab_mask"]), batch["slab_mask"]))
    return torch.cat(rows)[:, : len(FINDING_LABELS)].numpy()


def best_thresholds(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """For each kind of finding the threshold of the best F1 on the validation cases."""
    kinds = np.array([label.split(",")[0] for label in FINDING_LABELS])
    thresholds = np.zeros(len(kinds))
    for kind in dict.fromkeys(kinds):
        columns = kinds == kind
        grid = np.arange(-4.0, 4.0, 0.25)
        scores = [micro_f1(logits[:, columns] > t, truth[:, columns]) for t in grid]
        thresholds[columns] = grid[int(np.argmax(scores))]
    return thresholds


def model_findings(parser: ConfigParser, records: list[dict[str, Any]]) -> np.ndarray:
    """Findings of the bundle's greedy reports."""
    preprocessing = parser.get_parsed_content("preprocessing")
    cases = []
    for record in tqdm(records, desc="volumes"):
        case = preprocessing({"image": record["image"], "question": record["question"]})
        cases.append({key: case[key] for key in ("image", "input_ids", "question_ids")})
    return findings_matrix([parse_findings(text) for text in generate(parser, cases, 16, "reports")])


def phantom_ladder(
    dataset_dir: str,
    bundle: str = "bundles/u2llm",
    difficulties: str | list[str] = DIFFICULTIES,
    num_train: int = 600,
    num_validation: int = 100,
    num_test: int = 300,
    steps: int = 200,
    batch_size: int = 8,
    output: str | None = None,
) -> None:
    """Print, for each difficulty, the finding F1 of the upper bound and of the bundle's model on the same test cases.

    Args:
        dataset_dir: folder of the phantoms, one folder in it for each difficulty.
        bundle: folder of the bundle.
        difficulties: some of "easy", "default", "hard".
        num_train: cases that the upper bound is fine-tuned on.
        num_validation: cases that its thresholds are chosen on.
        num_test: cases that both are measured on.
        steps: training steps of the upper bound.
        batch_size: cases a step.
        output: JSON file for the figures.
    """
    logging.disable(logging.WARNING)
    names = [difficulties] if isinstance(difficulties, str) else list(difficulties)
    model = load_bundle(bundle)
    figures: dict[str, Any] = {}
    print(
        "| difficulty | supervised vision tower (upper bound) | shipped model | steps |\n|---|---|---|---|", flush=True
    )
    for name in names:
        training = ConfigParser()  # one for each, since a parser keeps the network that it has made
        training.read_config(str(Path(bundle) / "configs" / "sft.json"))
        training.update({"bundle_root": str(Path(bundle).resolve()), "device": "cpu"})
        root = Path(dataset_dir) / name
        paths = generate_phantoms(root, num_train, num_validation, num_test, difficulty=name)
        data = {split: preprocessed(training, path, root / "cache") for split, path in paths.items()}
        truth = {
            split: findings_matrix([case["findings"] for case in group_by_image(load_records(path))])
            for split, path in paths.items()
        }
        set_determinism(0)
        network = SupervisedTower(deepcopy(model.get_parsed_content("network")))
        check_batch_size(data["train"].data, batch_size)
        best, score, taken = {}, -1.0, 0
        for quarter, state in enumerate(train(network, data["train"], steps, batch_size, seed=0)):
            logits = predict(network, data["validation"])
            reached = micro_f1(logits > best_thresholds(logits, truth["validation"]), truth["validation"])
            if reached > score:
                best, score, taken = state, reached, quarter
        network.load_state_dict(best)
        thresholds = best_thresholds(predict(network, data["validation"]), truth["validation"])
        bound = predict(network, data["test"]) > thresholds
        reports = [record for record in load_records(paths["test"]) if record["kind"] == "report"]
        named = model_findings(model, reports)
        figures[name] = {"steps": taken * max(steps // 4, 1)}
        cells = []
        for who, predicted in (("upper bound", bound), ("model", named)):
            low, high = bootstrap_interval(predicted, truth["test"])
            score = micro_f1(predicted, truth["test"])
            rows = finding_table(predicted, truth["test"], FINDING_LABELS)
            figures[name][who] = {"f1": score, "low": low, "high": high, "findings": rows}
            cells.append(f"{score:.3f} ({low:.3f}–{high:.3f})")
        print(f"| {name} | {' | '.join(cells)} | {figures[name]['steps']} |", flush=True)
        write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(phantom_ladder)
