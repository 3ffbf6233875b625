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

import sys
from collections.abc import Callable
from typing import Any

import nltk
import numpy as np
import pytest
import sacrebleu
from nltk.translate import bleu_score
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer

from monai_u2.exceptions import InputError
from monai_u2.metrics import (
    CorpusBleu,
    MeanReportScore,
    bleu_scores,
    bootstrap_intervals,
    corpus_bleu,
    corpus_bleu_statistics,
    meteor_scores,
    paper_bleu1,
    rouge_scores,
    text,
    text_scores,
)
from monai_u2.metrics.report_metric import Scorer

Pairs = tuple[list[str], list[str]]


class Synset:
    """Stands for a WordNet entry of one word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def lemmas(self) -> list[Synset]:
        return [self]

    def name(self) -> str:
        return self.word


class Synonyms:
    def __init__(self, words: dict[str, list[str]]) -> None:
        self.words = words

    def synsets(self, word: str) -> list[Synset]:
        return [Synset(other) for other in self.words.get(word, [])]


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(nltk, "download", refuse)


def test_rouge_is_the_librarys(pairs: Pairs) -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    expected = [scorer.score(reference, report) for report, reference in zip(*pairs)]
    scores = rouge_scores(*pairs)
    for name in ("rouge1", "rouge2", "rougeL"):
        assert scores[name].tolist() == [score[name].fmeasure for score in expected]
    assert scores["rougeL"][7] == 1 and scores["rougeL"][9] == 0
    assert 0.2 < scores["rougeL"].mean() < 0.95


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_is_the_librarys(pairs: Pairs, order: int) -> None:
    single = sacrebleu.BLEU(max_ngram_order=order, effective_order=True)
    expected = [single.sentence_score(report, [reference]).score / 100 for report, reference in zip(*pairs)]
    scores = bleu_scores(*pairs)[f"bleu{order}"]
    assert scores.tolist() == expected
    assert scores[7] == pytest.approx(1) and scores[9] == 0 and len(set(expected)) > 20
    together = sacrebleu.BLEU(max_ngram_order=order).corpus_score(pairs[0], [pairs[1]]).score / 100
    assert corpus_bleu(*pairs)[f"corpus_bleu{order}"] == together


def test_paper_bleu1_is_that_of_the_published_scripts(pairs: Pairs) -> None:
    expected = [
        bleu_score.corpus_bleu(
            [[reference.lower().split()]],
            [report.lower().split()],
            weights=(1, 0, 0, 0),
            smoothing_function=bleu_score.SmoothingFunction().method3,
        )
        for report, reference in zip(*pairs)
        if report
    ]
    scores = paper_bleu1(*pairs)["bleu1_paper"]
    assert scores[9] == 0
    assert np.delete(scores, 9).tolist() == expected
    assert 0.2 < scores.mean() < 0.95


def test_meteor_without_synonyms_is_the_librarys_and_named_so(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk.corpus, "wordnet", _without_data())
    expected = [
        meteor_score([reference.lower().split()], report.lower().split(), wordnet=Synonyms({}))
        for report, reference in zip(*pairs)
    ]
    scores = meteor_scores(*pairs)
    assert list(scores) == ["meteor_nosyn"]
    assert scores["meteor_nosyn"].tolist() == expected
    assert scores["meteor_nosyn"][9] == 0 and scores["meteor_nosyn"][7] > 0.99


def test_meteor_with_synonyms_is_the_librarys(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    synonyms = Synonyms({"cyst": ["lump", "heart"], "lung": ["cyst"]})
    monkeypatch.setattr(text, "_wordnet", lambda: synonyms)
    expected = [
        meteor_score([reference.lower().split()], report.lower().split(), wordnet=synonyms)
        for report, reference in zip(*pairs)
    ]
    assert meteor_scores(*pairs)["meteor"].tolist() == expected
    assert meteor_scores(["cyst here"], ["lump here"])["meteor"] > 0.9
    assert meteor_scores(["cyst here"], ["spot here"])["meteor"] < 0.6


def test_scores_of_all_names(pairs: Pairs) -> None:
    names = list(text_scores(*pairs))
    assert [name.removesuffix("_nosyn") for name in names] == [
        *("rouge1", "rouge2", "rougeL"),
        *("bleu1", "bleu2", "bleu3", "bleu4"),
        *("bleu1_paper", "meteor"),
    ]


@pytest.mark.parametrize("scorer", [rouge_scores, bleu_scores, paper_bleu1, meteor_scores])
def test_metrics_are_equal_in_one_and_two_processes(
    pairs: Pairs, in_one_and_two: Callable[..., Any], scorer: Scorer
) -> None:
    means = in_one_and_two(MeanReportScore(scorer), pairs)
    assert means == pytest.approx({name: scores.mean() for name, scores in scorer(*pairs).items()})


def test_corpus_bleu_is_equal_in_one_and_two_processes(pairs: Pairs, in_one_and_two: Callable[..., Any]) -> None:
    assert in_one_and_two(CorpusBleu(2), pairs) == corpus_bleu(*pairs)["corpus_bleu2"]
    with pytest.raises(InputError, match="order is 5"):
        CorpusBleu(5)


def test_interval_of_corpus_bleu(pairs: Pairs) -> None:
    intervals = bootstrap_intervals(corpus_bleu_statistics(*pairs), num_samples=50)
    assert {name: interval.value for name, interval in intervals.items()} == corpus_bleu(*pairs)
    assert all(interval.low < interval.value < interval.high for interval in intervals.values())
    # a resample is BLEU over the cases drawn
    drawn = np.random.default_rng(0).integers(60, size=60)
    statistic = corpus_bleu_statistics(*pairs)["corpus_bleu4"]
    again = corpus_bleu([pairs[0][place] for place in drawn], [pairs[1][place] for place in drawn])
    assert float(statistic.function(statistic.counts[drawn].sum(axis=0))) == again["corpus_bleu4"]


@pytest.mark.parametrize("library", ["rouge_score", "sacrebleu", "nltk"])
def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    scorer = {"rouge_score": rouge_scores, "sacrebleu": bleu_scores, "nltk": paper_bleu1}[library]
    with pytest.raises(InputError, match=rf"{library} is not installed.*monai-u2\[metrics\]"):
        scorer(["a"], ["a"])


@pytest.mark.parametrize("scorer", [rouge_scores, bleu_scores, paper_bleu1, meteor_scores])
def test_numbers_of_texts_must_fit(scorer: Scorer) -> None:
    with pytest.raises(InputError, match="2 reports and 1 references"):
        scorer(["a", "b"], ["a"])
    with pytest.raises(InputError, match="0 reports"):
        scorer([], [])


def _without_data() -> Any:
    class Absent:
        def ensure_loaded(self) -> None:
            raise LookupError

    return Absent()
