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

import tracemalloc

import numpy as np
import pytest

from monai_u2.exceptions import InputError
from monai_u2.metrics import (
    bootstrap_intervals,
    compare_runs,
    crg_statistic,
    f1_statistic,
    holm,
    mean_statistic,
)
from monai_u2.metrics.significance import CaseStatistic


def _f1_of(run: tuple[np.ndarray, np.ndarray], average: str = "micro") -> dict[str, CaseStatistic]:
    return {"f1": f1_statistic(*run, average)}


def _found(seed: int, errors: float, cases: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and reference findings of a run with so many wrong labels; the references are the same for all."""
    reference = np.random.default_rng(0).random((cases, 6)) < 0.25
    return reference ^ (np.random.default_rng(seed).random((cases, 6)) < errors), reference


def test_interval_of_a_mean_is_the_normal_one() -> None:
    scores = np.random.default_rng(1).normal(0.5, 0.2, size=500)
    interval = bootstrap_intervals({"score": mean_statistic(scores)}, num_samples=4000, seed=3)["score"]
    half = 1.96 * scores.std() / np.sqrt(500)
    assert interval.value == pytest.approx(scores.mean())
    assert interval.low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(scores.mean() + half, abs=0.1 * half)
    assert (interval.num_samples, interval.seed, interval.num_patients, interval.confidence) == (4000, 3, 500, 0.95)
    assert bootstrap_intervals({"score": mean_statistic(scores)}, num_samples=4000, seed=3)["score"] == interval
    assert bootstrap_intervals({"score": mean_statistic(scores)}, num_samples=4000, seed=4)["score"] != interval


def test_resamples_are_those_of_a_loop_over_the_plain_functions() -> None:
    predicted, reference = _found(1, 0.1, cases=50)
    statistics = {
        "micro": f1_statistic(predicted, reference),
        "macro": f1_statistic(predicted, reference, "macro"),
        "crg": crg_statistic(predicted, reference),
    }
    intervals = bootstrap_intervals(statistics, num_samples=300, seed=5)
    draws = np.random.default_rng(5).integers(50, size=(300, 50))
    from monai_u2.metrics import crg_score, macro_f1, micro_f1

    for name, function in (("micro", micro_f1), ("macro", macro_f1), ("crg", crg_score)):
        values = [function(predicted[draw], reference[draw]) for draw in draws]
        low, high = np.quantile(values, [0.025, 0.975])
        assert (intervals[name].low, intervals[name].high) == pytest.approx((low, high))
        assert intervals[name].value == pytest.approx(function(predicted, reference))


def test_cases_of_one_patient_are_drawn_together() -> None:
    """Ten equal cases a patient hold no more than one of them."""
    scores = np.random.default_rng(2).random(60)
    one = bootstrap_intervals({"score": mean_statistic(scores)}, seed=0)["score"]
    patients = [f"patient {place // 10}" for place in range(600)]
    ten = bootstrap_intervals({"score": mean_statistic(np.repeat(scores, 10))}, patients, seed=0)["score"]
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))
    apart = bootstrap_intervals({"score": mean_statistic(np.repeat(scores, 10))}, seed=0)["score"]
    assert apart.high - apart.low < 0.5 * (ten.high - ten.low)
    assert ten.num_patients == 60


def test_cases_without_a_score_are_kept_out() -> None:
    statistic = mean_statistic(np.array([0.2, np.nan, 0.6]))
    assert statistic.value == pytest.approx(0.4)
    assert np.isnan(mean_statistic(np.array([np.nan])).value)
    interval = bootstrap_intervals({"score": statistic}, num_samples=500)["score"]
    assert interval.low == pytest.approx(0.2) and interval.high == pytest.approx(0.6)


def test_planted_difference_is_found() -> None:
    better, worse = _found(1, 0.08), _found(2, 0.13)
    scores = np.random.default_rng(3).random(400)
    first = {**_f1_of(better), "macro": f1_statistic(*better, "macro"), "mean": mean_statistic(scores + 0.02)}
    second = {**_f1_of(worse), "macro": f1_statistic(*worse, "macro"), "mean": mean_statistic(scores)}
    compared = compare_runs(first, second, num_samples=2000)
    for row in compared.values():
        assert row.p_value <= row.p_holm < 0.05
        assert 0 < row.low <= row.difference + 1e-12 and row.difference - 1e-12 <= row.high
        assert row.difference == pytest.approx(row.first - row.second)
        assert (row.num_samples, row.seed, row.num_patients, row.confidence) == (2000, 0, 400, 0.95)
    assert compared["mean"].p_value == pytest.approx(1 / 2001)  # all 400 differ by 0.02
    turned = compare_runs(second, first, num_samples=2000)
    assert turned["f1"].difference == -compared["f1"].difference
    assert turned["f1"].p_value == compared["f1"].p_value


def test_p_value_is_the_exact_one() -> None:
    """Differences 1, 2 and 3 of three patients: of 8 sign changes two are as far from 0."""
    first = {"mean": mean_statistic(np.array([2.0, 4.0, 6.0]))}
    second = {"mean": mean_statistic(np.array([1.0, 2.0, 3.0]))}
    assert compare_runs(first, second, num_samples=20_000)["mean"].p_value == pytest.approx(2 / 8, abs=0.01)
    assert compare_runs(first, first)["mean"].p_value == 1


@pytest.mark.parametrize("name", ["mean", "micro", "macro"])
def test_no_difference_between_halves_of_one_run(name: str) -> None:
    """False positives over 200 repeats at the 5 % level."""
    predicted, reference = _found(1, 0.1, cases=120)
    scores = (predicted == reference).mean(axis=1)
    positives = 0
    for repeat in range(200):
        halves = np.random.default_rng([11, repeat]).permutation(120).reshape(2, 60)
        runs = [
            {
                "mean": mean_statistic(scores[half]),
                "micro": f1_statistic(predicted[half], reference[half]),
                "macro": f1_statistic(predicted[half], reference[half], "macro"),
            }[name]
            for half in halves
        ]
        compared = compare_runs({name: runs[0]}, {name: runs[1]}, num_samples=400, seed=repeat)
        positives += compared[name].p_value <= 0.05
    assert 0.03 <= positives / 200 <= 0.07


def test_holm_by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": float("nan"), "e": 0.005})
    assert {name: round(value, 3) for name, value in corrected.items() if name != "d"} == {
        "a": 0.03,
        "b": 0.06,
        "c": 0.06,
        "e": 0.02,
    }
    assert np.isnan(corrected["d"])
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_memory_is_bounded() -> None:
    statistics = {"score": mean_statistic(np.random.default_rng(0).random(3000))}
    tracemalloc.start()
    bootstrap_intervals(statistics, num_samples=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # all draws at once take 240 MB


def test_numbers_of_cases_must_fit() -> None:
    two, three = mean_statistic(np.zeros(2)), mean_statistic(np.zeros(3))
    with pytest.raises(InputError, match="'a': 2, 'b': 3"):
        bootstrap_intervals({"a": two, "b": three})
    with pytest.raises(InputError, match="'patients': 3"):
        bootstrap_intervals({"a": two}, ["x", "y", "z"])
    with pytest.raises(InputError, match="no number given"):
        bootstrap_intervals({})
    with pytest.raises(InputError, match="1 or more"):
        bootstrap_intervals({"a": mean_statistic(np.zeros(0))})
    with pytest.raises(InputError, match=r"\['a'\] and \['b'\]"):
        compare_runs({"a": two}, {"b": two})
    with pytest.raises(InputError, match=r"a: \(2, 2\) and \(3, 2\)"):
        compare_runs({"a": two}, {"a": three})
