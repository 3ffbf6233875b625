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

"""Does the evidence of a sentence lie on the lesion? Pointing, deletion and planted errors on phantoms.

Pointing: the peak of a sentence's map lies in the lesion, dilated by one visual token along each axis. Taken are the
sentences that name a finding which is there; each method stands beside chance (a place of the body drawn evenly),
beside the same sentences with another patient's image, and beside the maps of a model that was trained without images.
Deletion: the report is written again after the box of 2 × 2 × 2 tokens around the evidence was filled with the mean of
its border, and again after a box elsewhere in the body was.
Planted errors: left and right are exchanged in a sentence, whose evidence is then looked for anew::

    python -m monai.bundle run training --config_file configs/sft.json --image_blind True --ckpt_dir runs/blind
    python benchmarks/evidence.py --num_cases 40 --blind_checkpoint runs/blind/model.pt --output runs/evidence.json
"""

from __future__ import annotations

import functools
import logging
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from bundle_model import case_bootstrap, load_bundle, ratio, show, write_figures
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from nibabel import Nifti1Image, save
from scipy.spatial import cKDTree
from tqdm import tqdm

from monai_u2.data import collate_reports
from monai_u2.data.phantom import FINDING_LABELS, SPLIT_RANGES, draw_case, parse_findings, render_case
from monai_u2.engines import PrepareReportBatch
from monai_u2.evidence import (
    AttentionEvidence,
    EvidenceFinder,
    EvidenceMethod,
    GradientEvidence,
    OcclusionEvidence,
    ReportEvidence,
    TokenGrid,
    body_mask,
    named_side,
)
from monai_u2.exceptions import InputError

METHODS: dict[str, Callable[[], EvidenceMethod]] = {
    "attention": AttentionEvidence,
    "gradient": functools.partial(GradientEvidence, steps=1),
    "integrated gradient": GradientEvidence,
    "occlusion": OcclusionEvidence,
}
DEFAULT = "integrated gradient"
SHUFFLED = f"{DEFAULT}, another patient's image"
BLIND = f"{DEFAULT}, model trained without images"
CHANCE = "chance"
BOX = 2  # tokens along each edge of what the deletion test masks
_SIDES = {"left": "right", "right": "left"}


@dataclass
class Reading:
    """A phantom and what the model wrote about it.

    Attributes:
        labels: findings that are there.
        image: slabs `(T, D, H, W)` with their trace.
        input_ids: the prompt `(L,)`.
        question_ids: the question `(Lq,)`.
        answer_ids: the answer `(A,)`.
        report: the answer's text.
        lesions: label -> its voxels in mm, RAS `(n, 3)`.
        seconds: time of preprocessing and of writing the report.
    """

    labels: list[str]
    image: MetaTensor
    input_ids: torch.Tensor
    question_ids: torch.Tensor
    answer_ids: torch.Tensor
    report: str
    lesions: dict[str, np.ndarray]
    seconds: float


def read_phantom(parser: ConfigParser, number: int, path: Path) -> Reading:
    """Render a phantom and let the model write its report."""
    case = draw_case(number)
    hu, mask, affine = render_case(case)
    volume = Nifti1Image(hu, affine)
    volume.header.set_xyzt_units("mm")
    save(volume, path)
    start = time.monotonic()
    question = parser.get_parsed_content("question")
    data = parser.get_parsed_content("preprocessing")({"image": str(path), "question": question})
    answer = write_answer(parser, data["image"], data)
    seconds = time.monotonic() - start
    lesions = {}
    for label in case.labels:
        places = np.argwhere(mask == FINDING_LABELS.index(label) + 1)
        if len(places):
            lesions[label] = places @ affine[:3, :3].T + affine[:3, 3]
    tokenizer = parser.get_parsed_content("text_tokenizer")
    report = tokenizer.decode(answer.tolist(), skip_special_tokens=True).strip()
    ids = (data["input_ids"][0], data["question_ids"][0])
    return Reading(case.labels, data["image"], *ids, answer, report, lesions, seconds)


