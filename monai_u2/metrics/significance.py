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

"""How sure a number is, and whether two runs differ: resampled patients, permuted pairs, Holm's correction.

Every number here is a function of sums over cases (a mean, an F1 from counts), so that resampling is a product of
weights with counts, in chunks of bounded memory, and many numbers share the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monai_u2.exceptions import InputError

_CHUNK_ENTRIES = 2_000_000  # of a chunk of weights: 16 MB


@dataclass(frozen=True)
class CaseStatistic:
    """A number over cases, as a function of sums over them.

    Args:
        counts: what is summed, float `(cases, K)`.
        function: from sums `(..., K)` to the number `(...)`; NaN where these cases don't give one.
    """

    counts: np.ndarray
    function: Callable[[np.ndarray], np.ndarray]

    @property
    def value(self) -> float:
        """The number over all cases."""
        return float(self.function(self.counts.sum(axis=0)))


@dataclass(frozen=True)
class Interval:
    """A number with its interval, and what it rests on."""

    value: float
    low: float
    high: float
    confidence: float
    num_samples: int
    seed: int
    num_patients: int


@dataclass(frozen=True)
class Comparison:
    """Two runs' number over the same cases.

    Args:
        first, second: the number of each run.
        difference: first minus second.
        low, high: ends of the bootstrap interval of the difference.
        p_value: of the paired permutation test, two-sided.
        p_holm: corrected for all numbers that were compared together.
        confidence: coverage of the interval.
        num_samples: number of permutations, and of resamples.
        seed: seed of both.
        num_patients: number of pairs.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    p_holm: float
    confidence: float
    num_samples: int
    seed: int
    num_patients: int


def mean_statistic(scores: np.ndarray) -> CaseStatistic:
    """Mean of scores `(cases,)`; a case whose score is NaN is kept out."""
    scores = np.asarray(scores, dtype=float)
    there = ~np.isnan(scores)
    return CaseStatistic(np.stack([np.where(there, scores, 0.0), there], axis=1), _mean)


