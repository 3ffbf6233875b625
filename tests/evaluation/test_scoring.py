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

from typing import Any

import numpy as np
import pytest

from monai_u2.data.phantom import FINDING_LABELS, parse_findings
from monai_u2.evaluation import ReportScorer, TextLabels, score_reports
from monai_u2.evaluation.scoring import paired_statistics
from monai_u2.judges import FindingErrors, FindingsJudge, Judge
from monai_u2.metrics import (
    corpus_bleu,
    crg_score,
    label_f1,
    label_reports,
    macro_f1,
    match_cases,
    micro_f1,
    text_scores,
)

Entries = list[dict[str, Any]]


class Moody(Judge):
    """Fails on empty reports."""

    name, version = "moody", "1"

    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        return [FindingErrors(matched=1, status="ok" if candidate else "failed") for _, candidate in pairs]


def test_numbers_are_those_of_the_metrics(predictions: Entries, references: Entries, scorer: ReportScorer) -> None:
    cases = match_cases(predictions, references)
    scores = scorer(cases, ["report"] * len(cases.ids))
    values = {name: statistic.value for name, statistic in scores.statistics.items()}
    for name, expected in text_scores(cases.reports, cases.references).items():
        np.testing.assert_array_equal(scores.case_scores[name], expected)
        assert values[name] == pytest.approx(expected.mean())
    for name, expected in corpus_bleu(cases.reports, cases.references).items():
        assert values[name] == pytest.approx(expected) and name not in scores.case_scores
    named, there = (label_reports(texts, parse_findings, FINDING_LABELS) for texts in (cases.reports, cases.references))
    assert values["micro_f1"] == pytest.approx(micro_f1(named, there))
    assert values["macro_f1"] == pytest.approx(macro_f1(named, there))
    assert values["crg"] == pytest.approx(crg_score(named, there))
    by_label = [scores.label_statistics[label].value for label in FINDING_LABELS]
    np.testing.assert_allclose(by_label, label_f1(named, there))
    assert values["green"] == pytest.approx(np.mean(scores.case_scores["green"]))
    assert set(scores.left_out) == {"bertscore"} | ({"meteor"} if "meteor_nosyn" in values else set())


def test_what_can_not_be_had_is_named(predictions: Entries, references: Entries) -> None:
    scores = score_reports(match_cases(predictions, references), text_metrics=False)
    assert scores.statistics == {} and scores.findings is None
    assert set(scores.left_out) == {"text_metrics", "bertscore", "green", "micro_f1", "macro_f1", "crg"}


def test_cases_without_a_judgement_are_kept_out(predictions: Entries, references: Entries) -> None:
    scores = score_reports(match_cases(predictions, references), judge=Moody(), text_metrics=False)
    assert scores.failed_judgements == ["c8"] and np.isnan(scores.case_scores["green"][8])
    assert scores.statistics["green"].value == 1.0


def test_answers_count_beside_reports(references: Entries) -> None:
    asked = [("Yes.", "yes"), ("No.", "Yes."), ("(B) right", "B"), ("Left.", "C"), ("B", "Both")]
    answers = [{"id": f"q{n}", "report": given} for n, (given, _) in enumerate(asked)]
    right = [{"id": f"q{n}", "report": text} for n, (_, text) in enumerate(asked)]
    kinds = ["report"] * len(references) + ["side", "side", "multiple_choice", "multiple_choice", "multiple_choice"]
    labels, judge = TextLabels(parse_findings, FINDING_LABELS), FindingsJudge(parse_findings)
    cases = match_cases(references + answers, references + right)
    scores = score_reports(cases, kinds=kinds, labels=labels, judge=judge, text_metrics=False)
    values = {name: statistic.value for name, statistic in scores.statistics.items()}
    # the last reference is no letter, so that it is compared as a text
    assert values["exact_answer"] == pytest.approx(1 / 3) and values["choice_accuracy"] == 0.5
    assert scores.unparsable_answers == ["q3"]
    alone = score_reports(match_cases(references, references), labels=labels, judge=judge, text_metrics=False)
    for name in ("micro_f1", "macro_f1", "crg", "green"):
        assert values[name] == alone.statistics[name].value == 1.0
    only = score_reports(match_cases(answers, right), kinds=kinds[-5:], labels=labels, judge=judge, text_metrics=False)
    assert list(only.statistics) == ["choice_accuracy", "exact_answer"]
    assert only.left_out["green"] == only.left_out["crg"] == "none of the cases asks for a report"


def test_a_case_without_a_score_in_one_run_is_kept_out_of_both(references: Entries) -> None:
    runs = []
    for empty in ("c1", "c4"):
        texts = [reference | {"report": "" if reference["id"] == empty else "A cyst."} for reference in references]
        runs.append(score_reports(match_cases(texts, references), judge=Moody(), text_metrics=False))
    for statistics in paired_statistics(*runs):
        np.testing.assert_array_equal(np.flatnonzero(statistics["green"].counts[:, 1] == 0), [1, 4])


@pytest.mark.parametrize(
    "reference", ["左肺上叶结节，直径 20 mm。", "The lungs are clear. The heart is normal in size."]
)
def test_findings_that_no_reference_has_are_not_measured(references: Entries, reference: str) -> None:
    """Texts that the labeller can't read, and normal ones: whatever names nothing would be right."""
    labels, judge = TextLabels(parse_findings, FINDING_LABELS), FindingsJudge(parse_findings)
    cases = match_cases(
        [entry | {"report": "?"} for entry in references], [r | {"report": reference} for r in references]
    )
    scores = score_reports(cases, labels=labels, judge=judge, text_metrics=False)
    assert not scores.statistics and scores.findings is None and not scores.label_statistics
    assert scores.left_out["green"].startswith("the judge reads no finding in any of 12 references")
    assert {scores.left_out[name][:34] for name in ("micro_f1", "macro_f1", "crg")} == {
        "no finding is labelled in any refe"
    }
    one = match_cases(references, [*references[:1], *({**r, "report": reference} for r in references[1:])])
    assert {"green", "micro_f1", "macro_f1", "crg"} <= score_reports(one, labels=labels, judge=judge).statistics.keys()


def test_a_judge_that_reads_any_text_judges_normal_references(references: Entries) -> None:
    normal = [reference | {"report": "Normal."} for reference in references]
    scores = score_reports(match_cases(references, normal), judge=Moody(), text_metrics=False)
    assert scores.statistics["green"].value == 1.0
