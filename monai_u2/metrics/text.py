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

"""Text overlap of reports and references, case by case, by the public libraries.

Each function takes reports and references in one order and gives `name -> scores (cases,)`, 0 to 1. An empty report
scores 0.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from monai_u2.exceptions import InputError
from monai_u2.metrics.report_metric import ReportMetric
from monai_u2.metrics.significance import CaseStatistic

BLEU_ORDERS: tuple[int, ...] = (1, 2, 3, 4)


def text_scores(reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """ROUGE, BLEU, the paper's BLEU-1 and METEOR of each case; BERTScore takes a model, see :class:`BertScore`.

    Raises:
        InputError: when a library is missing, there is no case, or the numbers of texts differ.
    """
    return {
        **rouge_scores(reports, references),
        **bleu_scores(reports, references),
        **paper_bleu1(reports, references),
        **meteor_scores(reports, references),
    }


def rouge_scores(reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """F-measures `rouge1`, `rouge2` and `rougeL` of `rouge-score`, words stemmed, as the paper has them.

    Raises:
        InputError: as :func:`text_scores`.
    """
    _check_numbers(reports, references)
    scorer_class = _library("rouge_score.rouge_scorer").RougeScorer
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = scorer_class(names, tokenizer=_StemmedWords())
    scores = [scorer.score(reference, report) for report, reference in zip(reports, references)]
    return {name: np.array([score[name].fmeasure for score in scores], dtype=float) for name in names}


def bleu_scores(reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """Sentence BLEU `bleu1` … `bleu4` of each case by `sacrebleu` (tokens of 13a, exponential smoothing, effective
    order).

    A mean of these isn't the BLEU of all cases together, which :func:`corpus_bleu` gives.

    Raises:
        InputError: as :func:`text_scores`.
    """
    counts = _bleu_counts(reports, references)
    return {f"bleu{order}": np.array([_bleu(row, order, effective=True) for row in counts]) for order in BLEU_ORDERS}


def corpus_bleu(reports: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`corpus_bleu1` … `corpus_bleu4`: BLEU of all cases together by `sacrebleu`, as it is mostly published.

    Raises:
        InputError: as :func:`text_scores`.
    """
    counts = _bleu_counts(reports, references).sum(axis=0)
    return {f"corpus_bleu{order}": _bleu(counts, order, effective=False) for order in BLEU_ORDERS}


def corpus_bleu_statistics(reports: Sequence[str], references: Sequence[str]) -> dict[str, CaseStatistic]:
    """:func:`corpus_bleu` for :mod:`monai_u2.metrics.significance`.

    Raises:
        InputError: as :func:`text_scores`.
    """
    counts = _bleu_counts(reports, references).astype(float)
    return {
        f"corpus_bleu{order}": CaseStatistic(counts, functools.partial(_corpus_bleu, order=order))
        for order in BLEU_ORDERS
    }