def bootstrap_intervals(
    statistics: Mapping[str, CaseStatistic],
    patients: Sequence[Hashable] | None = None,
    *,
    num_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap over patients: a patient is drawn with all cases.

    Args:
        statistics: name -> number; all over the same cases.
        patients: the patient of each case; each case a patient of its own without.
        num_samples: number of resamples.
        confidence: coverage of the intervals.
        seed: seed of the resampling.

    Raises:
        InputError: when the numbers of cases differ, or there is no case.
    """
    counts = _by_patient(statistics, patients)
    totals = _resampled(counts, num_samples, seed)
    return {
        name: Interval(
            statistics[name].value,
            *_percentiles(statistics[name].function(totals[name]), confidence),
            confidence=confidence,
            num_samples=num_samples,
            seed=seed,
            num_patients=len(counts[name]),
        )
        for name in statistics
    }


def compare_runs(
    first: Mapping[str, CaseStatistic],
    second: Mapping[str, CaseStatistic],
    patients: Sequence[Hashable] | None = None,
    *,
    num_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Paired comparison of two runs over the same cases.

    The p-value is that of a permutation test: in each permutation every patient's results change places with
    probability 1/2. It is `(1 + permutations at least as far from 0) / (1 + num_samples)`, never 0.

    Args:
        first: name -> number of the first run.
        second: the same names of the second run, cases in the same order.
        patients: the patient of each case; each case a patient of its own without.
        num_samples: number of permutations, and of resamples of the difference's interval.
        confidence: coverage of the interval.
        seed: seed of both.

    Raises:
        InputError: when names or numbers of cases differ, or there is no case.
    """
    if list(first) != list(second):
        raise InputError(f"the runs have the numbers {list(first)} and {list(second)}; expected the same in one order.")
    counts = _by_patient(first, patients), _by_patient(second, patients)
    for name in first:
        if counts[0][name].shape != counts[1][name].shape:
            raise InputError(
                f"{name}: {counts[0][name].shape} and {counts[1][name].shape} counts of the two runs; expected the "
                "same cases and labels in both."
            )
    totals = _resampled(counts[0], num_samples, seed), _resampled(counts[1], num_samples, seed)
    permuted = _permuted(*counts, num_samples, seed)
    p_values, rows = {}, {}
    for name in first:
        function = first[name].function
        difference = first[name].value - second[name].value
        null = function(permuted[name][0]) - function(permuted[name][1])
        # sums in another order may differ in their last bits; a permutation without a number counts against the runs
        as_far = ~(np.abs(null) < abs(difference) - 1e-9)
        p_values[name] = float("nan") if np.isnan(difference) else (1 + int(as_far.sum())) / (1 + num_samples)
        low, high = _percentiles(function(totals[0][name]) - function(totals[1][name]), confidence)
        rows[name] = (first[name].value, second[name].value, difference, low, high)
    corrected = holm(p_values)
    return {
        name: Comparison(
            *rows[name],
            p_value=p_values[name],
            p_holm=corrected[name],
            confidence=confidence,
            num_samples=num_samples,
            seed=seed,
            num_patients=len(counts[0][name]),
        )
        for name in first
    }


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction of p-values for their number; a NaN stays one and isn't counted.

    Source: https://www.jstor.org/stable/4615733
    """
    order = sorted((name for name in p_values if not np.isnan(p_values[name])), key=lambda name: p_values[name])
    corrected, largest = dict(p_values), 0.0
    for rank, name in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[name]))
        corrected[name] = largest
    return corrected


def _mean(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1], empty=float("nan"))


def ratio(numerator: np.ndarray, denominator: np.ndarray, *, empty: float) -> np.ndarray:
    """`numerator / denominator`, `empty` where the denominator is 0."""
    there = denominator != 0
    return np.where(there, numerator / np.where(there, denominator, 1), empty)


def _by_patient(statistics: Mapping[str, CaseStatistic], patients: Sequence[Hashable] | None) -> dict[str, np.ndarray]:
    """Sums over each patient's cases, patients in the order of their first case."""
    sizes = {name: len(statistic.counts) for name, statistic in statistics.items()}
    if patients is not None:
        sizes["patients"] = len(patients)
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise InputError(f"numbers of cases: {sizes or 'no number given'}; expected as many everywhere, 1 or more.")
    if patients is None:
        return {name: np.asarray(statistic.counts, dtype=float) for name, statistic in statistics.items()}
    places = {patient: place for place, patient in enumerate(dict.fromkeys(patients))}
    index = np.array([places[patient] for patient in patients])
    sums = {}
    for name, statistic in statistics.items():
        sums[name] = np.zeros((len(places), statistic.counts.shape[1]))
        np.add.at(sums[name], index, statistic.counts)
    return sums


def _resampled(counts: Mapping[str, np.ndarray], num_samples: int, seed: int) -> dict[str, np.ndarray]:
    """Sums `(num_samples, K)` over patients drawn with replacement."""
    rng = np.random.default_rng(seed)
    number = len(next(iter(counts.values())))
    columns = np.concatenate(list(counts.values()), axis=1)
    totals = np.empty((num_samples, columns.shape[1]))
    for chunk in _chunks(num_samples, number):
        rows = chunk.stop - chunk.start
        draws = rng.integers(number, size=(rows, number)) + np.arange(rows)[:, None] * number
        weights = np.bincount(draws.ravel(), minlength=rows * number).reshape(rows, number)
        totals[chunk] = weights.astype(float) @ columns
    return _split(totals, counts)


def _permuted(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], num_samples: int, seed: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Both runs' sums `(num_samples, K)` with patients' results exchanged at random."""
    rng = np.random.default_rng([seed, 1])
    number = len(next(iter(first.values())))
    columns = tuple(np.concatenate(list(run.values()), axis=1) for run in (first, second))
    changes = columns[1] - columns[0]
    moved = np.empty((num_samples, changes.shape[1]))
    for chunk in _chunks(num_samples, number):
        flips = rng.integers(2, size=(chunk.stop - chunk.start, number), dtype=np.int8)
        moved[chunk] = flips.astype(float) @ changes
    sums = (_split(columns[0].sum(axis=0) + moved, first), _split(columns[1].sum(axis=0) - moved, first))
    return {name: (sums[0][name], sums[1][name]) for name in first}


def _chunks(num_samples: int, number: int) -> Iterator[slice]:
    rows = max(1, _CHUNK_ENTRIES // number)
    for start in range(0, num_samples, rows):
        yield slice(start, min(start + rows, num_samples))


def _split(totals: np.ndarray, counts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    ends = np.cumsum([array.shape[1] for array in counts.values()])
    return dict(zip(counts, np.split(totals, ends[:-1], axis=1)))


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
