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

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from monai_u2.exceptions import InputError
from monai_u2.metrics import (
    FindingF1,
    bootstrap_interval,
    bootstrap_intervals,
    f1_statistic,
    finding_table,
    label_f1,
    label_f1_statistics,
    macro_f1,
    micro_f1,
)

PREDICTED = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]])
REFERENCE = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])


def test_micro_f1_by_hand() -> None:
    """TP 3, FP 1, FN 1."""
    assert micro_f1(PREDICTED, REFERENCE) == pytest.approx(6 / 8)
    assert micro_f1(np.zeros((2, 3)), np.zeros((2, 3))) == 0.0
    with pytest.raises(ValueError, match=r"predicted \(2, 3\) and reference \(3, 3\)"):
        micro_f1(PREDICTED[:2], REFERENCE)


def test_metric_accumulates_over_batches() -> None:
    metric = FindingF1()
    metric(y_pred=[torch.tensor(row) for row in PREDICTED[:2]], y=[torch.tensor(row) for row in REFERENCE[:2]])
    metric(y_pred=[torch.tensor(PREDICTED[2])], y=[torch.tensor(REFERENCE[2])])
    assert metric.aggregate() == pytest.approx(6 / 8)
    metric.reset()
    with pytest.raises(ValueError, match="seen no case"):
        metric.aggregate()


def test_interval_covers_and_is_seeded() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random((400, 5)) < 0.2
    predicted = reference ^ (rng.random((400, 5)) < 0.05)
    low, high = bootstrap_interval(predicted, reference, seed=1)
    assert low < micro_f1(predicted, reference) < high
    assert 0.02 < high - low < 0.12
    assert bootstrap_interval(predicted, reference, seed=1) == (low, high)
    assert bootstrap_interval(reference, reference) == (1.0, 1.0)


def test_table_groups_places_of_one_kind() -> None:
    rows = {row["finding"]: row for row in finding_table(PREDICTED, REFERENCE, ["cyst, right", "cyst, left", "mass"])}
    assert rows["cyst"] == {"finding": "cyst", "present": 4, "named": 3, "precision": 1.0, "recall": 0.75, "f1": 6 / 7}
    assert rows["mass"]["f1"] == 0.0 and rows["mass"]["named"] == 1
    assert rows["all"]["f1"] == pytest.approx(6 / 8)


def test_macro_f1_by_hand() -> None:
    """F1 of the labels: TP 2 of 2 and 2; TP 1 of 1 named and 2 there; one named falsely; one nowhere."""
    predicted, reference = (np.pad(matrix, ((0, 0), (0, 1))) for matrix in (PREDICTED, REFERENCE))
    assert label_f1(predicted, reference).tolist() == pytest.approx([1, 2 / 3, 0, np.nan], nan_ok=True)
    assert macro_f1(predicted, reference) == pytest.approx((1 + 2 / 3) / 3)
    with pytest.raises(ValueError, match="must have one shape"):
        label_f1(predicted, REFERENCE)


def test_no_positives_and_all_positives() -> None:
    none, everything = np.zeros((3, 2), dtype=bool), np.ones((3, 2), dtype=bool)
    for f1 in (micro_f1, macro_f1):
        assert f1(none, none) == 0 and f1(everything, none) == 0 and f1(none, everything) == 0
        assert f1(everything, everything) == 1
    half = np.array([[1, 0]] * 3)
    assert micro_f1(half, everything) == pytest.approx(2 / 3)
    assert macro_f1(half, everything) == pytest.approx(1 / 2)
    assert label_f1(half, everything).tolist() == [1, 0]
    assert np.isnan(label_f1(none, none)).all()


def test_macro_interval_isnt_pulled_down_by_labels_that_a_resample_lacks() -> None:
    reference = np.eye(20, dtype=bool)  # each label in one case of 20
    interval = bootstrap_intervals({"f1": f1_statistic(reference, reference, "macro")}, num_samples=200)["f1"]
    assert (interval.value, interval.low, interval.high) == (1, 1, 1)


def test_f1_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random((60, 18)) < np.linspace(0, 0.6, 18)  # the first label is nowhere there
    predicted = reference ^ (rng.random((60, 18)) < 0.1)
    predicted[:, 0] = False
    for average, f1 in (("micro", micro_f1), ("macro", macro_f1)):
        library = f1_score(reference, predicted, average=average, zero_division=np.nan)
        assert f1(predicted, reference) == pytest.approx(library)
    library = f1_score(reference, predicted, average=None, zero_division=np.nan)
    assert np.isnan(library[0]) and label_f1(predicted, reference) == pytest.approx(library, nan_ok=True)


@pytest.mark.parametrize(("average", "expected"), [("micro", micro_f1), ("macro", macro_f1)])
def test_metric_is_equal_in_one_and_two_processes(
    in_one_and_two: Callable[..., Any], average: str, expected: Callable[..., float]
) -> None:
    vectors = [[torch.tensor(row) for row in np.tile(matrix, (4, 1))] for matrix in (PREDICTED, REFERENCE)]
    assert in_one_and_two(FindingF1(average), vectors) == pytest.approx(expected(PREDICTED, REFERENCE))
    with pytest.raises(InputError, match="average is 'weighted'"):
        FindingF1("weighted")


def test_labels_with_intervals() -> None:
    rng = np.random.default_rng(0)
    reference = rng.random((80, 3)) < [0.4, 0.2, 0.0]
    predicted = reference ^ (rng.random((80, 3)) < [0.1, 0.1, 0.0])
    statistics = label_f1_statistics(predicted, reference, ["a", "b", "nowhere"])
    np.testing.assert_allclose([s.value for s in statistics.values()], label_f1(predicted, reference))
    intervals = bootstrap_intervals(statistics, num_samples=200)
    assert intervals["a"].low < intervals["a"].value < intervals["a"].high
    assert np.isnan([intervals["nowhere"].value, intervals["nowhere"].low]).all()
