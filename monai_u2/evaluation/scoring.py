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

"""All metrics of one run over matched cases."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monai_u2.evaluation.labels import FindingLabels, TableLabels, TextLabels
from monai_u2.judges.base import Judge
from monai_u2.metrics.bertscore import BertScore
from monai_u2.metrics.cases import MatchedCases, listed_ids
from monai_u2.metrics.crg import crg_statistic
from monai_u2.metrics.findings import f1_statistic, label_f1_statistics
from monai_u2.metrics.green import green_scores
from monai_u2.metrics.labels import Labeller
from monai_u2.metrics.significance import CaseStatistic, mean_statistic
from monai_u2.metrics.text import corpus_bleu_statistics, text_scores
from monai_u2.metrics.vqa import choice_scores, parse_choice

logger = logging.getLogger(__name__)

_FINDING_METRICS = ("micro_f1", "macro_f1", "crg")
_LETTERS = "ABCDEFGH"
_NO_REPORT = "none of the cases asks for a report"
_NO_FINDING = (
    "no finding is labelled in any reference, so that a text without one would be right: they are all normal, or in "
    "words that the labeller doesn't know; give a labeller or a table of labels that fits them, or cases with findings"
)


@dataclass(frozen=True)
class ReportScores:
    """What the metrics say of a run.

    Args:
        case_scores: name -> scores `(cases,)`, NaN where a case has none.
        statistics: name -> number over all cases, those of `case_scores` first.
        label_statistics: label -> its F1.
        findings: labels of all cases; None without a labeller, or where it finds nothing in any reference.
        is_report: which cases ask for a report, boolean `(cases,)`; findings and judgements are of these alone.
        failed_judgements: ids of cases without a judgement.
        bertscore_truncated: ids of cases of which BERTScore saw the beginning only.
        unparsable_answers: ids of multiple-choice answers without exactly one letter; they count as wrong.
        left_out: metric -> why it isn't there.
    """

    case_scores: dict[str, np.ndarray]
    statistics: dict[str, CaseStatistic]
    label_statistics: dict[str, CaseStatistic]
    findings: FindingLabels | None
    is_report: np.ndarray
    failed_judgements: list[str]
    bertscore_truncated: list[str]
    unparsable_answers: list[str]
    left_out: dict[str, str]


def score_reports(
    cases: MatchedCases,
    *,
    kinds: Sequence[str] | None = None,
    labels: Callable[[MatchedCases], FindingLabels] | None = None,
    judge: Judge | None = None,
    text_metrics: bool = True,
    bertscore: BertScore | None = None,
) -> ReportScores:
    """Score reports against their references.

    Text metrics are of all cases; findings and judgements of the cases that ask for a report, as long as any of their
    references has a finding that is read: else silence would be right; `exact_answer` (letter
    for letter but for case, white space and a full stop) and `choice_accuracy` of the other questions.

    Args:
        cases: see :func:`monai_u2.metrics.match_cases`.
        kinds: kind of question of each case; all "report" without.
        labels: gives the finding labels; without, what rests on them is left out.
        judge: any of :mod:`monai_u2.judges`; likewise.
        text_metrics: whether ROUGE, BLEU and METEOR are computed.
        bertscore: a :class:`monai_u2.metrics.BertScore`.

    Raises:
        InputError: when a library, a label or a judge that is asked for can't be had.
    """
    kinds = ["report"] * len(cases.ids) if kinds is None else list(kinds)
    is_report = np.array([kind == "report" for kind in kinds])
    scores: dict[str, np.ndarray] = {}
    corpus: dict[str, CaseStatistic] = {}
    left_out: dict[str, str] = {}
    if text_metrics:
        scores |= text_scores(cases.reports, cases.references)
        corpus = corpus_bleu_statistics(cases.reports, cases.references)
        if "meteor_nosyn" in scores:
            left_out["meteor"] = "nltk finds no WordNet data on this machine; meteor_nosyn is without synonyms"
    else:
        left_out["text_metrics"] = "switched off"
    truncated: list[str] = []
    if bertscore is None:
        left_out["bertscore"] = "no model was given"
    else:
        scores |= bertscore(cases.reports, cases.references)
        truncated = [case for case, is_cut in zip(cases.ids, bertscore.truncated) if is_cut]
    failed: list[str] = []
    if why := _reason_not_judged(cases, is_report, judge):
        left_out["green"] = why
    else:
        scores["green"], failed = _judged(cases, is_report, judge)
    answer_scores, unparsable = _answer_scores(cases, kinds)
    scores |= answer_scores
    statistics = {name: mean_statistic(values) for name, values in scores.items()} | corpus
    label_statistics: dict[str, CaseStatistic] = {}
    findings = labels(cases) if labels is not None and is_report.any() else None
    if findings is None:
        left_out |= dict.fromkeys(_FINDING_METRICS, "no labels were given" if labels is None else _NO_REPORT)
    elif not findings.there[is_report].any():
        left_out |= dict.fromkeys(_FINDING_METRICS, _NO_FINDING)
        findings = None
    else:
        pair = findings.named, findings.there
        found = {"micro_f1": f1_statistic(*pair), "macro_f1": f1_statistic(*pair, "macro"), "crg": crg_statistic(*pair)}
        statistics |= {name: _of(is_report, statistic) for name, statistic in found.items()}
        by_label = label_f1_statistics(*pair, findings.names)
        label_statistics = {name: _of(is_report, statistic) for name, statistic in by_label.items()}
    return ReportScores(
        scores, statistics, label_statistics, findings, is_report, failed, truncated, unparsable, left_out
    )


def paired_statistics(
    first: ReportScores, second: ReportScores, places: Sequence[int] | None = None
) -> tuple[dict[str, CaseStatistic], dict[str, CaseStatistic]]:
    """The numbers that two runs have, over the cases of the second, for :func:`monai_u2.metrics.compare_runs`.

    Args:
        first: a run.
        second: one over the same cases or some of them. A case that lacks a score in one run is kept out of that number
            of both.
        places: where the second run's cases stand in the first; both are of the same cases without.
    """
    chosen = slice(None) if places is None else np.asarray(places)
    names = [name for name in first.statistics if name in second.statistics]
    own = {
        name: CaseStatistic(first.statistics[name].counts[chosen], first.statistics[name].function) for name in names
    }
    other = {name: second.statistics[name] for name in names}
    for name in names:
        if name in second.case_scores:
            there = ~np.isnan(first.case_scores[name][chosen]) & ~np.isnan(second.case_scores[name])
            own[name], other[name] = _of(there, own[name]), _of(there, other[name])
    return own, other


@dataclass(frozen=True)
class ReportScorer:
    """How runs are scored, and how sure the numbers are.

    Args:
        labels: see :func:`score_reports`.
        judge: see :func:`score_reports`.
        text_metrics: see :func:`score_reports`.
        bertscore: folder of the model for BERTScore; None for no BERTScore.
        bertscore_layers: its layer; None for the one that `bert-score` knows for a model of this folder's name.
        num_samples: resamples of the intervals, and permutations.
        confidence: coverage of the intervals.
        seed: seed of both.
    """

    labels: TextLabels | TableLabels | None = None
    judge: Judge | None = None
    text_metrics: bool = True
    bertscore: str | None = None
    bertscore_layers: int | None = None
    num_samples: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    @property
    def sampling(self) -> dict[str, int | float]:
        """Arguments of the functions of :mod:`monai_u2.metrics.significance`."""
        return {"num_samples": self.num_samples, "confidence": self.confidence, "seed": self.seed}

    @property
    def parser(self) -> Labeller | None:
        """Reads the findings of a text; None where labels come from tables, or from nowhere."""
        return self.labels.parser if isinstance(self.labels, TextLabels) else None

    @property
    def bertscore_settings(self) -> dict[str, str | int] | None:
        """The model and the layer of BERTScore."""
        model = self._bertscore
        return None if model is None else {"model": model.name, "layer": model.num_layers}

    @functools.cached_property
    def _bertscore(self) -> BertScore | None:
        return None if self.bertscore is None else BertScore(self.bertscore, self.bertscore_layers)

    def __call__(self, cases: MatchedCases, kinds: Sequence[str]) -> ReportScores:
        """Score a run, see :func:`score_reports`."""
        return score_reports(
            cases,
            kinds=kinds,
            labels=self.labels,
            judge=self.judge,
            text_metrics=self.text_metrics,
            bertscore=self._bertscore,
        )


def _reason_not_judged(cases: MatchedCases, is_report: np.ndarray, judge: Judge | None) -> str | None:
    if judge is None:
        return "no judge was given"
    if not is_report.any():
        return _NO_REPORT
    return judge.reason_not_to_judge([cases.references[place] for place in np.flatnonzero(is_report)])


def _judged(cases: MatchedCases, is_report: np.ndarray, judge: Judge) -> tuple[np.ndarray, list[str]]:
    """Scores `(cases,)`, NaN where there is none, and the ids of cases without a judgement."""
    places = np.flatnonzero(is_report)
    chosen = ([texts[place] for place in places] for texts in (cases.ids, cases.reports, cases.references))
    judged = green_scores(*chosen, judge)
    scores = np.full(len(is_report), np.nan)
    scores[places] = judged.scores
    return scores, list(judged.failed)


def _answer_scores(cases: MatchedCases, kinds: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Scores of answers to other questions than for a report, and the ids of those without exactly one letter."""
    scores: dict[str, np.ndarray] = {}
    unparsable: list[str] = []
    chosen = [place for place, kind in enumerate(kinds) if kind == "multiple_choice"]
    letters = {place: parse_choice(cases.references[place], _LETTERS) for place in chosen}
    chosen = [place for place in chosen if letters[place] is not None]
    if chosen:
        told = choice_scores(
            [cases.ids[place] for place in chosen],
            [cases.reports[place] for place in chosen],
            [letters[place] for place in chosen],
            choices=_LETTERS,
        )
        unparsable = told.unparsable
        if unparsable:
            logger.warning("answers without one letter, counted as wrong: %s", listed_ids(unparsable))
        scores["choice_accuracy"] = np.full(len(kinds), np.nan)
        scores["choice_accuracy"][chosen] = told.scores
    others = [place for place, kind in enumerate(kinds) if kind != "report" and place not in set(chosen)]
    if others:
        scores["exact_answer"] = np.full(len(kinds), np.nan)
        scores["exact_answer"][others] = [
            _normalized(cases.reports[place]) == _normalized(cases.references[place]) for place in others
        ]
    return scores, unparsable


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _of(chosen: np.ndarray, statistic: CaseStatistic) -> CaseStatistic:
    """The number over some of the cases."""
    return CaseStatistic(statistic.counts * chosen[:, None], statistic.function)
