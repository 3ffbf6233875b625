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

"""``monai-u2 evaluate`` and ``compare``: reports of any system scored, and two runs compared."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_u2._mlflow import keep_mlflow_silent
from monai_u2.commands.command import Command, check_whole_number, check_writable
from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    from monai_u2.evaluation import ReportScorer

__all__ = ["evaluation_commands"]

_JUDGES = ("none", "findings")


def evaluate(
    predictions: str,
    references: str,
    output: str,
    labels: str = "none",
    report_labels: str | None = None,
    judge: str = "none",
    bertscore: str | None = None,
    bertscore_layers: int | None = None,
    seed: int = 0,
    num_samples: int = 10000,
) -> Command:
    """Score the reports of any system, with intervals: metrics.json, metrics.csv, predictions.jsonl, evaluation.html.

    Args:
        predictions: JSON Lines with id and report, or the output folder of an evaluation.
        references: JSON Lines with id and report or reference, where known with patient; or records.
        output: folder for the results; made if it isn't there.
        labels: finding labels; none, phantom (read from the texts), or a CSV file with those of the references, a
            column a label.
        report_labels: a CSV file with the labels of the predictions, where labels is one.
        judge: none, or findings, the rule-based judge, which reads the findings that labels names.
        bertscore: folder of a model for BERTScore.
        bertscore_layers: its layer; by default the one known for a model of the folder's name.
        seed: seed of the resampling.
        num_samples: number of resamples.
    """
    return Command(_evaluate, **locals())


def compare(
    first: str,
    second: str,
    output: str,
    references: str | None = None,
    labels: str = "none",
    report_labels: str | None = None,
    judge: str = "none",
    bertscore: str | None = None,
    bertscore_layers: int | None = None,
    seed: int = 0,
    num_samples: int = 10000,
) -> Command:
    """Compare two runs over the same cases by a paired permutation test, corrected for all metrics: comparison.json.

    Args:
        first: JSON Lines with id and report, or the output folder of an evaluation.
        second: the same of the other run.
        output: folder for comparison.json; made if it isn't there.
        references: as for evaluate; by default those that stand beside the predictions.
        labels: as for evaluate.
        report_labels: two CSV files, those of the first and of the second run, separated by a comma.
        judge: as for evaluate.
        bertscore: as for evaluate.
        bertscore_layers: as for evaluate.
        seed: seed of resampling and permutations.
        num_samples: number of each.
    """
    return Command(_compare, **locals())


def evaluation_commands() -> dict[str, Callable[..., Command]]:
    """Return the commands, for fire."""
    from fire.decorators import SetParseFns

    # without a parse function, fire would make numbers of "1.2" and lists of "[a]"
    texts = {"output": str, "labels": str, "report_labels": str, "judge": str, "bertscore": str, "references": str}
    return {
        "evaluate": SetParseFns(predictions=str, **texts)(evaluate),
        "compare": SetParseFns(first=str, second=str, **texts)(compare),
    }


def _evaluate(predictions: str, references: str, output: str, **options: Any) -> None:
    folder, files = Path(output).expanduser(), (Path(predictions).expanduser(), Path(references).expanduser())
    _check(folder, options, tables=1)
    from monai_u2.data.journal import check_settings
    from monai_u2.evaluation import (
        TableLabels,
        evaluate_reports,
        most_frequent_reports,
        read_predictions,
        read_references,
        write_html_page,
    )
    from monai_u2.evaluation.controls import MODEL
    from monai_u2.metrics.cases import case_kind

    told, expected = read_predictions(files[0]), read_references(files[1])
    (scorer,) = _scorers(options, 1)
    runs = {MODEL: told}
    if not isinstance(scorer.labels, TableLabels):  # a table knows nothing of other texts
        texts = most_frequent_reports((case_kind(entry), entry["report"]) for entry in expected)
        runs["most_frequent_report"] = [
            {"id": entry["id"], "report": texts.get(case_kind(entry), "")} for entry in expected
        ]
    hashes = {"predictions_sha256": _sha256(files[0]), "records_sha256": _sha256(files[1])}
    evaluation = evaluate_reports(runs, expected, scorer, hashes)
    check_settings(folder, hashes, "results")  # not before, else what fails would claim the folder
    evaluation.write(folder)
    write_html_page(folder, parse_findings=scorer.parser)
    cases = evaluation.metrics["cases"]
    sys.stdout.write(f"{evaluation.table()}\n\n{_told_cases(cases)}written to {folder}\n")


def _compare(first: str, second: str, output: str, references: str | None, **options: Any) -> None:
    folder, files = Path(output).expanduser(), (Path(first).expanduser(), Path(second).expanduser())
    _check(folder, options, tables=2)
    from monai_u2.evaluation import compare_reports, read_predictions, read_references
    from monai_u2.evaluation.comparison import comparison_table
    from monai_u2.evaluation.results import write_json

    runs = [read_predictions(file) for file in files]
    if references is None:
        _check_same_references(runs, files)
    expected = read_references(files[0] if references is None else Path(references).expanduser())
    scorers = _scorers(options, 2)
    comparison = compare_reports(*runs, expected, scorers)
    comparison["settings"] |= {"labels": options["labels"], "runs": [str(file) for file in files]}
    write_json(folder / "comparison.json", comparison)
    sys.stdout.write(f"{comparison_table(comparison)}\n\n")
    sys.stdout.write(f"{_told_cases(comparison['cases'])}written to {folder / 'comparison.json'}\n")


def _check(folder: Path, options: Mapping[str, Any], tables: int) -> None:
    """Refuse options that don't fit before anything is computed."""
    keep_mlflow_silent()
    check_writable(folder)
    check_whole_number("seed", options["seed"], 0)
    check_whole_number("num_samples", options["num_samples"], 1)
    labels, report_labels, judge = options["labels"], options["report_labels"], options["judge"]
    if judge not in _JUDGES:
        raise InputError(f"--judge is {judge!r}; expected one of {', '.join(_JUDGES)}.")
    if judge == "findings" and labels == "none":
        raise InputError("--judge findings needs to know which findings to read; give --labels, too.")
    bertscore = options["bertscore"]
    if bertscore is not None and not Path(bertscore).expanduser().is_dir():
        raise InputError(f"--bertscore {bertscore}: is no folder; expected one of a model with its text tokenizer.")
    if options["bertscore_layers"] is not None:
        check_whole_number("bertscore_layers", options["bertscore_layers"], 1)
        if bertscore is None:
            raise InputError("--bertscore_layers needs --bertscore FOLDER, the model that they are of.")
    is_table = labels not in ("none", "phantom")
    if is_table and not Path(labels).expanduser().is_file():
        raise InputError(f"--labels {labels}: no such file; expected none, phantom, or a CSV file of labels.")
    given = [] if report_labels is None else report_labels.split(",")
    if is_table and len(given) != tables:
        raise InputError(
            f"--report_labels names {len(given)} files; expected {tables}, the labels of the predictions, since "
            "--labels is a file. Labels of both sides have to come from one labeller."
        )
    if given and not is_table:
        raise InputError("--report_labels needs --labels FILE, the labels of the references; give both or neither.")


