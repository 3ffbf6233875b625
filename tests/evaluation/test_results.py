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

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from monai_u2.data.phantom import FINDING_LABELS
from monai_u2.evaluation import ReportScorer, compare_reports, evaluate_reports
from monai_u2.evaluation.results import plain
from monai_u2.exceptions import InputError
from monai_u2.judges import FindingErrors, Judge
from monai_u2.metrics import bootstrap_intervals, compare_runs, match_cases

Entries = list[dict[str, Any]]


class Exact(Judge):
    """Right where the texts are equal; fails on empty ones."""

    name, version = "exact", "1"

    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        return [FindingErrors(matched=int(a == b), status="ok" if b else "failed") for a, b in pairs]


def constant(references: Entries) -> Entries:
    return [{"id": reference["id"], "report": references[3]["report"]} for reference in references]


def test_content_of_the_files(predictions: Entries, references: Entries, scorer: ReportScorer, tmp_path: Path) -> None:
    runs = {"model": predictions, "most_frequent_report": constant(references)}
    evaluation = evaluate_reports(runs, references, scorer, {"model_sha256": "abc"})
    evaluation.write(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["settings"]["model_sha256"] == "abc" and metrics["settings"]["records_sha256"] is None
    assert metrics["settings"]["judge"].startswith("findings 1+") and metrics["settings"]["num_samples"] == 200
    assert {"monai_u2", "monai", "torch", "rouge-score", "sacrebleu", "nltk"} <= metrics["settings"]["versions"].keys()
    assert metrics["cases"]["scored"] == 12 and metrics["cases"]["patients"] == 6
    assert metrics["cases"]["other_languages"] == []
    assert metrics["cases"]["empty_reports"] == ["c8"] and metrics["cases"]["failed_judgements"] == []
    model, control, told = metrics["runs"]
    assert (model["name"], control["name"], told["name"]) == ("model", "most_frequent_report", "references")
    assert model["difference"] is None and set(told) == {"name", "collapse"}
    assert control["collapse"]["most_frequent"] == 1.0 and told["collapse"]["findings_per_normal_case"] in (0.0, None)
    assert model["collapse"]["empty"] == 1 and len(model["collapse"]["words_quantiles"]) == 7

    cases = match_cases(predictions, references)
    scores = [scorer(match_cases(run, references), ["report"] * 12) for run in runs.values()]
    expected = bootstrap_intervals(scores[0].statistics, cases.patients, **scorer.sampling)
    assert list(model["metrics"]) == list(expected) == list(control["metrics"])
    for name, interval in expected.items():
        assert model["metrics"][name] == {key: plain(getattr(interval, key)) for key in ("value", "low", "high")}
    compared = compare_runs(scores[0].statistics, scores[1].statistics, cases.patients, **scorer.sampling)
    assert control["difference"]["micro_f1"]["difference"] == plain(compared["micro_f1"].difference)
    assert control["difference"]["micro_f1"]["p_holm"] == plain(compared["micro_f1"].p_holm)

    assert list(metrics["findings"]) == list(FINDING_LABELS)
    for column, row in enumerate(metrics["findings"].values()):
        assert row["positives"] == int(scores[0].findings.there[:, column].sum())
        assert row["matched"] <= min(row["positives"], row["named"])
        assert (row["f1"]["value"] is None) == (row["positives"] + row["named"] == 0)

    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["id"] for row in rows] == cases.ids and [row["patient"] for row in rows] == cases.patients
    assert list(rows[0]) == ["id", "patient", *scores[0].case_scores, "findings_named", "findings_there"]
    assert rows[0]["findings_named"] == rows[0]["findings_there"] and rows[8]["findings_named"] == ""
    assert float(rows[8]["rougeL"]) == 0.0

    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    keys = ["id", "report", "reference", "patient", "kind", "question", "image", "new_tokens"]
    assert [list(line) for line in lines] == [keys] * 12
    assert [line["report"] for line in lines] == [entry["report"] for entry in predictions]
    assert (tmp_path / "predictions_most_frequent_report.jsonl").is_file()
    row = control["difference"]["micro_f1"]
    told = f"| model minus control, micro_f1 | – | {row['difference']:.3f} ({row['low']:.3f} to {row['high']:.3f}) |"
    assert "| model | most frequent report |" in evaluation.table() and told in evaluation.table()


