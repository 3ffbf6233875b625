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

Greedy reports of the model before and of models after (one a seed) on the same cases; 95 % intervals over resampled
cases, for the differences of the same cases::

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
        "distinct": len(set(reports)) / len(reports),
    }


def statistics(run: dict[str, Any]) -> dict[str, Callable[[np.ndarray], float]]:
    """Numbers over cases, each a function of their indexes."""
    return {
        "judge score": lambda cases: run["score"][cases].mean(),
        "finding F1": lambda cases: micro_f1(run["named"][cases], run["there"][cases]),
        "words": lambda cases: run["length"][cases].mean(),
    }


def benchmark(
    records: str,
    after: list[str] | str,
    before: str | None = None,
    bundle: str = "bundles/u2llm",
    num_cases: int | None = None,
    output: str | None = None,
) -> None:
    """Print a table.

    Args:
        records: held-out records; whole reports of them are asked for.
        after: models after preference optimization.
        before: the model before; the bundle's by default.
        bundle: folder of the bundle.
        num_cases: number of cases; all of them by default.
        output: JSON file for the figures.
    """
    cases = [record for record in load_records(records) if record.get("kind", "report") == "report"]
    cases = list({record["image"]: record for record in cases}.values())[:num_cases]
    if not cases:
        raise InputError(f"{records}: has no record of kind 'report'; expected held-out cases with their reports")
    models = {"before": before, **{f"after, {path}": path for path in ([after] if isinstance(after, str) else after)}}
    for path in filter(None, models.values()):
        if not Path(path).is_file():
            raise InputError(f"model {path}: there is no such file; expected the model.pt of dpo.json")
    runs = {name: measured(reports_of(bundle, path, cases), cases) for name, path in models.items()}
    first = statistics(runs["before"])
    rows = {}
    for name, run in runs.items():
        own = statistics(run)
        rows[name] = {key: case_bootstrap(own[key], len(cases)) for key in own} | {"distinct": run["distinct"]}
        if name != "before":
            rows[name]["difference"] = {
                key: case_bootstrap(lambda i, key=key, own=own: own[key](i) - first[key](i), len(cases)) for key in own
            }
    print(f"{len(cases)} cases\n\n| | judge score | finding F1 | words | distinct reports |\n|---|---|---|---|---|")
    for name, row in rows.items():
        numbers = " | ".join(show(row[key]) for key in first)
        print(f"| {name} | {numbers} | {row['distinct']:.2f} |")
        if "difference" in row:
            print(f"| difference | {' | '.join(show(row['difference'][key]) for key in first)} | |")
    write_figures(output, {"records": str(records), "cases": len(cases), "rows": rows})


if __name__ == "__main__":
    fire.Fire(benchmark)