def _scorers(options: Mapping[str, Any], number: int) -> tuple[ReportScorer, ...]:
    """How each run is scored."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    from monai_u2.evaluation import ReportScorer, TableLabels, TextLabels
    from monai_u2.judges import FindingsJudge

    labels: list[Any] = [None] * number
    judge = None
    if options["labels"] == "phantom":
        from monai_u2.data.phantom import FINDING_LABELS, parse_findings

        labels = [TextLabels(parse_findings, FINDING_LABELS)] * number
        judge = FindingsJudge(parse_findings)
    elif options["labels"] != "none":
        reports = [Path(name.strip()).expanduser() for name in options["report_labels"].split(",")]
        table = Path(options["labels"]).expanduser()
        labels = [TableLabels(report, table) for report in reports]
        judge = FindingsJudge(labels=labels[0].names) if options["judge"] == "findings" else None
    judge = judge if options["judge"] == "findings" else None
    shared = {key: options[key] for key in ("bertscore", "bertscore_layers", "seed", "num_samples")}
    return tuple(ReportScorer(labels=part, judge=judge, **shared) for part in labels)


def _check_same_references(runs: list[list[dict[str, Any]]], files: tuple[Path, ...]) -> None:
    """Refuse runs whose own references aren't there or aren't the same."""
    for run, file in zip(runs, files):
        if not all(isinstance(entry.get("reference"), str) for entry in run):
            raise InputError(f"{file}: its predictions stand without references; give them with --references FILE.")
    first, second = ({str(entry["id"]): entry["reference"] for entry in run} for run in runs)
    from monai_u2.metrics.cases import listed_ids

    if differing := [case for case in first if case in second and first[case] != second[case]]:
        raise InputError(
            f"{files[0]} and {files[1]} were scored against different references: {listed_ids(differing)}. Give one "
            "file of references with --references."
        )


def _told_cases(cases: Mapping[str, Any]) -> str:
    """What is to be known of the cases, a line each."""
    lines = [f"{cases['scored']} cases of {cases['patients']} patients"]
    for key, values in cases.items():
        parts = values if isinstance(values, list) and values and isinstance(values[0], list) else [values]
        numbers = [len(part) for part in parts if isinstance(part, list)]
        if any(numbers):
            lines.append(f"{key.replace('_', ' ')}: {' and '.join(map(str, numbers))}")
    lines += [f"without {name}: {why}" for name, why in cases["left_out_metrics"].items()]
    return "\n".join(lines) + "\n"


def _sha256(file: Path) -> str:
    file = file / "predictions.jsonl" if file.is_dir() else file
    return hashlib.sha256(file.read_bytes()).hexdigest()
