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

"""What an evaluation gives: metrics of a run and of its controls with intervals, and the files of it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import monai_u2
from monai_u2.data.records import HEADER_KEYS, write_records, write_text_atomically
from monai_u2.evaluation.controls import MODEL
from monai_u2.evaluation.scoring import ReportScorer, ReportScores, paired_statistics
from monai_u2.exceptions import InputError
from monai_u2.metrics.cases import MatchedCases, case_kind, listed_ids, match_cases, name_or_default
from monai_u2.metrics.collapse import collapse_diagnostics, findings_per_normal_case
from monai_u2.metrics.significance import bootstrap_intervals, compare_runs

REFERENCES = "references"
LEADING_METRICS: tuple[str, ...] = ("green", "micro_f1", "rougeL")
"""What is looked at first."""

_DECIMALS = 10  # sums in another order may differ in their last bits
_PACKAGES = ("monai", "torch", "transformers")
_TEXT_PACKAGES = ("rouge-score", "sacrebleu", "nltk")


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, as it is written.

    Args:
        metrics: content of `metrics.json`: `settings`, `cases`, `runs` and `findings`.
        rows: those of `metrics.csv`, one a case.
        predictions: run -> its predictions.
    """

    metrics: dict[str, Any]
    rows: list[dict[str, Any]]
    predictions: dict[str, list[dict[str, Any]]]

    def write(self, folder: Path) -> None:
        """Write `predictions.jsonl`, one `predictions_<control>.jsonl` for each control, `metrics.json`, `metrics.csv`.

        Args:
            folder: folder, made where needed.
        """
        for name, predictions in self.predictions.items():
            file = "predictions.jsonl" if name == MODEL else f"predictions_{name}.jsonl"
            write_records(folder / file, predictions)
        write_text_atomically(folder / "metrics.csv", _csv(self.rows))
        write_json(folder / "metrics.json", self.metrics)

    def table(self) -> str:
        """The metrics of all runs with their intervals, and the differences to the controls in
        :data:`LEADING_METRICS`, as a Markdown table."""
        runs = [run for run in self.metrics["runs"] if "metrics" in run]
        lines = ["| | " + " | ".join(run["name"].replace("_", " ") for run in runs) + " |"]
        lines.append("|---" * (len(runs) + 1) + "|")
        lines += [
            f"| {name} | " + " | ".join(format_interval(run["metrics"].get(name)) for run in runs) + " |"
            for name in runs[0]["metrics"]
        ]
        for name in LEADING_METRICS if len(runs) > 1 else ():
            if name in runs[0]["metrics"]:
                cells = [format_difference((run["difference"] or {}).get(name)) for run in runs]
                lines.append(f"| model minus control, {name} | " + " | ".join(cells) + " |")
        for name in ("distinct", "most_frequent", "findings_per_normal_case"):
            numbers = [format_number(run["collapse"][name]) for run in runs]
            lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(numbers) + " |")
        return "\n".join(lines)


