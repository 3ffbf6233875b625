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

from monai_u2.losses import FindingLoss

MASK = {"slab_mask": torch.tensor([[True, False]])}


def test_volume_term_by_hand() -> None:
    """Over patches: the largest logit of finding 0 is 0 (ln 2), that of finding 1 is 2; the padded slab doesn't count.

    Over image tokens: 1 and -1, both right.
    """
    patches = torch.tensor([[[[-1.0, 2.0], [0.0, -3.0]], [[9.0, 9.0], [9.0, 9.0]]]])
    tokens = torch.tensor([[[1.0, -1.0], [0.5, -4.0]]])
    targets = {**MASK, "findings": torch.tensor([[1.0, 0.0]])}
    of_patches = (math.log(2) + math.log1p(math.exp(2.0))) / 2
    of_tokens = math.log1p(math.exp(-1.0))
    loss = FindingLoss(volume_weight=1.0)
    assert loss(patches, targets).item() == pytest.approx(of_patches, rel=1e-5)
    assert loss(patches, targets, tokens).item() == pytest.approx(of_patches + of_tokens, rel=1e-5)


def test_each_question_has_the_findings_of_its_volume() -> None:
    """Two volumes, three questions: 0 and 2 about volume 1, which has the finding; question 1 about volume 0."""
    targets = {
        "slab_mask": torch.ones(2, 1, dtype=torch.bool),
        "findings": torch.tensor([[0.0], [1.0]]),
        "image_index": torch.tensor([1, 0, 1]),
    }
    patches, tokens = torch.zeros(2, 1, 1, 1), torch.tensor([[[3.0]], [[-3.0]], [[3.0]]])
    loss = FindingLoss(volume_weight=1.0)(patches, targets, tokens)
    assert loss.item() == pytest.approx(math.log(2) + math.log1p(math.exp(-3.0)), rel=1e-5)


def test_patch_term_by_hand() -> None:
    """Logits 0, so that each patch and finding costs 1/4 ln 2 times alpha (positive) or 1 - alpha (negative).

    Finding 0 fills two patches and counts once; finding 1 grazes one patch, which doesn't count. Negative are one
    patch of finding 0 and two of finding 1, over two positive patches. The padded slab doesn't count.
    """
    truth = torch.tensor([[[[1, 0], [1, 255], [0, 0]], [[1, 1], [1, 1], [1, 1]]]], dtype=torch.uint8)
    loss = FindingLoss(patch_weight=2.0, alpha=0.25)(torch.zeros(1, 2, 3, 2), {**MASK, "patch_findings": truth})
    assert loss.item() == pytest.approx(2 * (0.25 + 0.75 * 3 / 2) / 4 * math.log(2), rel=1e-5)


def test_slab_term_by_hand() -> None:
    """Finding 0 is in the slab (largest logit 1), finding 1 only grazes it and doesn't count, finding 2 isn't there."""
    truth = torch.tensor([[[[1, 255, 0], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]]], dtype=torch.uint8)
    logits = torch.tensor([[[[1.0, 5.0, 2.0], [0.0, 5.0, 3.0]], [[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]]])
    loss = FindingLoss(slab_weight=1.0)(logits, {**MASK, "patch_findings": truth})
    assert loss.item() == pytest.approx((math.log1p(math.exp(-1.0)) + math.log1p(math.exp(3.0))) / 2, rel=1e-5)


def test_what_is_missing_or_does_not_fit_is_an_error() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    with pytest.raises(ValueError, match="num_findings above 0"):
        FindingLoss(volume_weight=1.0)(None, MASK)
    with pytest.raises(ValueError, match="needs 'patch_findings' in the batch"):
        FindingLoss(slab_weight=1.0)(logits, MASK)
    with pytest.raises(ValueError, match="has 3 findings, the network's finding head 2"):
        FindingLoss(volume_weight=1.0)(logits, {**MASK, "findings": torch.zeros(1, 3)})
    with pytest.raises(ValueError, match="patch_weight is -1"):
        FindingLoss(patch_weight=-1.0)
