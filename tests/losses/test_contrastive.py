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

import math

import pytest
import torch

from monai_u2.losses import FindingLoss, VisionPretrainingLoss, image_report_contrast
from monai_u2.networks import CLIP3DOutput

TWO = torch.eye(2)


def test_contrast_by_hand() -> None:
    """Orthogonal pairs at scale 2: each row and column costs ln(1 + e^-2); swapped, ln(1 + e^2)."""
    matched = image_report_contrast(TWO, TWO, torch.tensor(2.0))
    swapped = image_report_contrast(TWO, TWO.flip(0), torch.tensor(2.0))
    assert matched.item() == pytest.approx(math.log1p(math.exp(-2.0)))
    assert swapped.item() == pytest.approx(math.log1p(math.exp(2.0)))


def test_terms_are_weighted() -> None:
    output = CLIP3DOutput(TWO, TWO, torch.tensor(0.0), torch.zeros(2, 1, 1, 3))
    targets = {"slab_mask": torch.ones(2, 1, dtype=torch.bool), "findings": torch.ones(2, 3)}
    loss = VisionPretrainingLoss(FindingLoss(volume_weight=1.0), contrast_weight=0.5)(output, targets)
    assert loss.item() == pytest.approx(1.5 * math.log(2))
    alone = VisionPretrainingLoss(contrast_weight=1.0)(output, {})
    assert alone.item() == pytest.approx(math.log(2))


def test_some_term_is_needed() -> None:
    with pytest.raises(ValueError, match="expected a weight above 0"):
        VisionPretrainingLoss(contrast_weight=0.0)
