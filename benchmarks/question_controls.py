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

"""Does the model answer the question that it is asked? Answers beside those to swapped questions, with 95 % intervals.

Regions: each case is asked about every region; an answer counts as right when the findings in it are the case's
findings of that region, and as about the region when it is made of the grammar's sentences of that region. The control
takes the answers to the questions about the other regions instead. Sides: each finding on one side only is asked
for on the left and on the right; the control exchanges the two answers. Then the records' own questions, beside the
most frequent answer::

    monai-u2 phantom runs/phantoms --test 200 --questions 12
    python benchmarks/question_controls.py runs/phantoms/test.jsonl --output runs/question_controls.json
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import fire
import numpy as np
from bundle_model import answer_questions, case_bootstrap, load_bundle, ratio, show, write_figures
from tqdm import tqdm

from monai_u2.data import group_by_image, load_records
from monai_u2.data.phantom import FINDING_LABELS, PhantomFinding, draw_case, parse_findings, write_report
from monai_u2.data.phantom.report import REGIONS

REGION_QUESTION = "What is seen in the {region}?"
SIDE_QUESTION = "Is there {name} on the {side}?"
SIDES = ("left", "right")
SIDE_NAMES = {
    "pleural effusion": "a pleural effusion",
    "kidney stone": "a kidney stone",
    "hydronephrosis": "hydronephrosis",
    "renal cyst": "a renal cyst",
}
RECORD_KINDS = ("presence", "side", "location", "size")
SEVERITIES = ("small", "moderate", "large", "mild", "severe")

Case = dict[str, Any]
Answers = dict[str, str]


@lru_cache(maxsize=1)
def region_grammar() -> tuple[dict[str, set[str]], dict[str, str]]:
    """Sentences of each region, sizes set to 20 mm, and the region of each finding label; from written reports."""
    sentences: dict[str, set[str]] = {region: set() for region in REGIONS}
    regions: dict[str, str] = {}
    patient = draw_case(0)
    for label in FINDING_LABELS:
        kind, _, location = label.partition(", ")
        for severity in SEVERITIES:
            finding = PhantomFinding(label, kind, location or None, (0.0, 0.0, 0.0), 20.0, severity)
            for sentence in write_report(replace(patient, findings=(finding,))).sentences:
                if sentence["region"] is None:
                    continue  # the impression
                sentences[sentence["region"]].add(_with_size_20(sentence["text"]))
                if sentence["findings"]:
                    regions[label] = sentence["region"]
    return sentences, regions


def _with_size_20(text: str) -> str:
    return re.sub(r"\d+ mm", "20 mm", text)


def is_about(answer: str, region: str) -> bool:
    """Whether an answer consists of sentences of the grammar about this region."""
    known, _ = region_grammar()
    parts = re.split(r"(?<=\.)\s+", _with_size_20(answer.strip()))
    return all(part in known[region] for part in parts)


def one_sided(case: Case) -> dict[str, str]:
    """Kind of finding -> the side, for those that the case has on exactly one side."""
    found = {kind: [side for side in SIDES if f"{kind}, {side}" in case["findings"]] for kind in SIDE_NAMES}
    return {kind: sides[0] for kind, sides in found.items() if len(sides) == 1}


def region_question(region: str) -> str:
    return REGION_QUESTION.format(region=region.lower())


def side_question(kind: str, side: str) -> str:
    return SIDE_QUESTION.format(name=SIDE_NAMES[kind], side=side)


def case_questions(case: Case) -> list[str]:
    """All questions that a case is asked, each once."""
    questions = [region_question(region) for region in REGIONS]
    questions += [side_question(kind, side) for kind in one_sided(case) for side in SIDES]
    questions += [entry["question"] for entry in case["conversations"] if entry.get("kind") in RECORD_KINDS]
    return list(dict.fromkeys(questions))


def score_regions(cases: Sequence[Case], answers: Sequence[Answers]) -> dict[str, dict[str, dict[str, float]]]:
    """Answers to the region's own question, to those of the other regions, and "nothing" for every region.

    Returns:
        row -> `all` (findings right), `with findings` (likewise, of regions that have some), `about` -> number with
        interval; the last row holds the difference between the first two.
    """
    _, region_of = region_grammar()
    shape = (len(cases), len(REGIONS), len(REGIONS))
    right, about = np.zeros(shape), np.zeros(shape)  # of case, region asked about, region whose answer is taken
    present = np.zeros(shape[:2], dtype=bool)
    for c, (case, texts) in enumerate(zip(cases, answers)):
        said = [texts[region_question(region)] for region in REGIONS]
        for r, region in enumerate(REGIONS):
            truth = sorted(label for label in case["findings"] if region_of[label] == region)
            present[c, r] = bool(truth)
            right[c, r] = [parse_findings(text) == truth for text in said]
            about[c, r] = [is_about(text, region) for text in said]
    own = np.eye(len(REGIONS))
    weights = {"the region's own question": own, "another region's question": (1 - own) / (len(REGIONS) - 1)}
    per_region = {row: ((right * w).sum(axis=2), (about * w).sum(axis=2)) for row, w in weights.items()}
    per_region["no finding in any region"] = (~present * 1.0, np.zeros(shape[:2]))
    everywhere = np.ones(shape[:2])
    hits = {
        row: {"all": (r, everywhere), "with findings": (r * present, present * 1.0), "about": (a, everywhere)}
        for row, (r, a) in per_region.items()
    }
    table: dict[str, dict[str, dict[str, float]]] = {}
    statistics = {
        row: {column: ratio(h.sum(axis=1), n.sum(axis=1)) for column, (h, n) in columns.items()}
        for row, columns in hits.items()
    }
    first, second = (statistics[row] for row in weights)
    statistics["difference of the first two"] = {
        column: lambda draw, column=column: first[column](draw) - second[column](draw) for column in first
    }
    for row, columns in statistics.items():
        table[row] = {
            column: case_bootstrap(statistic, len(cases))
            for column, statistic in columns.items()
            if present.any() or column != "with findings"
        }
    table["no finding in any region"].pop("about")
    return table


def yes_or_no(answer: str) -> bool | None:
    """Whether a text says yes or no; None where it says neither."""
    word = re.match(r"\s*(yes|no)\b", answer, re.IGNORECASE)
    return None if word is None else word[1].lower() == "yes"


def score_sides(cases: Sequence[Case], answers: Sequence[Answers]) -> dict[str, dict[str, Any]]:
    """Answers about the two sides of one-sided findings, and the same answers exchanged.

    Returns:
        kind of finding, then `all` -> `count` of findings and, as numbers with intervals, `accuracy` of single answers
        and the share of findings with `both` right, then these two with answers `exchanged`. Kinds that no case has on
        one side are left out.
    """
    counts = np.zeros((len(SIDE_NAMES), len(cases)))
    names = ("accuracy", "both", "exchanged accuracy", "exchanged both")
    hits = np.zeros((len(names), *counts.shape))
    for c, (case, texts) in enumerate(zip(cases, answers)):
        for kind, where in one_sided(case).items():
            k = list(SIDE_NAMES).index(kind)
            truth = [side == where for side in SIDES]
            said = [yes_or_no(texts[side_question(kind, side)]) for side in SIDES]
            counts[k, c] = 1
            for offset, heard in ((0, said), (2, said[::-1])):
                right = [answer == expected for answer, expected in zip(heard, truth)]
                hits[offset : offset + 2, k, c] = [sum(right) / len(right), all(right)]
    table: dict[str, dict[str, Any]] = {}
    for kind, rows in [*((kind, [k]) for k, kind in enumerate(SIDE_NAMES)), ("all", list(range(len(SIDE_NAMES))))]:
        count = counts[rows].sum(axis=0)
        if count.any():
            table[kind] = {"count": int(count.sum())} | {
                name: case_bootstrap(ratio(hits[i, rows].sum(axis=0), count), len(cases))
                for i, name in enumerate(names)
            }
    return table


def score_records(cases: Sequence[Case], answers: Sequence[Answers]) -> dict[str, dict[str, Any]]:
    """Exact answers to the records' own questions.

    Returns:
        kind of question -> `count`, `accuracy` with interval, `majority` (accuracy of the most frequent answer of these
        records) and, for yes and no where both occur, `balanced` (the mean of the recalls of yes and no) with interval.
        Kinds without records are left out.
    """
    table: dict[str, dict[str, Any]] = {}
    for kind in RECORD_KINDS:
        asked = [
            (c, entry["answer"], texts[entry["question"]])
            for c, (case, texts) in enumerate(zip(cases, answers))
            for entry in case["conversations"]
            if entry.get("kind") == kind
        ]
        if not asked:
            continue
        counts, hits = np.zeros(len(cases)), np.zeros(len(cases))
        polar_counts, polar_hits = np.zeros((2, len(cases))), np.zeros((2, len(cases)))
        for c, expected, text in asked:
            counts[c] += 1
            hits[c] += text == expected
            truth = yes_or_no(expected)
            if truth is not None:
                polar_counts[int(truth), c] += 1
                polar_hits[int(truth), c] += yes_or_no(text) is truth
        frequent, times = Counter(expected for _, expected, _ in asked).most_common(1)[0]
        table[kind] = {
            "count": len(asked),
            "accuracy": case_bootstrap(ratio(hits, counts), len(cases)),
            "majority": {"answer": frequent, "accuracy": times / len(asked)},
        }
        if polar_counts.any(axis=1).all():
            recalls = [ratio(h, n) for h, n in zip(polar_hits, polar_counts)]
            table[kind]["balanced"] = case_bootstrap(
                lambda draw, recalls=recalls: float(np.mean([recall(draw) for recall in recalls])), len(cases)
            )
    return table


def to_markdown(scores: dict[str, Any]) -> str:
    """The three tables."""
    lines = [
        "| answers to | findings right | of regions with findings | about the region asked |",
        "|---|---|---|---|",
    ]
    for row, columns in scores["regions"].items():
        cells = [show(columns[name]) if name in columns else "" for name in ("all", "with findings", "about")]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += ["", "| finding on one side | cases | right | both right | exchanged: right | exchanged: both right |"]
    lines.append("|---|---|---|---|---|---|")
    for kind, row in scores["sides"].items():
        names = ("accuracy", "both", "exchanged accuracy", "exchanged both")
        lines.append(f"| {kind} | {row['count']} | {' | '.join(show(row[name]) for name in names)} |")
    lines += ["", "| questions | count | exact answers | most frequent answer | balanced accuracy of yes and no |"]
    lines.append("|---|---|---|---|---|")
    for kind, row in scores["records"].items():
        balanced = show(row["balanced"]) if "balanced" in row else ""
        majority = f"{row['majority']['accuracy']:.3f} ({row['majority']['answer']})"
        lines.append(f"| {kind} | {row['count']} | {show(row['accuracy'])} | {majority} | {balanced} |")
    return "\n".join([*lines, "", f"{scores['cases']} cases; 95 % intervals over cases"])


def score(cases: Sequence[Case], answers: Sequence[Answers]) -> dict[str, Any]:
    """All scores of the answers, question -> text for each case."""
    return {
        "cases": len(cases),
        "regions": score_regions(cases, answers),
        "sides": score_sides(cases, answers),
        "records": score_records(cases, answers),
    }


def question_controls(
    records: str,
    bundle: str = "bundles/u2llm",
    output: str | None = None,
    device: str = "cpu",
    num_cases: int | None = None,
) -> None:
    """Print the tables of a bundle's model on the cases of a file.

    Args:
        records: JSON Lines file with finding labels, such as the phantom's `test.jsonl`.
        bundle: folder of the bundle.
        output: JSON file for the scores and the answers.
        device: where the model runs.
        num_cases: the first cases of the file; all by default.
    """
    logging.disable(logging.WARNING)
    parser = load_bundle(bundle, device)
    cases = group_by_image(load_records(records))[:num_cases]
    answers = []
    for case in tqdm(cases, desc="cases"):
        questions = case_questions(case)
        answers.append(dict(zip(questions, answer_questions(parser, case["image"], questions))))
    scores = score(cases, answers)
    print(to_markdown(scores))
    write_figures(output, scores | {"answers": answers})


if __name__ == "__main__":
    fire.Fire(question_controls)
