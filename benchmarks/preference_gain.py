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

"""What preference optimization changes on held-out cases: judge score, finding F1, distinct reports, length.

Greedy reports of models before and after, one pair a seed, on the same cases; 95 % intervals over resampled cases, for
the differences of the same cases::

    python benchmarks/preference_gain.py runs/phantoms/test.jsonl --after runs/dpo/model.pt --output runs/gain.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import numpy as np
from bundle_model import answer_questions, case_bootstrap, findings_matrix, load_bundle, show, write_figures
from tqdm import tqdm

from monai_u2.data import load_records, parse_findings
from monai_u2.exceptions import InputError
from monai_u2.judges import FindingsJudge
from monai_u2.metrics import micro_f1

NUMBERS = ("judge score", "finding F1", "words")
Number = Callable[[np.ndarray], float]


def reports_of(bundle: str, checkpoint: str | None, records: list[dict[str, Any]]) -> list[str]:
    """Greedy report of each record's question."""
    parser = load_bundle(bundle, checkpoint=checkpoint)
    name = "shipped model" if checkpoint is None else str(checkpoint)
    return [answer_questions(parser, record["image"], [record["question"]])[0] for record in tqdm(records, desc=name)]


def measured(reports: list[str], records: list[dict[str, Any]]) -> dict[str, Any]:
    """Judge score and length of each report `(cases,)`, and what is named and there `(cases, findings)`."""
    found = FindingsJudge(parse_findings).batch([record["answer"] for record in records], reports)
    failed = [i for i, one in enumerate(found) if one.score is None]
    if failed:
        raise InputError(
            f"{len(failed)} reports have no score (the first: case {failed[0]}, {found[failed[0]].status})"
        )
    return {
        "score": np.array([one.score for one in found]),
        "length": np.array([len(report.split()) for report in reports]),
        "named": findings_matrix([parse_findings(report) for report in reports]),
        "there": findings_matrix([record["findings"] for record in records]),
        "reports": reports,
    }


def distinct_share(reports: list[str], cases: np.ndarray) -> float:
    """Share of different texts among the reports of some cases."""
    return len({reports[case] for case in cases}) / len(cases)


def distinct_difference(runs: list[tuple[list[str], list[str]]], num_halves: int = 1000) -> dict[str, float]:
    """Mean over (before, after) of the differences of :func:`distinct_share`, with its interval over halves of cases.

    Not by bootstrap: what it draws twice would count as the same text twice.
    """
    rng, num = np.random.default_rng(0), len(runs[0][0])

    def mean(cases: np.ndarray) -> float:
        return float(np.mean([distinct_share(after, cases) - distinct_share(before, cases) for before, after in runs]))

    halves = [mean(rng.permutation(num)[: max(1, num // 2)]) for _ in range(num_halves)]
    low, high = np.percentile(halves, [2.5, 97.5])
    return {"value": mean(np.arange(num)), "low": float(low), "high": float(high)}


def statistics(run: dict[str, Any]) -> dict[str, Number]:
    """Numbers over cases, each a function of their indexes."""
    return {
        "judge score": lambda cases: run["score"][cases].mean(),
        "finding F1": lambda cases: micro_f1(run["named"][cases], run["there"][cases]),
        "words": lambda cases: run["length"][cases].mean(),
    }


def difference(before: dict[str, Number], after: dict[str, Number]) -> dict[str, Number]:
    """Numbers after minus numbers before, on the same cases."""
    return {key: lambda cases, key=key: after[key](cases) - before[key](cases) for key in NUMBERS}


def mean_of(numbers: list[Number]) -> Number:
    """Mean of the same number over seeds."""
    return lambda cases: sum(number(cases) for number in numbers) / len(numbers)


def benchmark(
    records: str,
    after: list[str] | str,
    before: list[str] | str | None = None,
    bundle: str = "bundles/u2llm",
    num_cases: int | None = None,
    output: str | None = None,
) -> None:
    """Print a table.

    Args:
        records: held-out records; whole reports of them are asked for.
        after: models after preference optimization, one a seed.
        before: the model before, the bundle's by default, or one for each of `after`.
        bundle: folder of the bundle.
        num_cases: number of cases; all of them by default.
        output: JSON file for the figures.
    """
    cases = [record for record in load_records(records) if record.get("kind", "report") == "report"]
    cases = list({record["image"]: record for record in cases}.values())[:num_cases]
    if not cases:
        raise InputError(f"{records}: has no record of kind 'report'; expected held-out cases with their reports")
    after = [after] if isinstance(after, str) else list(after)
    befores = list(before) if isinstance(before, (list, tuple)) else [before] * len(after)
    if len(befores) != len(after):
        raise InputError(f"before names {len(befores)} models, after {len(after)}; expected one, or one for each.")
    for path in filter(None, [*befores, *after]):
        if not Path(path).is_file():
            raise InputError(f"model {path}: there is no such file; expected the model.pt of sft.json or dpo.json")
    runs = {path: measured(reports_of(bundle, path, cases), cases) for path in dict.fromkeys([*befores, *after])}
    references = measured([record["answer"] for record in cases], cases)
    print(f"{len(cases)} cases\n\n| | {' | '.join(NUMBERS)} | distinct reports |\n|---|---|---|---|---|")
    rows: dict[str, Any] = {}

    def add(name: str, numbers: dict[str, Number], distinct: float | dict[str, float]) -> None:
        rows[name] = {key: case_bootstrap(number, len(cases)) for key, number in numbers.items()}
        shown = [show(rows[name][key]) for key in NUMBERS]
        shown.append(show(distinct) if isinstance(distinct, dict) else f"{distinct:.3f}")
        print(f"| {name} | {' | '.join(shown)} |")
        rows[name]["distinct"] = distinct

    everything = np.arange(len(cases))
    add("references", statistics(references), distinct_share(references["reports"], everything))
    differences, texts = [], []
    for first, last in zip(befores, after):
        for name, path in (("before", first), ("after", last)):
            share = distinct_share(runs[path]["reports"], everything)
            add(f"{name}, {path or 'shipped model'}", statistics(runs[path]), share)
        differences.append(difference(statistics(runs[first]), statistics(runs[last])))
        texts.append((runs[first]["reports"], runs[last]["reports"]))
        add(f"difference, {last}", differences[-1], distinct_difference(texts[-1:]))
    if len(after) > 1:
        mean = {key: mean_of([one[key] for one in differences]) for key in NUMBERS}
        add("mean difference", mean, distinct_difference(texts))
    write_figures(output, {"records": str(records), "cases": len(cases), "rows": rows})


if __name__ == "__main__":
    fire.Fire(benchmark)