def test_order_of_the_predictions_does_not_matter(
    predictions: Entries, references: Entries, scorer: ReportScorer
) -> None:
    runs = [{"model": entries, "control": constant(references)} for entries in (predictions, predictions[::-1])]
    first, second = (evaluate_reports(run, references, scorer) for run in runs)
    assert first == second


def test_cases_without_a_reference_are_listed(
    predictions: Entries, references: Entries, scorer: ReportScorer, tmp_path: Path
) -> None:
    references[2]["report"] = "Not given."
    evaluation = evaluate_reports({"model": predictions}, references, scorer)
    assert evaluation.metrics["cases"]["missing_references"] == ["c2"] and evaluation.metrics["cases"]["scored"] == 11
    assert len(evaluation.rows) == 11 and len(evaluation.predictions["model"]) == 12


def test_answers_without_one_letter_are_listed() -> None:
    references = [{"id": f"q{n}", "report": "B", "kind": "multiple_choice"} for n in range(3)]
    told = [{"id": f"q{n}", "report": text} for n, text in enumerate(("B. Left", "A. or B.", "Left"))]
    scorer = ReportScorer(text_metrics=False, num_samples=50)
    assert evaluate_reports({"model": told}, references, scorer).metrics["cases"]["unparsable_answers"] == ["q1", "q2"]
    both = compare_reports(told, references, references, (scorer, scorer))
    assert both["cases"]["unparsable_answers"] == [["q1", "q2"], []]


def test_no_metric_is_left(predictions: Entries, references: Entries) -> None:
    with pytest.raises(InputError, match="no metric left to compute .text_metrics: switched off"):
        evaluate_reports({"model": predictions}, references, ReportScorer(text_metrics=False))


def test_other_cases_are_refused(predictions: Entries, references: Entries, scorer: ReportScorer) -> None:
    with pytest.raises(InputError, match=r"Predictions only: none. References only: 1 \(c11\)"):
        evaluate_reports({"model": predictions[:-1]}, references, scorer)
    with pytest.raises(InputError, match=r"more than once: 1 \(c0\)"):
        evaluate_reports({"model": [*predictions, predictions[0]]}, references, scorer)


def test_null_is_no_patient_and_no_kind(predictions: Entries, references: Entries, scorer: ReportScorer) -> None:
    without = [{"id": reference["id"], "report": reference["report"]} for reference in references]
    null = [reference | {"patient": None, "kind": None} for reference in without]
    first, second = (evaluate_reports({"model": predictions}, entries, scorer) for entries in (without, null))
    assert first == second and first.metrics["cases"]["patients"] == 12


def test_failed_judgements_of_a_control(predictions: Entries, references: Entries) -> None:
    """The model is right in 8 of the 11 cases that are judged, 7 of 10 without the control's failure."""
    control = [{"id": entry["id"], "report": "" if entry["id"] == "c0" else "?"} for entry in predictions]
    scorer = ReportScorer(judge=Exact(), text_metrics=False, num_samples=50)
    evaluation = evaluate_reports({"model": predictions, "control": control}, references, scorer)
    model, control, _ = evaluation.metrics["runs"]
    assert (model["failed_judgements"], control["failed_judgements"]) == (["c8"], ["c0"])
    assert model["metrics"]["green"]["value"] == pytest.approx(8 / 11, abs=1e-9)
    assert control["difference"]["green"]["difference"] == pytest.approx(0.7)


def test_a_control_of_some_cases(predictions: Entries, references: Entries, scorer: ReportScorer) -> None:
    """It is compared with the model over these; the model alone stays as it is."""
    control = constant(references)[6:]
    alone = [entries[6:] for entries in (predictions, references)]
    told = evaluate_reports({"model": predictions, "control": control}, references, scorer).metrics["runs"]
    expected = evaluate_reports({"model": alone[0], "control": control}, alone[1], scorer).metrics["runs"]
    assert told[1] == expected[1] and told[0] != expected[0]
    with pytest.raises(InputError, match=r"control: ids that the model's predictions haven't: 1 \(c99\)"):
        evaluate_reports({"model": predictions, "control": [{"id": "c99", "report": "A"}]}, references, scorer)
