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

"""Does the model read the image? Finding F1 of its reports beside image-blind controls, with 95 % intervals.

Controls, on the same cases: the images shuffled between cases, the images set to zero, a model that was trained with
images set to zero (its checkpoint given), and the most frequent report of the references for each case. A model that
reads the image stands apart from all of them::

    monai-u2 phantom runs/phantoms --test 300
    python -m monai.bundle run training --config_file configs/sft.json --image_blind True --ckpt_dir runs/blind
    python benchmarks/image_controls.py runs/phantoms/test.jsonl --blind_checkpoint runs/blind/model.pt
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fire
import numpy as np
import torch
from bundle_model import findings_matrix, load_bundle, write_figures
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from tqdm import tqdm

from monai_u2.data import collate_reports, load_records
from monai_u2.data.phantom import FINDING_LABELS, parse_findings
from monai_u2.engines import PrepareReportBatch
from monai_u2.metrics import bootstrap_interval, finding_table, micro_f1


def read_cases(parser: ConfigParser, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Preprocess each case as inference does; keep what the network takes."""
    preprocessing = parser.get_parsed_content("preprocessing")
    cases = []
    for record in tqdm(records, desc="volumes"):
        case = preprocessing({"image": record["image"], "question": record["question"]})
        cases.append({key: case[key] for key in ("image", "input_ids", "question_ids")})
    return cases


def generate(parser: ConfigParser, cases: list[dict[str, Any]], batch_size: int, name: str) -> Iterator[str]:
    """Greedy reports of the cases."""
    network, inferer = parser.get_parsed_content("network"), parser.get_parsed_content("inferer")
    tokenizer, device = parser.get_parsed_content("text_tokenizer"), parser.get_parsed_content("device")
    for batch in tqdm(DataLoader(Dataset(cases), batch_size=batch_size, collate_fn=collate_reports), desc=name):
        image, _, _, arguments = PrepareReportBatch()(batch, device)
        for ids in inferer(image, network, **arguments):
            yield tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip()


def best_constant(truth: np.ndarray) -> np.ndarray:
    """The most frequent findings for every case, as many of them as give the best F1 on these cases."""
    order = np.argsort(-truth.sum(axis=0), kind="stable")
    constants = [
        np.broadcast_to(np.isin(np.arange(truth.shape[1]), order[:k]), truth.shape) for k in range(1, len(order))
    ]
    return max(constants, key=lambda constant: micro_f1(constant, truth))


def image_controls(
    records: str,
    bundle: str = "bundles/u2llm",
    output: str | None = None,
    device: str = "cpu",
    batch_size: int = 16,
    blind_checkpoint: str | None = None,
) -> None:
    """Print the table of a bundle's model on the whole-report records of a file.

    Args:
        records: JSON Lines file with finding labels, such as the phantom's `test.jsonl`.
        bundle: folder of the bundle.
        output: JSON file for the table, the table per finding, and the reports.
        device: where the model runs.
        batch_size: cases at a time.
        blind_checkpoint: `model.pt` of a training with images set to zero.
    """
    logging.disable(logging.WARNING)
    parser = load_bundle(bundle, device)
    blind = None if blind_checkpoint is None else load_bundle(bundle, device, blind_checkpoint)

    chosen = [record for record in load_records(records) if record.get("kind", "report") == "report"]
    references = [record["answer"] for record in chosen]
    cases = read_cases(parser, chosen)
    shuffled = [{**case, "image": cases[i - 1]["image"]} for i, case in enumerate(cases)]
    zeroed = [{**case, "image": torch.zeros_like(case["image"])} for case in cases]
    frequent = Counter(references).most_common(1)[0][0]
    reports = {
        "model": list(generate(parser, cases, batch_size, "model")),
        "images shuffled": list(generate(parser, shuffled, batch_size, "images shuffled")),
        "images zeroed": list(generate(parser, zeroed, batch_size, "images zeroed")),
    }
    if blind is not None:
        reports["trained with images zeroed"] = list(generate(blind, zeroed, batch_size, "trained with images zeroed"))
    reports["most frequent report"] = [frequent] * len(chosen)

    truth = findings_matrix([record["findings"] for record in chosen])
    predictions = {name: findings_matrix([parse_findings(text) for text in texts]) for name, texts in reports.items()}
    predictions["same findings for all"] = best_constant(truth)
    table, lines = {}, ["| reports | micro finding F1 | 95 % interval | distinct reports |", "|---|---|---|---|"]
    for name, predicted in predictions.items():
        distinct = len(set(reports.get(name, [""])))
        low, high = bootstrap_interval(predicted, truth)
        table[name] = {"f1": micro_f1(predicted, truth), "low": low, "high": high, "distinct": distinct}
        lines.append(f"| {name} | {table[name]['f1']:.3f} | {low:.3f}–{high:.3f} | {distinct} |")
    lines.append(f"\n{len(chosen)} cases, {len(set(references))} distinct references, {int(truth.sum())} findings\n")
    findings = finding_table(predictions["model"], truth, FINDING_LABELS)
    lines += ["| finding | present | named | precision | recall | F1 |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['finding']} | {r['present']} | {r['named']} | {r['precision']:.2f} | {r['recall']:.2f} | {r['f1']:.2f} |"
        for r in findings
    ]
    print("\n".join(lines))
    write_figures(output, {"cases": len(chosen), "table": table, "findings": findings, "reports": reports})


if __name__ == "__main__":
    fire.Fire(image_controls)
