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

from monai_u2.metrics import FindingCRG, crg_score, crg_statistic


def _published(predicted: np.ndarray, reference: np.ndarray) -> float:
    """The formula as it stands in the paper."""
    x, a = reference.size, reference.sum()
    tp, fp = (predicted & reference).sum(), (predicted & ~reference).sum()
    r, u = (x - a) / (2 * a), (x - a) / 2
    return u / (2 * u - (r * tp - r * (a - tp) - fp))


def test_by_hand() -> None:
    """X 8, A 2: r 3/2, U 3; TP 1, FN 1, FP 1: s = -1, CRG = 3 / 7."""
    reference = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    predicted = np.array([[1, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    assert crg_score(predicted, reference) == pytest.approx(3 / 7)
    assert crg_score(reference, reference) == 1
    assert crg_score(np.zeros_like(reference), reference) == pytest.approx(1 / 3)
    assert crg_score(np.ones_like(reference), reference) == pytest.approx(1 / 3)


def test_is_the_published_formula() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        reference, predicted = rng.random((2, 20, 18)) < rng.uniform(0.05, 0.9)
        assert crg_score(predicted, reference) == pytest.approx(_published(predicted, reference))


def test_no_positives() -> None:
    """A = 0: FP 2 of 8 negatives, 1 / (1 + 2 * 2 / 8)."""
    reference = np.zeros((2, 4), dtype=bool)
    assert crg_score(reference, reference) == 1
    assert crg_score(np.array([[1, 1, 0, 0], [0, 0, 0, 0]]), reference) == pytest.approx(2 / 3)
    assert crg_score(~reference, reference) == pytest.approx(1 / 3)


def test_all_positives() -> None:
    """A = X: FN 2 of 8 positives."""
    reference = np.ones((2, 4), dtype=bool)
    assert crg_score(reference, reference) == 1
    assert crg_score(np.array([[0, 0, 1, 1], [1, 1, 1, 1]]), reference) == pytest.approx(2 / 3)
    assert crg_score(~reference, reference) == pytest.approx(1 / 3)


def test_ends_are_limits() -> None:
    """One positive of many labels that is found changes nothing; the same for one negative."""
    predicted = np.random.default_rng(0).random((1000, 18)) < 0.3
    none = np.zeros_like(predicted)
    one = none.copy()
    one[np.argwhere(predicted)[0][0], np.argwhere(predicted)[0][1]] = True
    assert crg_score(predicted, none) == pytest.approx(crg_score(predicted, one), abs=1e-4)
    assert crg_score(~predicted, ~none) == pytest.approx(crg_score(~predicted, ~one), abs=1e-4)


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        crg_score(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="hold no label"):
        crg_statistic(np.zeros((0, 3)), np.zeros((0, 3)))


def test_metric_is_equal_in_one_and_two_processes(in_one_and_two: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    predicted, reference = rng.random((2, 12, 5)) < 0.4
    vectors = [[torch.tensor(row) for row in matrix] for matrix in (predicted, reference)]
    assert in_one_and_two(FindingCRG(), vectors) == crg_score(predicted, reference)
