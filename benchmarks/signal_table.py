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

"""How much signal passes a token path? Spread of its tokens, effect of the question, reach of the gradient.

For each token path (`type` of the U2Tokenizer) at the sizes of `sft.json`, on the same phantoms and from the same seed,
at initialization and after some training steps on them:

- token spread: how much the output tokens of one volume differ, `||x - mean_q(x)|| / ||x||`, mean over the batch;
- question effect: `||f(x, q1) - f(x, q2)|| / ||f(x, q1)||` for questions about two regions, mean over volumes and
  regions;
- gradient reach: norm of the language-model loss's gradient over the norm of the parameter, smallest, median and
  largest over the token path's parameter tensors (those of zero norm, such as zero-initialized ones, are skipped and
  listed).

The commands::

    monai-u2 phantom runs/phantoms --train 100
    python benchmarks/signal_table.py runs/phantoms/train.jsonl --output runs/signal_table.json
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fire
import torch
from bundle_model import write_figures
from monai.bundle import ConfigParser
from monai.data import CacheDataset
from monai.utils import set_determinism
from tqdm import trange

from monai_u2.data import collate_reports, group_by_image, load_records
from monai_u2.data.phantom.report import REGIONS
from monai_u2.engines import PrepareReportBatch
from monai_u2.losses import causal_lm_loss
from monai_u2.networks import U2LLM, load_vision_checkpoint

QUESTION = "What is seen in the {region}?"
# options of the configuration that a token path knows; None for all of them
OPTIONS: dict[str, tuple[str, ...] | None] = {
    "u2": None,
    "paper": ("num_heads", "num_selected", "num_queries"),  # four layers, as published
}


def configure(config: str | Path, path_type: str) -> ConfigParser:
    """The training configuration with another token path.

    Args:
        config: the bundle's `sft.json`.
        path_type: one of :data:`OPTIONS`.
    """
    if path_type not in OPTIONS:
        raise ValueError(f"token path {path_type!r} must be one of {sorted(OPTIONS)}.")
    parser = ConfigParser()
    parser.read_config(config)
    parser["bundle_root"] = str(Path(config).resolve().parents[1])
    parser["device"] = "cpu"
    known = OPTIONS[path_type]
    options = parser["network_def#config#u2_tokenizer"]
    kept = {name: value for name, value in options.items() if known is None or name in known}
    parser["network_def#config#u2_tokenizer"] = {**kept, "type": path_type}
    return parser


def token_spread(tokens: torch.Tensor) -> float:
    """Mean over the batch of the tokens' distance to their mean token, relative to their norm; tokens `(B, Q, C)`."""
    distance = torch.linalg.vector_norm(tokens - tokens.mean(dim=1, keepdim=True), dim=(1, 2))
    return float((distance / torch.linalg.vector_norm(tokens, dim=(1, 2))).mean())


def question_effect(tokens: torch.Tensor) -> float:
    """Mean relative change of the tokens between each question and the next; tokens `(B, questions, Q, C)`."""
    change = torch.linalg.vector_norm(tokens - tokens.roll(1, dims=1), dim=(2, 3))
    return float((change / torch.linalg.vector_norm(tokens, dim=(2, 3))).mean())