def paper_bleu1(reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """`bleu1_paper`: the BLEU-1 that the paper's scripts compute, for comparison with its tables.

    Lower-cased words between white space, `nltk`'s BLEU of the case alone with smoothing method 3.

    Raises:
        InputError: as :func:`text_scores`.
    """
    _check_numbers(reports, references)
    bleu = _library("nltk.translate.bleu_score")
    smoothing = bleu.SmoothingFunction().method3
    scores = []
    for report, reference in zip(reports, references):
        words = report.lower().split()
        score = bleu.sentence_bleu([reference.lower().split()], words, (1, 0, 0, 0), smoothing) if words else 0.0
        scores.append(float(score))
    return {"bleu1_paper": np.array(scores, dtype=float)}


def meteor_scores(reports: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """`meteor` of `nltk`, on lower-cased words between white space as the paper has it.

    Its synonyms are read from the WordNet data, which `nltk` must find on this machine; nothing is downloaded. Without
    them it counts equal words and stems only and is named `meteor_nosyn`: the two aren't comparable.

    Raises:
        InputError: as :func:`text_scores`.
    """
    _check_numbers(reports, references)
    meteor = _library("nltk.translate.meteor_score").single_meteor_score
    wordnet = _wordnet()
    name = "meteor_nosyn" if wordnet is None else "meteor"
    options = {"stemmer": _CachedStemmer(), "wordnet": wordnet or _NoSynonyms()}
    scores = [
        meteor(reference.lower().split(), report.lower().split(), **options)
        for report, reference in zip(reports, references)
    ]
    return {name: np.array(scores, dtype=float)}


class CorpusBleu(ReportMetric):
    """:func:`corpus_bleu` as a MONAI metric, of `order` n-grams; n-gram counts are gathered over processes.

    Args:
        order: 1 to 4.

    Raises:
        InputError: for another order.
    """

    def __init__(self, order: int = 4) -> None:
        super().__init__()
        if order not in BLEU_ORDERS:
            raise InputError(f"order is {order!r}; expected one of {BLEU_ORDERS}.")
        self.order = order

    def _rows(self, reports: list[str], references: list[str] | None) -> np.ndarray:
        return _bleu_counts(reports, references or [])

    def aggregate(self) -> float:
        """BLEU of the cases since the last reset."""
        return _bleu(self.gathered().sum(axis=0), self.order, effective=False)


def _bleu_counts(reports: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Length of report and reference, matching n-grams and n-grams of 1 to 4 words, integers `(cases, 10)`."""
    _check_numbers(reports, references)
    bleu = _library("sacrebleu.metrics").BLEU(effective_order=True)
    scores = [bleu.sentence_score(report, [reference]) for report, reference in zip(reports, references)]
    return np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores])


def _bleu(counts: np.ndarray, order: int, *, effective: bool) -> float:
    length, reference_length, *grams = (int(count) for count in counts)
    largest = len(BLEU_ORDERS)
    score = _library("sacrebleu.metrics").BLEU.compute_bleu(
        correct=grams[:order],
        total=grams[largest : largest + order],
        sys_len=length,
        ref_len=reference_length,
        smooth_method="exp",
        effective_order=effective,
        max_ngram_order=order,
    )
    return score.score / 100


def _corpus_bleu(sums: np.ndarray, order: int) -> np.ndarray:
    """BLEU of sums `(..., 10)` of :func:`_bleu_counts`."""
    return np.apply_along_axis(_bleu, -1, sums, order, effective=False)


class _CachedStemmer:
    """Porter's stems, each word stemmed once: reports repeat their words."""

    def __init__(self) -> None:
        self.stem = functools.lru_cache(maxsize=2**16)(_library("nltk.stem.porter").PorterStemmer().stem)


class _StemmedWords:
    """The default tokens of `rouge-score`, with the cache."""

    def __init__(self) -> None:
        stemmer, tokenize = _CachedStemmer(), _library("rouge_score.tokenize").tokenize
        self.tokenize = functools.lru_cache(maxsize=2)(lambda text: tokenize(text, stemmer))


class _SynonymReader(Protocol):
    def synsets(self, word: str) -> list[Any]: ...


class _NoSynonyms:
    """In place of WordNet: no word has a synonym."""

    def synsets(self, word: str) -> list[Any]:
        return []


def _wordnet() -> _SynonymReader | None:
    """`nltk`'s WordNet reader where its data lie on this machine."""
    wordnet = _library("nltk.corpus").wordnet
    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return wordnet


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name.split('.')[0]} is not installed (no module {error.name}); text metrics need it. Install it with "
            "pip install 'monai-u2[metrics]'."
        ) from error


def _check_numbers(reports: Sequence[str], references: Sequence[str]) -> None:
    if len(reports) != len(references) or not reports:
        raise InputError(f"{len(reports)} reports and {len(references)} references; expected as many, 1 or more.")