def evaluate_reports(
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    references: Sequence[Mapping[str, Any]],
    scorer: ReportScorer,
    settings: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Score a run and its controls over the same cases. A control of some of them alone is scored over these, and so is
    the model in the difference to it; what can't be computed there is left out.

    Args:
        predictions: `model`, then the controls: name -> objects with `id` and `report`, the controls with the same ids
            or some of them.
        references: objects with `id`, `report` and, where known, `patient`, `kind`, `question` and `image`.
        scorer: how they are scored.
        settings: what the predictions come from, for `metrics.json`: `model_sha256`, `records_sha256`, `preprocessing`,
            `generation`.

    Raises:
        InputError: for ids of one side only or there twice, no case with a reference, no metric that can be computed, a
            control without any of the scored cases, or as the scorer says.
    """
    cases = match_cases(predictions[MODEL], references)
    by_id = {str(entry["id"]): entry for entry in references}
    kinds = [case_kind(by_id[case]) for case in cases.ids]
    own = scorer(cases, kinds)
    if not own.statistics:
        told = "; ".join(f"{name}: {why}" for name, why in own.left_out.items())
        raise InputError(f"there is no metric left to compute ({told}); give labels, a judge or text_metrics.")
    runs = [_run(MODEL, cases, own, scorer)]
    for name, entries in predictions.items():
        if name != MODEL:
            places, control = _of_control(name, cases, entries)
            scores = scorer(control, [kinds[place] for place in places])
            runs.append(_run(name, control, scores, scorer, compared_with=(own, places)))
    runs.append({"name": REFERENCES, "collapse": _collapse(cases.references, own, of_references=True)})
    metrics = {
        "settings": _settings(settings or {}, scorer),
        "cases": {
            "scored": len(cases.ids),
            "patients": len(set(cases.patients)),
            "empty_reports": cases.empty_reports,
            "missing_references": cases.missing_references,
            "other_scripts": cases.other_scripts,
            "other_languages": cases.other_languages,
            "failed_judgements": own.failed_judgements,
            "bertscore_truncated": own.bertscore_truncated,
            "unparsable_answers": own.unparsable_answers,
            "left_out_metrics": own.left_out,
        },
        "runs": runs,
        "findings": _findings(own, cases, scorer),
    }
    written = {
        name: [_prediction(entry, by_id[str(entry["id"])]) for entry in _in_order(entries, references)]
        for name, entries in predictions.items()
    }
    return Evaluation(metrics, _rows(cases, own), written)


def plain(value: float) -> float | None:
    """A number as JSON holds it, to 10 decimals; None for NaN."""
    return None if math.isnan(value) else round(float(value), _DECIMALS)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, indented by 4."""
    write_text_atomically(path, json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False) + "\n")


def format_number(value: float | None) -> str:
    """Three decimals; a dash for what isn't there."""
    return "–" if value is None else f"{value:.3f}"


