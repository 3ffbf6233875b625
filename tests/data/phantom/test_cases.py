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

from collections import Counter

import numpy as np
import pytest

from monai_u2.data.phantom.cases import draw_case
from monai_u2.data.phantom.findings import FINDING_KINDS, FINDING_LABELS, PhantomCase
from monai_u2.data.phantom.geometry import LOBES


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [draw_case(number) for number in range(600)]


def local_center(case: PhantomCase, center: tuple[float, float, float]) -> np.ndarray:
    return np.array([center]) - np.array([case.grid.shift])


def test_a_case_follows_from_its_number() -> None:
    assert draw_case(17) == draw_case(17)
    assert draw_case(17) != draw_case(18)
    # Written down once: the case is the same on every machine and in every later version of the same PHANTOM_VERSION.
    case = draw_case(17)
    assert case.labels == ["lung nodule, right middle lobe", "hypodense liver lesion, right lobe"]
    assert case.grid.shape == (144, 144, 74)
    assert [finding.center for finding in case.findings] == [(65.5, 148.1, 464.2), (73.0, 163.6, 305.0)]


def test_frequencies(cases: list[PhantomCase]) -> None:
    counts = [len(case.findings) for case in cases]
    assert 1.7 < np.mean(counts) < 2.2
    assert np.mean(np.array(counts) == 0) > 0.15
    labels = Counter(label for case in cases for label in case.labels)
    assert set(labels) == set(FINDING_LABELS)
    kinds = Counter(kind for case in cases for kind in {finding.kind for finding in case.findings})
    assert all(0.09 < kinds[kind] / len(cases) < 0.24 for kind in FINDING_KINDS), kinds


def test_a_case_names_no_label_twice_and_a_lobe_holds_one_lesion(cases: list[PhantomCase]) -> None:
    for case in cases:
        assert len(set(case.labels)) == len(case.labels)
        lobes = [finding.location for finding in case.findings if finding.location in LOBES]
        assert len(set(lobes)) == len(lobes)
        assert sum(finding.kind == "lung nodule" for finding in case.findings) <= 2


def test_normal_and_enlarged_organs_do_not_overlap(cases: list[PhantomCase]) -> None:
    for case in cases:
        ratio = 2 * case.anatomy.heart.radii[0] / case.anatomy.thorax_width
        spleen = 2 * case.anatomy.spleen.radii[2]
        assert (0.56 <= ratio <= 0.66) if "cardiomegaly" in case.labels else (0.38 <= ratio <= 0.46)
        assert (135 <= spleen <= 170) if "splenomegaly" in case.labels else (80 <= spleen <= 110)
        assert 18 <= 2 * case.anatomy.abdominal_aorta[1] <= 24


def test_sizes(cases: list[PhantomCase]) -> None:
    ranges = {
        "lung nodule": (10, 30),
        "consolidation": (25, 60),
        "aortic aneurysm": (35, 70),
        "hypodense liver lesion": (12, 40),
        "hyperdense liver lesion": (12, 40),
        "kidney stone": (6, 14),
        "renal cyst": (12, 40),
    }
    for case in cases:
        for finding in case.findings:
            if finding.kind in ranges:
                low, high = ranges[finding.kind]
                assert low <= finding.size_mm <= high, finding


def test_lesions_lie_in_the_place_that_their_label_names(cases: list[PhantomCase]) -> None:
    for case in cases:
        for finding in case.findings:
            center = local_center(case, finding.center)
            if finding.location in LOBES:
                assert case.anatomy.in_lobe(finding.location, center)[0], (case.number, finding)
            elif finding.kind.endswith("liver lesion"):
                assert case.anatomy.in_liver_lobe(finding.location.split()[0], center, 7.0)[0], (case.number, finding)
            elif finding.location in ("right", "left"):
                assert (center[0, 0] > 0) == (finding.location == "right"), (case.number, finding)


def test_grids_vary(cases: list[PhantomCase]) -> None:
    grids = [case.grid for case in cases]
    assert {grid.shape[0] for grid in grids} == {96, 112, 128, 144, 160}
    assert {grid.axcodes for grid in grids} >= {"RAS", "LPS", "PIR"}
    for case in cases:
        size, _, slices = case.grid.shape
        assert 64 <= slices <= 112
        assert 400 <= slices * case.grid.spacing[2] <= 460.1
        assert 360 <= size * case.grid.spacing[0] <= 430
        assert 10 <= case.noise <= 20