def write_answer(parser: ConfigParser, image: torch.Tensor, prompt: Mapping[str, Any]) -> torch.Tensor:
    """Greedy answer `(A,)` to a preprocessed prompt about slabs `(T, D, H, W)`."""
    case = {"image": torch.as_tensor(image), **{key: prompt[key] for key in ("input_ids", "question_ids")}}
    batch, _, _, arguments = PrepareReportBatch()(collate_reports([case]), parser.get_parsed_content("device"))
    return parser.get_parsed_content("inferer")(batch, parser.get_parsed_content("network"), **arguments)[0].cpu()


def true_label(text: str, reading: Reading) -> str | None:
    """The finding that a sentence names, where there is one and it is there."""
    named = parse_findings(text)
    return named[0] if len(named) == 1 and named[0] in reading.lesions else None


def pointing(peak: np.ndarray, lesion: np.ndarray, grid: TokenGrid) -> dict[str, float]:
    """How a peak lies to a lesion, both in mm RAS."""
    to_token = np.linalg.inv(grid.token_affine)[:3, :3]
    tokens = np.abs((lesion - peak) @ to_token.T).max(axis=1).min()
    return {
        "hit": float(tokens <= 1),
        "half a token": float(tokens <= 0.5),
        "to the lesion": float(np.linalg.norm(lesion - peak, axis=1).min()),
        "to its middle": float(np.linalg.norm(lesion.mean(axis=0) - peak)),
    }


def chance(body: np.ndarray, lesion: np.ndarray, grid: TokenGrid) -> dict[str, float]:
    """The mean of :func:`pointing` over all places of the body."""
    places = np.argwhere(body) @ grid.fine_affine[:3, :3].T + grid.fine_affine[:3, 3]
    to_token = np.linalg.inv(grid.token_affine)[:3, :3].T
    tokens = cKDTree(lesion @ to_token).query(places @ to_token, p=np.inf, distance_upper_bound=1.01)[0]
    return {
        "hit": float((tokens <= 1).mean()),
        "half a token": float((tokens <= 0.5).mean()),
        "to the lesion": float(cKDTree(lesion).query(places)[0].mean()),
        "to its middle": float(np.linalg.norm(places - lesion.mean(axis=0), axis=1).mean()),
    }


def peak_of(entry: Mapping[str, Any]) -> np.ndarray | None:
    """A sentence's peak in mm RAS; None without evidence."""
    return None if entry["place"] is None else np.array(entry["place"]["peak_lps_mm"]) * [-1, -1, 1]


def with_image_of(reading: Reading, other: Reading) -> MetaTensor:
    """Another patient's slabs in this one's geometry, cut off or filled with air at their end."""
    slabs = torch.zeros_like(reading.image.as_tensor())
    shared = min(len(slabs), len(other.image))
    slabs[:shared] = other.image.as_tensor()[:shared]
    return MetaTensor(slabs, meta=reading.image.meta, applied_operations=reading.image.applied_operations)


def find(finder: EvidenceFinder, reading: Reading, image: MetaTensor | None = None) -> ReportEvidence:
    image = reading.image if image is None else image
    return finder(image, reading.input_ids, reading.answer_ids, reading.question_ids)


def masked(image: torch.Tensor, corner: Sequence[int], grid: TokenGrid) -> torch.Tensor:
    """Slabs with a box of tokens filled with the mean of its outermost voxels."""
    volume = torch.as_tensor(image).as_subclass(torch.Tensor).reshape(-1, *image.shape[2:]).clone()
    box = tuple(slice(start * size, (start + BOX) * size) for start, size in zip(corner, grid.token_size))
    inside = volume[box]
    border = torch.ones_like(inside, dtype=torch.bool)
    border[1:-1, 1:-1, 1:-1] = False
    volume[box] = inside[border].mean()
    return volume.reshape(image.shape)