def format_interval(interval: Mapping[str, float | None] | None) -> str:
    """A number with its interval; a dash for what isn't there."""
    if interval is None:
        return format_number(None)
    value, low, high = (format_number(interval[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def format_difference(row: Mapping[str, float | None] | None) -> str:
    """A difference with its interval; a dash for what isn't there."""
    return format_interval(row and {**row, "value": row["difference"]})


def library_versions(scorer: ReportScorer) -> dict[str, str]:
    """Versions of what the numbers come from."""
    names = [*_PACKAGES, *(_TEXT_PACKAGES if scorer.text_metrics else ())]
    names += ["bert-score"] if scorer.bertscore is not None else []
    versions = {"monai_u2": monai_u2.__version__}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def _run(
    name: str,
    cases: MatchedCases,
    scores: ReportScores,
    scorer: ReportScorer,
    compared_with: tuple[ReportScores, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Entry of a run: its metrics, its collapse, and the difference to it of another run, in which its cases stand at
    the given places."""
    intervals = bootstrap_intervals(scores.statistics, cases.patients, **scorer.sampling) if scores.statistics else {}
    difference = None
    if compared_with is not None:
        model, places = compared_with
        pair = paired_statistics(model, scores, places)
        compared = compare_runs(*pair, cases.patients, **scorer.sampling) if pair[0] else {}
        keys = ("difference", "low", "high", "p_value", "p_holm")
        difference = {metric: {key: plain(getattr(row, key)) for key in keys} for metric, row in compared.items()}
    return {
        "name": name,
        "metrics": {metric: _interval(interval) for metric, interval in intervals.items()},
        "collapse": _collapse(cases.reports, scores),
        "difference": difference,
        "failed_judgements": scores.failed_judgements,
    }


def _of_control(name: str, cases: MatchedCases, entries: Sequence[Mapping[str, Any]]) -> tuple[list[int], MatchedCases]:
    """Places of a control's cases among those that are scored, and these with its reports."""
    reports = {str(entry["id"]): entry["report"] for entry in entries}
    known = {*cases.ids, *cases.missing_references}
    if unknown := [case for case in reports if case not in known]:
        raise InputError(
            f"{name}: ids that the model's predictions haven't: {listed_ids(unknown)}. Give both the same."
        )
    places = [place for place, case in enumerate(cases.ids) if case in reports]
    if not places:
        raise InputError(f"{name}: none of its {len(reports)} cases has a reference; leave this control out.")
    ids = [cases.ids[place] for place in places]
    texts = [reports[case] for case in ids]
    return places, dataclasses.replace(
        cases,
        ids=ids,
        reports=texts,
        references=[cases.references[place] for place in places],
        patients=[cases.patients[place] for place in places],
        empty_reports=[case for case, text in zip(ids, texts) if not text.strip()],
    )


def _interval(interval: Any) -> dict[str, float | None]:
    return {key: plain(getattr(interval, key)) for key in ("value", "low", "high")}


def _collapse(texts: Sequence[str], scores: ReportScores, *, of_references: bool = False) -> dict[str, Any]:
    told = dataclasses.asdict(collapse_diagnostics(texts))
    told = {name: plain(value) if isinstance(value, float) else value for name, value in told.items()}
    told["words_quantiles"] = [plain(value) for value in told["words_quantiles"]]
    normal = None
    if scores.findings is not None:
        there = scores.findings.there[scores.is_report]
        named = there if of_references else scores.findings.named[scores.is_report]
        normal = plain(findings_per_normal_case(named, there))
    return told | {"findings_per_normal_case": normal}


def _settings(settings: Mapping[str, Any], scorer: ReportScorer) -> dict[str, Any]:
    judge = scorer.judge
    return {
        "model_sha256": settings.get("model_sha256"),
        "records_sha256": settings.get("records_sha256"),
        **scorer.sampling,
        "judge": None if judge is None else f"{judge.name} {judge.version}",
        "bertscore": scorer.bertscore_settings,
        "labels": None if scorer.labels is None else scorer.labels.source,
        "preprocessing": settings.get("preprocessing"),
        "generation": settings.get("generation"),
        "versions": library_versions(scorer),
    }


def _findings(scores: ReportScores, cases: MatchedCases, scorer: ReportScorer) -> dict[str, Any]:
    if scores.findings is None or not scores.label_statistics:
        return {}
    intervals = bootstrap_intervals(scores.label_statistics, cases.patients, **scorer.sampling)
    named, there = (part[scores.is_report] for part in (scores.findings.named, scores.findings.there))
    return {
        label: {
            "f1": _interval(intervals[label]),
            "positives": int(there[:, column].sum()),
            "named": int(named[:, column].sum()),
            "matched": int((named & there)[:, column].sum()),
        }
        for column, label in enumerate(scores.findings.names)
    }


def _in_order(entries: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    by_id = {str(entry["id"]): entry for entry in entries}
    return [by_id[case] for reference in references if (case := str(reference["id"])) in by_id]


def _prediction(entry: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    case = str(entry["id"])
    return {
        "id": case,
        "report": entry["report"],
        "reference": reference["report"],
        "patient": name_or_default(reference, "patient", case, f"references, case {case}"),
        "kind": case_kind(reference),
        "question": reference.get("question"),
        "image": reference.get("image"),
        **{key: reference[key] for key in HEADER_KEYS if key in reference},
        "new_tokens": entry.get("new_tokens"),
    }


def _rows(cases: MatchedCases, scores: ReportScores) -> list[dict[str, Any]]:
    rows = []
    for place, case in enumerate(cases.ids):
        row: dict[str, Any] = {"id": case, "patient": cases.patients[place]}
        row |= {name: plain(values[place]) for name, values in scores.case_scores.items()}
        if scores.findings is not None:
            names = np.array(scores.findings.names, dtype=object)
            for column, part in (("findings_named", scores.findings.named), ("findings_there", scores.findings.there)):
                row[column] = ";".join(names[part[place]]) if scores.is_report[place] else ""
        rows.append(row)
    return rows


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
