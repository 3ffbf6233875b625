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

"""What comes of an ablation: the mean over seeds with its interval, and the difference to one of the configs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_u2.data.records import write_text_atomically
from monai_u2.evaluation.ablation import KINDS, METRICS, MODEL, Ablation, Run, changes_of
from monai_u2.exceptions import InputError
from monai_u2.metrics.crg import crg_statistic
from monai_u2.metrics.findings import f1_statistic
from monai_u2.metrics.significance import CaseStatistic, bootstrap_intervals, compare_runs, holm, mean_statistic
from monai_u2.networks.checkpoints import file_sha256

DEFAULT_METRICS: tuple[str, ...] = ("micro_f1", "green", "rougeL", "distinct")


@dataclass(frozen=True)
class RunScores:
    """What an evaluation found.

    Args:
        references: id -> reference of each case that was scored.
        patients: patient of each.
        statistics: numbers that are functions of sums over cases; they get intervals.
        values: all numbers of the evaluation, also those of all cases together, such as the share of distinct reports.
        steps: training steps.
        records: SHA-256 of the records that the training read.
    """

    references: dict[str, str]
    patients: list[str]
    statistics: dict[str, CaseStatistic]
    values: dict[str, float]
    steps: int
    records: dict[str, str]


def table_of(
    ablation: Ablation, runs: Sequence[Run], metrics: Sequence[str] = DEFAULT_METRICS, reference: str | None = None
) -> dict[str, Any]:
    """:func:`compare_configs` of the runs of an ablation, with its settings and what each config changes.

    Raises:
        InputError: as :func:`compare_configs`.
    """
    scores: dict[str, dict[int, RunScores]] = {name: {} for name in ablation.configs}
    for run in runs:
        if run.failure is None:
            scores[run.name][run.seed] = read_scores(run.folder)
    table = compare_configs(scores, metrics=metrics, reference=reference)
    told = {
        "base": [file.name for file in ablation.base],
        "evaluate": [file.name for file in ablation.evaluate],
        "overrides": dict(ablation.overrides),
        "changes": {name: changes_of(file) for name, file in ablation.configs.items()},
        "failed": {f"{run.name}, seed {run.seed}": run.failure for run in runs if run.failure},
    }
    return {"settings": {**told, **table["settings"]}, "configs": table["configs"]}


def read_scores(folder: Path) -> RunScores:
    """Read what a finished run wrote.

    Args:
        folder: of the run, with `training` and `evaluation`.

    Raises:
        InputError: when another model was evaluated than that of the training.
    """
    training, evaluation = (folder / kind for kind in KINDS)
    content = json.loads((evaluation / METRICS).read_text(encoding="utf-8"))
    if content["settings"]["model_sha256"] != file_sha256(training / MODEL):
        raise InputError(
            f"{evaluation}: is of another model than that in {training}, which was trained later. Delete {evaluation}, "
            "and give the command again."
        )
    predictions = _lines_of(evaluation / "predictions.jsonl")
    with (evaluation / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    model = next(run for run in content["runs"] if run["name"] == "model")
    values = {name: _number(interval["value"]) for name, interval in model["metrics"].items()}
    values |= {name: _number(value) for name, value in model["collapse"].items() if not isinstance(value, list)}
    statistics = {
        name: mean_statistic(np.array([float(row[name] or "nan") for row in rows]))
        for name in values
        if name in rows[0]
    }
    if labels := list(content.get("findings", {})):
        kinds = {entry["id"]: entry["kind"] for entry in predictions}
        statistics |= _finding_statistics(rows, labels, np.array([kinds[row["id"]] == "report" for row in rows]))
    references = {entry["id"]: entry["reference"] for entry in predictions}
    steps = max(int(file.stem.rpartition("=")[2]) for file in training.glob("checkpoint_step=*.pt"))
    return RunScores(
        references={row["id"]: references[row["id"]] for row in rows},
        patients=[row["patient"] for row in rows],
        statistics=statistics,
        values=values,
        steps=steps,
        records=json.loads((training / "run.json").read_text(encoding="utf-8"))["sha256"],
    )


def _lines_of(file: Path) -> list[dict[str, Any]]:
    """Objects of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def _finding_statistics(
    rows: Sequence[Mapping[str, str]], labels: Sequence[str], is_report: np.ndarray
) -> dict[str, CaseStatistic]:
    named, there = (
        np.array([[label in row[column].split(";") for label in labels] for row in rows])
        for column in ("findings_named", "findings_there")
    )
    found = {
        "micro_f1": f1_statistic(named, there),
        "macro_f1": f1_statistic(named, there, "macro"),
        "crg": crg_statistic(named, there),
    }
    return {name: CaseStatistic(one.counts * is_report[:, None], one.function) for name, one in found.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def mean_over(statistics: Sequence[CaseStatistic]) -> CaseStatistic:
    """Mean of one number over several runs on the same cases: a resample draws a case of all runs together."""
    ends = np.cumsum([statistic.counts.shape[1] for statistic in statistics])[:-1]

    def function(sums: np.ndarray) -> np.ndarray:
        parts = np.split(sums, ends, axis=-1)
        return np.mean([one.function(part) for one, part in zip(statistics, parts)], axis=0)

    return CaseStatistic(np.concatenate([one.counts for one in statistics], axis=1), function)


def compare_configs(
    scores: Mapping[str, Mapping[int, RunScores]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    reference: str | None = None,
    num_samples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare configs.

    Args:
        scores: config -> seed -> scores of its finished run.
        metrics: numbers to compare.
        reference: config that the others are compared with; the first one without.
        num_samples: resamples of the intervals, and permutations.
        seed: seed of both.

    Returns:
        `settings`, and of each of the `configs` its `name`, `seeds` and `metrics`: number -> `value` (mean over seeds),
        `lowest` and `highest` of a seed, `low` and `high`, the ends of the 95 % bootstrap interval over patients (None
        for a number that isn't a function of sums over cases), and `difference` to the reference over the seeds that
        both have (None for the reference itself), corrected for the number of configs compared.

    Raises:
        InputError: when runs aren't of the same cases, records and steps, a number or the reference is unknown, or no
            run is finished.
    """
    reference = next(iter(scores), None) if reference is None else reference
    scores = {name: dict(runs) for name, runs in scores.items() if runs}
    if not scores:
        raise InputError("no run is finished; expected one or more. The logs named above say why.")
    if reference not in scores:
        raise InputError(f"reference {reference} has no finished run; expected one of {', '.join(scores)}.")
    first = _same_budget(scores)
    for metric in metrics:
        if metric not in first.values and metric not in first.statistics:
            known = ", ".join(dict.fromkeys([*first.values, *first.statistics]))
            raise InputError(f"metrics: {metric} isn't among what was evaluated; expected some of {known}.")
    sampling = {"num_samples": num_samples, "seed": seed}
    configs = []
    for name, runs in scores.items():
        rows = {metric: _over_seeds(runs, metric, first.patients, sampling) for metric in metrics}
        configs.append({"name": name, "seeds": sorted(runs), "metrics": rows})
    for metric in metrics:
        differences = {
            name: _difference(runs, scores[reference], metric, first.patients, sampling)
            for name, runs in scores.items()
            if name != reference
        }
        corrected = holm({name: row["p_value"] for name, row in differences.items() if row})
        for config in configs:
            row = differences.get(config["name"])
            p_holm = {"p_holm": corrected[config["name"]]} if row else {}
            config["metrics"][metric]["difference"] = {**row, **p_holm} if row else None
    settings = {"reference": reference, "cases": len(first.references), "patients": len(set(first.patients))}
    settings |= {"steps": first.steps, "sha256": first.records, "confidence": 0.95, **sampling}
    return {"settings": settings, "configs": configs}


def _same_budget(scores: Mapping[str, Mapping[int, RunScores]]) -> RunScores:
    """The first run, when all others were trained and evaluated on the same."""
    runs = {f"{name}, seed {seed}": run for name, of_config in scores.items() for seed, run in of_config.items()}
    label, first = next(iter(runs.items()))
    for other, run in runs.items():
        for what, mine, theirs in (
            ("evaluated on other cases", list(first.references), list(run.references)),
            ("scored against other references", first.references, run.references),
            ("trained on other records", first.records, run.records),
            (f"trained for other steps ({run.steps}, not {first.steps})", first.steps, run.steps),
        ):
            if mine != theirs:
                raise InputError(
                    f"{other}: was {what} than {label}; expected the same for all. Delete the folders of those that "
                    "are wrong, and give the command again."
                )
    return first


def _over_seeds(
    runs: Mapping[int, RunScores], metric: str, patients: Sequence[str], sampling: Mapping[str, int]
) -> dict[str, Any]:
    statistics = [run.statistics.get(metric) for run in runs.values()]
    if any(statistic is None for statistic in statistics):
        values, low, high = [run.values[metric] for run in runs.values()], None, None
    else:
        values = [statistic.value for statistic in statistics]
        interval = bootstrap_intervals({metric: mean_over(statistics)}, patients, **sampling)[metric]
        low, high = interval.low, interval.high
    return {
        "value": float(np.mean(values)),
        "lowest": min(values),
        "highest": max(values),
        "low": low,
        "high": high,
        "seeds": dict(zip(map(str, runs), values)),
    }


def _difference(
    runs: Mapping[int, RunScores],
    others: Mapping[int, RunScores],
    metric: str,
    patients: Sequence[str],
    sampling: Mapping[str, int],
) -> dict[str, Any] | None:
    """Of the seeds that both have; None without one, or for a number that isn't a function of sums over cases."""
    both = [seed for seed in runs if seed in others]
    sides = [[side[seed].statistics.get(metric) for seed in both] for side in (runs, others)]
    if not both or any(statistic is None for side in sides for statistic in side):
        return None
    first, second = ({metric: mean_over(side)} for side in sides)
    row = asdict(compare_runs(first, second, patients, **sampling)[metric])
    return {"seeds": both, **{key: row[key] for key in ("difference", "low", "high", "p_value")}}


def markdown_table(table: Mapping[str, Any]) -> str:
    """The table as Markdown: numbers, then differences to the reference, then what each config changes."""
    settings, configs = table["settings"], table["configs"]
    metrics = list(configs[0]["metrics"])
    lines = [
        f"{settings['steps']} training steps each, evaluated on {settings['cases']} cases of {settings['patients']} "
        "patients. Mean over seeds (95 % bootstrap interval over patients), lowest to highest seed:",
        "",
        f"| config | seeds | {' | '.join(metrics)} |",
        "|---" * (len(metrics) + 2) + "|",
    ]
    lines += [
        f"| {config['name']} | {len(config['seeds'])} | "
        + " | ".join(_number_cell(config["metrics"][metric]) for metric in metrics)
        + " |"
        for config in configs
    ]
    with_difference = [metric for metric in metrics if any(c["metrics"][metric]["difference"] for c in configs)]
    if with_difference:
        lines += [
            "",
            f"Difference to {settings['reference']} (95 % interval), p of the paired permutation test, corrected for "
            "the number of configs (Holm):",
            "",
            f"| config | {' | '.join(with_difference)} |",
            "|---" * (len(with_difference) + 1) + "|",
        ]
        lines += [
            f"| {config['name']} | "
            + " | ".join(_difference_cell(config["metrics"][metric]["difference"]) for metric in with_difference)
            + " |"
            for config in configs
            if config["name"] != settings["reference"]
        ]
    lines += ["", "| config | what it changes |", "|---|---|"]
    for name, changes in settings.get("changes", {}).items():
        told = "; ".join(f"`{key}` {json.dumps(value)}" for key, value in changes.items())
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines) + "\n"


def _number_cell(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" ({row['low']:.3f}–{row['high']:.3f})"
    spread = f", {row['lowest']:.3f} to {row['highest']:.3f}" if len(row["seeds"]) > 1 else ""
    return f"{row['value']:.3f}{interval}{spread}"


def _difference_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}), p {row['p_holm']:.4f}"


def csv_table(table: Mapping[str, Any]) -> str:
    """The table as CSV, a line for each config and number."""
    text = io.StringIO()
    numbers = ("value", "lowest", "highest", "low", "high")
    of_difference = ("difference", "low", "high", "p_value", "p_holm")
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"difference_{name}" if name in ("low", "high") else name for name in of_difference]
    writer.writerow(["config", "metric", "seeds", *numbers, *columns])
    for config in table["configs"]:
        for metric, row in config["metrics"].items():
            difference = row["difference"] or {}
            cells = [row[name] for name in numbers] + [difference.get(name) for name in of_difference]
            writer.writerow([config["name"], metric, len(config["seeds"]), *cells])
    return text.getvalue()


def write_table(table: Mapping[str, Any], folder: Path) -> None:
    """Write `table.md`, `table.json` and `table.csv`."""
    write_text_atomically(folder / "table.md", markdown_table(table))
    write_text_atomically(folder / "table.json", json.dumps(_finite(table), indent=4) + "\n")
    write_text_atomically(folder / "table.csv", csv_table(table))


def _finite(content: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