def boxes(body: np.ndarray, weights: torch.Tensor, grid: TokenGrid, rng: np.random.Generator) -> list[np.ndarray]:
    """Corner of the box of tokens with the most evidence, and of another one in the body that doesn't touch it."""
    stacked = grid.stacked(weights[None])[0]
    sums = torch.nn.functional.avg_pool3d(stacked[None, None], BOX, stride=1)[0, 0].numpy()
    best = np.array(np.unravel_index(sums.argmax(), sums.shape))
    filled = torch.nn.functional.adaptive_avg_pool3d(torch.from_numpy(body).float()[None, None], grid.shape)
    filled = torch.nn.functional.avg_pool3d(filled, BOX, stride=1)[0, 0].numpy()
    free = [place for place in np.argwhere(filled > 0.5) if np.abs(place - best).max() >= BOX]
    return [best, free[rng.integers(len(free))]]


def exchanged(reading: Reading, start: int, end: int, tokenizer: Any) -> Reading:
    """The report with left and right exchanged from one character to another."""
    text = re.sub(r"\b(left|right)\b", lambda match: _SIDES[match[0]], reading.report[start:end])
    report = reading.report[:start] + text + reading.report[end:]
    ids = tokenizer(report, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return Reading(**{**vars(reading), "report": report, "answer_ids": torch.tensor(ids)})


def measure_case(
    parser: ConfigParser,
    finders: Mapping[str, EvidenceFinder],
    reading: Reading,
    other: Reading,
    rng: np.random.Generator,
    blind: EvidenceFinder | None = None,
) -> dict[str, Any]:
    """All figures of one case: lists of what was seen of its sentences."""
    seen: dict[str, Any] = {"pointing": [], "deletion": [], "flags": [], "exchanged": [], "seconds": {}}
    found = {}
    for name, finder in finders.items():
        start = time.monotonic()
        found[name] = find(finder, reading)
        seen["seconds"][name] = time.monotonic() - start
    seen["seconds"]["report"] = reading.seconds
    evidence = found[DEFAULT]
    flat = {name: result.sentences for name, result in found.items()}
    flat[SHUFFLED] = find(finders[DEFAULT], reading, with_image_of(reading, other)).sentences
    if blind is not None:
        flat[BLIND] = find(blind, reading).sentences
    body = body_mask(reading.image, evidence.grid)
    tokenizer = parser.get_parsed_content("text_tokenizer")
    prompt = {"input_ids": [reading.input_ids], "question_ids": [reading.question_ids]}
    for i, entry in enumerate(evidence.sentences):
        label = true_label(entry["text"], reading)
        if label is None:
            seen["flags"].append({"true": False, "named": bool(parse_findings(entry["text"])), "flags": entry["flags"]})
            continue
        lesion = reading.lesions[label]
        by_method = {CHANCE: chance(body, lesion, evidence.grid)}
        for name, sentences in flat.items():
            peak = peak_of(sentences[i])
            by_method[name] = None if peak is None else pointing(peak, lesion, evidence.grid)
        about = {"label": label, "section": entry["section"], "gain": entry["image_gain_nats"]}
        place = entry["place"] or {}
        about |= {name: place.get(name) for name in ("confidence", "concentration", "spread")}
        seen["pointing"].append({**about, "methods": by_method})
        seen["flags"].append({"true": True, "named": True, "flags": entry["flags"]})
        if entry["section"] != "findings" or entry["place"] is None:
            continue
        kept = []
        for corner in boxes(body, evidence.weights[i], evidence.grid, rng):
            ids = write_answer(parser, masked(reading.image, corner, evidence.grid), prompt)
            kept.append(label in parse_findings(tokenizer.decode(ids.tolist(), skip_special_tokens=True)))
        seen["deletion"].append({"label": label, "evidence": not kept[0], "elsewhere": not kept[1]})
        if named_side(entry["text"]) is not None:
            wrong = exchanged(reading, entry["start"], entry["end"], tokenizer)
            flags = find(finders[DEFAULT], wrong).sentences[i]["flags"]
            seen["exchanged"].append({"label": label, "before": entry["flags"], "after": flags})
    return seen


def rate(cases: Sequence[Sequence[float]]) -> dict[str, float]:
    """Mean of what was seen in each case, with its interval over cases."""
    sums, counts = (np.array([measure(values) for values in cases], dtype=float) for measure in (sum, len))
    if not counts.sum():
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    return case_bootstrap(ratio(sums, counts), len(cases)) | {"count": int(counts.sum())}


def tables(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures with intervals of all cases."""
    seen = {name for case in cases for row in case["pointing"] for name in row["methods"]}
    names = [name for name in (CHANCE, BLIND, SHUFFLED, *METHODS) if name in seen]
    miss = {"hit": 0.0, "half a token": 0.0, "to the lesion": float("nan"), "to its middle": float("nan")}
    result: dict[str, Any] = {"pointing": {}, "findings": {}}
    for section in ("findings", "impression"):
        for name in names:
            rows = [
                [(row["methods"][name] or miss) for row in case["pointing"] if row["section"] == section]
                for case in cases
            ]
            result["pointing"][f"{section}: {name}"] = {
                figure: rate([[row[figure] for row in case if np.isfinite(row[figure])] for case in rows])
                for figure in miss
            }
    for kind in dict.fromkeys(label.split(",")[0] for label in FINDING_LABELS):
        rows = [r for case in cases for r in case["pointing"] if r["label"].split(",")[0] == kind]
        rows = [row for row in rows if row["section"] == "findings"]
        hits = {name: [(row["methods"][name] or miss)["hit"] for row in rows] for name in (CHANCE, DEFAULT)}
        if rows:
            result["findings"][kind] = {"count": len(rows)} | {name: float(np.mean(h)) for name, h in hits.items()}
    for name in ("evidence", "elsewhere"):
        result[f"deletion: {name}"] = rate([[float(row[name]) for row in case["deletion"]] for case in cases])
    for name in ("before", "after"):
        flags = [[row[name] for row in case["exchanged"]] for case in cases]
        result[f"sides exchanged, {name}: other side"] = rate([["other side" in row for row in case] for case in flags])
        result[f"sides exchanged, {name}: any flag"] = rate([[bool(row) for row in case] for case in flags])
    result["flagged: true"] = rate([[bool(row["flags"]) for row in case["flags"] if row["true"]] for case in cases])
    wrong = [[bool(row["flags"]) for row in case["flags"] if row["named"] and not row["true"]] for case in cases]
    result["flagged: finding that isn't there"] = rate(wrong)
    seconds = {name: float(np.median([case["seconds"][name] for case in cases])) for name in cases[0]["seconds"]}
    return result | {"seconds": seconds, "confidence": calibration(cases)}


def calibration(cases: Sequence[Mapping[str, Any]], edges: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.8, 1)) -> list[Any]:
    """Share of hits among sentences of about equal confidence."""
    rows = [row for case in cases for row in case["pointing"] if row["confidence"] is not None]
    values = np.array([row["confidence"] for row in rows])
    hits = np.array([row["methods"][DEFAULT]["hit"] for row in rows])
    bins = np.clip(np.digitize(values, edges) - 1, 0, len(edges) - 2)
    return [
        {"count": int((bins == i).sum()), "confidence": float(values[bins == i].mean()), "hits": hits[bins == i].mean()}
        for i in range(len(edges) - 1)
        if (bins == i).any()
    ]


def plot_calibration(bins: Sequence[Mapping[str, float]], path: str) -> None:
    """Hits by confidence, with Wilson intervals, beside the diagonal on which both are equal."""
    from matplotlib.figure import Figure
    from scipy.stats import binomtest

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="confidence, mean", ylabel="hits within a token", xlim=(0, 1), ylim=(0, 1))
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":")
    for row in bins:
        hits = round(row["hits"] * row["count"])
        interval = binomtest(hits, row["count"]).proportion_ci(method="wilson")
        axes.plot([row["confidence"]] * 2, [interval.low, interval.high], color="C0")
        axes.plot(row["confidence"], row["hits"], "o", color="C0")
        axes.annotate(f"{row['count']}", (row["confidence"], row["hits"]), (5, -4), textcoords="offset points")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def to_markdown(result: Mapping[str, Any]) -> str:
    lines = ["| map | in the lesion, within a token | within half a token | mm to the lesion | mm to its middle |"]
    lines.append("|---|---|---|---|---|")
    for name, row in result["pointing"].items():
        shown = [show(row[figure]) for figure in ("hit", "half a token")]
        shown += [show(row[figure], 0) for figure in ("to the lesion", "to its middle")]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += ["", f"| finding | sentences | {CHANCE} | {DEFAULT} |", "|---|---|---|---|"]
    for kind, row in result["findings"].items():
        lines.append(f"| {kind} | {row['count']} | {row[CHANCE]:.2f} | {row[DEFAULT]:.2f} |")
    lines += ["", "| | rate | of |", "|---|---|---|"]
    for name, row in result.items():
        if isinstance(row, dict) and "value" in row:
            lines.append(f"| {name} | {show(row)} | {row.get('count', 0)} |")
    lines += ["", "| confidence | hits | sentences |", "|---|---|---|"]
    lines += [f"| {row['confidence']:.2f} | {row['hits']:.2f} | {row['count']} |" for row in result["confidence"]]
    lines += ["", "| | seconds a case, median |", "|---|---|"]
    lines += [f"| {name} | {seconds:.2f} |" for name, seconds in result["seconds"].items()]
    return "\n".join(lines)


def evidence(
    bundle: str = "bundles/u2llm",
    output: str | None = None,
    device: str = "cpu",
    num_cases: int = 40,
    first_case: int = SPLIT_RANGES["test"][0],
    methods: Sequence[str] = tuple(METHODS),
    blind_checkpoint: str | None = None,
    plot: str | None = None,
) -> None:
    """Print the tables of a bundle's model on phantoms that are rendered here.

    Args:
        bundle: folder of the bundle.
        output: JSON file for the tables and what was seen of each sentence.
        device: where the model runs.
        num_cases: number of cases.
        first_case: number of the first case.
        methods: names of the methods; the default one among them.
        blind_checkpoint: `model.pt` of a training with images set to zero; its maps of the same sentences stand beside.
        plot: PNG file for hits by confidence.
    """
    logging.disable(logging.WARNING)
    methods = [methods] if isinstance(methods, str) else list(methods)
    if num_cases < 2 or DEFAULT not in methods or not set(methods) <= set(METHODS):
        raise InputError(
            f"num_cases is {num_cases}, methods {methods}; expected at least 2 cases and some of {list(METHODS)}, "
            f"{DEFAULT!r} among them."
        )
    if blind_checkpoint is not None and not Path(blind_checkpoint).is_file():
        raise InputError(f"blind_checkpoint is {blind_checkpoint}: no such file; expected a training's model.pt.")
    parser = load_bundle(bundle, device)
    parts = [parser.get_parsed_content(name) for name in ("network", "text_tokenizer", "preprocessing")]
    finders = {name: EvidenceFinder(*parts, METHODS[name]()) for name in methods}
    blind = None
    if blind_checkpoint is not None:
        network = load_bundle(bundle, device, blind_checkpoint).get_parsed_content("network")
        blind = EvidenceFinder(network, *parts[1:], METHODS[DEFAULT]())
    rng = np.random.default_rng(0)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "volume.nii"
        # the case before the first one lends it its image
        other = read_phantom(parser, first_case + num_cases - 1, path)
        for number in tqdm(range(first_case, first_case + num_cases), desc="cases"):
            reading = read_phantom(parser, number, path)
            cases.append(measure_case(parser, finders, reading, other, rng, blind) | {"case": number})
            other = reading
    result = tables(cases)
    print(to_markdown(result))
    write_figures(output, {"table": result, "cases": cases})
    if plot is not None:
        plot_calibration(result["confidence"], plot)


if __name__ == "__main__":
    fire.Fire(evidence)
