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

import numpy as np
import pytest

from monai_u2.data.phantom.geometry import LOBES, Draws, Ellipsoid, draw_anatomy, place_lesion


def test_ellipsoid_level() -> None:
    shape = Ellipsoid((1.0, 2.0, 3.0), (2.0, 4.0, 8.0))
    points = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 3.0], [1.0, 10.0, 3.0]])
    np.testing.assert_allclose(shape.level(points), [0.0, 1.0, 4.0])
    np.testing.assert_allclose(shape.grown(2.0).radii, [4.0, 6.0, 10.0])


def test_lobes_part_the_lungs() -> None:
    anatomy = draw_anatomy(Draws([1]), big_heart=False, big_spleen=False)
    points = np.random.default_rng(0).uniform([-150, -90, -60], [150, 90, 240], (20_000, 3))
    inside = np.stack([anatomy.in_lobe(lobe, points) for lobe in LOBES])
    lungs = anatomy.in_lung("right", points) | anatomy.in_lung("left", points)
    np.testing.assert_array_equal(inside.sum(axis=0), lungs.astype(int))
    assert (inside.sum(axis=1) > 100).all()
    heights = [points[inside[index], 2].mean() for index in range(len(LOBES))]
    assert heights[0] > heights[1] and heights[0] > heights[2] and heights[3] > heights[4]
    assert points[inside[1], 1].mean() > points[inside[2], 1].mean(), "the middle lobe lies before the lower one"


def test_place_lesion_keeps_its_room() -> None:
    ball = Ellipsoid((0.0, 0.0, 0.0), (20.0, 20.0, 20.0))
    corner = (20.0, 20.0, 20.0)
    low = (-20.0, -20.0, -20.0)
    center, room = place_lesion(Draws([2]), lambda points: ball.level(points) < 1.0, low, corner, 10.0)
    assert room == 10.0 and np.linalg.norm(center) < 10.5
    center, room = place_lesion(Draws([2]), lambda points: ball.level(points) < 1.0, low, corner, 40.0)
    assert 9.0 < room < 20.0, "where the room is too small it shrinks"


def test_place_lesion_needs_a_region() -> None:
    with pytest.raises(RuntimeError, match="no place for a lesion"):
        place_lesion(Draws([2]), lambda points: np.zeros(len(points), bool), (0, 0, 0), (1, 1, 1), 5.0)


def test_draws_come_from_random_alone() -> None:
    draws, rng = Draws([5, 6]), np.random.default_rng([5, 6])
    assert draws.uniform(2.0, 4.0) == 2.0 + 2.0 * rng.random()
    assert draws.pick("abcd") == "abcd"[int(rng.random() * 4)]
    assert draws.chance(0.5) == (rng.random() < 0.5)
