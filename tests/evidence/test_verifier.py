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
import torch

from monai_u2.evidence import EvidenceVerifier, TokenGrid, body_mask, named_side

# slabs with axes to superior, posterior, left, 4 mm; the body's middle lies at x = 10 mm
AFFINE = np.array([[0, 0, -4.0, 74.0], [0, -4.0, 0, 60.0], [4.0, 0, 0, -100.0], [0, 0, 0, 1]])
GRID = TokenGrid(2, (2, 4, 4), (8, 8, 8), AFFINE)


@pytest.fixture
def verifier() -> EvidenceVerifier:
    image = torch.zeros(2, 16, 32, 32)
    image[:, :, 2:30, 2:30] = 0.5
    image[1, :, 8:20, 4:28] = 0.05  # lungs, in the upper slab
    return EvidenceVerifier(image, body_mask(image, GRID), GRID)


def at(depth: int, row: int, column: int) -> np.ndarray:
    """Evidence around one place of the fine grid."""
    fine = np.zeros(GRID.fine_shape)
    fine[depth - 1 : depth + 2, row - 1 : row + 2, column - 1 : column + 2] = 0.6
    fine[depth, row, column] = 1.0
    return fine


def test_sides(verifier: EvidenceVerifier) -> None:
    assert verifier.middle == pytest.approx(12, abs=4)
    left, right = at(4, 8, 13), at(4, 8, 3)  # columns run to the left
    assert verifier("A stone is seen in the left kidney.", left, 0.1) == []
    assert verifier("A stone is seen in the left kidney.", right, 0.1) == ["other side"]
    assert verifier("Effusion on the right.", right, 0.1) == []
    assert verifier("Effusion on the RIGHT.", left, 0.1) == ["other side"]
    assert verifier("The aorta is dilated.", left, 0.1) == []


def test_what_the_line_is_about_counts_where_the_sentence_says_nothing(verifier: EvidenceVerifier) -> None:
    left, right, bottom = at(4, 8, 13), at(4, 8, 3), at(9, 6, 3)
    assert verifier("A stone is seen.", right, 0.1, "Left kidney") == ["other side"]
    assert verifier("A stone is seen.", left, 0.1, "Left kidney") == []
    assert verifier("Larger than the right one.", right, 0.1, "Left kidney") == []
    assert verifier("Stones on both sides.", right, 0.1, "Left kidney") == []
    assert verifier("A nodule is seen.", bottom, 0.1, "Right upper lobe") == ["other height"]


def test_without_lungs_in_the_window_heights_arent_checked() -> None:
    """The same patient in a window of -160 to 240 HU: lungs are as dark as air, fat is body and no lung."""
    image = torch.zeros(2, 16, 32, 32)
    image[:, :, 2:30, 2:30] = 0.15  # fat of -100 HU
    image[1, :, 8:20, 4:28] = 0.0  # lungs
    body = body_mask(image, GRID, (-160, 240))
    assert body[:, 2:14, 2:14].all()
    soft = EvidenceVerifier(image, body, GRID, (-160, 240))
    assert soft.lungs is None
    assert soft("Nodule in the right upper lobe.", at(9, 6, 3), 0.1) == []


def test_lobes_of_the_lung(verifier: EvidenceVerifier) -> None:
    top, bottom = at(14, 6, 3), at(9, 6, 3)
    assert verifier("Nodule in the right upper lobe.", top, 0.1) == []
    assert verifier("Nodule in the right upper lobe.", bottom, 0.1) == ["other height"]
    assert verifier("Nodule in the right lower lobe.", bottom, 0.1) == []
    assert verifier("Nodule in the left lower lobe.", top, 0.1) == ["other side", "other height"]


def test_cavities(verifier: EvidenceVerifier) -> None:
    """The upper slab holds the lungs."""
    top, base, bottom = at(14, 6, 3), at(9, 6, 3), at(2, 6, 3)
    for text, region in (
        ("A cyst is seen.", "Liver"),
        ("Hypodense lesion in the liver.", None),
        ("Splenomegaly.", None),
    ):
        assert verifier(text, top, 0.1, region) == ["other height"]
        assert verifier(text, base, 0.1, region) == verifier(text, bottom, 0.1, region) == []
    for text, region in (("An opacity is seen.", "Lungs"), ("Cardiomegaly.", None), ("A pleural effusion.", None)):
        assert verifier(text, bottom, 0.1, region) == ["other height"]
        assert verifier(text, top, 0.1, region) == verifier(text, base, 0.1, region) == []
    assert verifier("The lungs and the liver are clear.", top, 0.1) == []
    assert verifier("The abdominal aorta is dilated to 45 mm.", bottom, 0.1, "Heart and vessels") == []
    assert verifier("The heart is enlarged.", bottom, 0.1, "Heart and vessels") == ["other height"]
    assert verifier("No calcification.", bottom, 0.1, "Heart and vessels") == []
    assert verifier("A cyst is seen.", top, 0.1) == []


def test_diffuse(verifier: EvidenceVerifier) -> None:
    assert verifier("No fracture is seen.", at(4, 8, 8), 0.99) == ["diffuse"]


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("A cyst is seen in the left kidney.", "left"),
        ("Right pleural effusion.", "right"),
        ("Bilateral effusions, larger on the right.", None),
        ("Effusions on the left and on the right.", None),
        ("Hypodense lesion in the left lobe of the liver.", None),
        ("The right atrium is enlarged.", None),
        ("The liver has a cyst in its left lobe.", None),
        ("A bright lesion.", None),
    ],
)
def test_named_side(text: str, side: str | None) -> None:
    assert named_side(text) == side