def gradient_reach(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> dict[str, Any]:
    """Smallest, median and largest ratio of gradient norm to parameter norm, and the parameters of zero norm.

    A parameter that the loss doesn't reach has the ratio 0.
    """
    ratios, skipped = {}, []
    for name, parameter in parameters:
        norm = float(parameter.detach().norm())
        if norm == 0:
            skipped.append(name)
        else:
            ratios[name] = 0.0 if parameter.grad is None else float(parameter.grad.norm()) / norm
    smallest, largest = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    return {
        "smallest": {"name": smallest, "ratio": ratios[smallest]},
        "largest": {"name": largest, "ratio": ratios[largest]},
        "median": statistics.median(ratios.values()),
        "smallest to largest": ratios[smallest] / ratios[largest] if ratios[largest] else 0.0,
        "ratios": ratios,
        "zero norm": skipped,
    }


def measure(network: U2LLM, batch: dict[str, Any], questions: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Signal of the network's token path, in training mode as its optimizer sees it; the network stays as it was.

    Args:
        network: the network.
        batch: volumes with questions and answers, collated.
        questions: `question_ids` and `question_mask`, each `(questions, L)`, of questions asked about every volume.
    """
    network.train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}  # running means of normalizations
    image, targets, _, arguments = PrepareReportBatch()(batch, "cpu")
    volumes, asked = len(image), len(questions["question_ids"])
    with torch.no_grad():
        selected = network.model.encode_image(image, arguments["slab_mask"]).selected
        text = network.get_input_embeddings()(questions["question_ids"]).repeat(volumes, 1, 1)
        mask = questions["question_mask"].repeat(volumes, 1)
        tokens = network.model.u2_tokenizer.aggregate(selected.repeat_interleave(asked, dim=0), text, mask)
    network.zero_grad()
    loss = causal_lm_loss(network(image, **arguments).logits, targets["labels"])
    loss.backward()
    reach = gradient_reach(network.model.u2_tokenizer.named_parameters())
    network.zero_grad()
    for name, buffer in network.named_buffers():
        buffer.copy_(before[name])
    return {
        "loss": float(loss.detach()),
        "token spread": token_spread(tokens),
        "question effect": question_effect(tokens.unflatten(0, (volumes, asked))),
        "gradient reach": reach,
    }


def train(network: U2LLM, dataset: CacheDataset, loss_function: torch.nn.Module, steps: int) -> None:
    """Steps of AdamW at 1e-3 on all cases at once; questions and augmentation are drawn anew for each step."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.train()
    for _ in trange(steps, desc="steps"):
        batch = collate_reports([dataset[i] for i in range(len(dataset))])
        image, targets, _, arguments = PrepareReportBatch()(batch, "cpu")
        loss = loss_function(network(image, **arguments), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def measure_path(
    parser: ConfigParser, records: list[dict[str, Any]], steps: int, vision: str | None, seed: int
) -> dict[str, Any]:
    """Signal of one token path at initialization and after training steps."""
    set_determinism(seed)
    network = load_vision_checkpoint(parser.get_parsed_content("network_def"), vision)
    preprocessing = parser.get_parsed_content("train#preprocessing")
    preprocessing.set_random_state(seed)  # the same draws for every path, however many its weights took
    dataset = CacheDataset(records, transform=preprocessing, progress=False)
    batch = collate_reports([dataset[i] for i in range(len(dataset))])
    tokenizer = parser.get_parsed_content("text_tokenizer")
    texts = [QUESTION.format(region=region.lower()) for region in REGIONS]
    ids = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    questions = collate_reports([{"question_ids": ids}])
    rows = {"at initialization": measure(network, batch, questions)}
    if steps:
        train(network, dataset, parser.get_parsed_content("train#loss"), steps)
        rows[f"after {steps} steps"] = measure(network, batch, questions)
    return rows


def to_markdown(table: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| token path | | token spread | question effect | gradient: smallest | median | largest "
        "| smallest / largest | language-model loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    skipped = []
    for path_type, rows in table.items():
        for when, row in rows.items():
            reach = row["gradient reach"]
            ends = [f"{reach[end]['ratio']:.1e} ({reach[end]['name']})" for end in ("smallest", "largest")]
            lines.append(
                f"| {path_type} | {when} | {row['token spread']:.1e} | {row['question effect']:.1e} | "
                f"{ends[0]} | {reach['median']:.1e} | {ends[1]} | {reach['smallest to largest']:.1e} | "
                f"{row['loss']:.3f} |"
            )
            skipped.append(f"{path_type} {when}: {', '.join(reach['zero norm']) or 'none'}")
    return "\n".join([*lines, "", "Parameters of zero norm, skipped:", *(f"- {text}" for text in skipped)])


def signal_table(
    records: str,
    config: str = "bundles/u2llm/configs/sft.json",
    output: str | None = None,
    cases: int = 8,
    steps: int = 200,
    types: tuple[str, ...] = tuple(OPTIONS),
    vision: str | None = None,
    seed: int = 0,
) -> None:
    """Print the table for some token paths.

    Args:
        records: JSON Lines file, such as the phantom's `train.jsonl`.
        config: the bundle's training configuration.
        output: JSON file for the table, with the ratio of each parameter.
        cases: the first cases of the file; they make one batch.
        steps: number of training steps; 0 for initialization alone.
        types: token paths, see :data:`OPTIONS`.
        vision: state dict of a trained vision tower to start from.
        seed: seed of weights and draws.
    """
    logging.disable(logging.WARNING)
    chosen = group_by_image(load_records(records))[:cases]
    names = [types] if isinstance(types, str) else types
    table = {name: measure_path(configure(config, name), chosen, steps, vision, seed) for name in names}
    print(to_markdown(table))
    write_figures(output, {"cases": len(chosen), "seed": seed, "table": table})


if __name__ == "__main__":
    fire.Fire(signal_table)
