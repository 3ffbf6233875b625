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

from monai_u2.losses import ReportLoss, causal_lm_loss
from monai_u2.networks import U2LLMOutput


def output(**more: torch.Tensor) -> U2LLMOutput:
    return U2LLMOutput(logits=torch.zeros(1, 3, 4), **more)


LABELS = {"labels": torch.tensor([[-100, 2, 3]]), "slab_mask": torch.tensor([[True, False]])}


def test_uniform_logits_cost_the_log_of_the_vocabulary() -> None:
    assert causal_lm_loss(torch.zeros(1, 3, 4), LABELS["labels"]).item() == pytest.approx(math.log(4))


def test_each_position_predicts_the_next_token() -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 2] = logits[0, 1, 3] = 50.0
    assert causal_lm_loss(logits, LABELS["labels"]).item() == pytest.approx(0.0, abs=1e-6)


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="all labels are -100"):
        causal_lm_loss(torch.zeros(1, 3, 4), torch.full((1, 3), -100))


def test_volume_term_by_hand() -> None:
    """Over patches: the largest logit of finding 0 is 0 (ln 2), that of finding 1 is 2; the padded slab's 9 don't
    count.

    Over selected tokens: 1 and -1, both right.
    """
    patches = torch.tensor([[[[-1.0, 2.0], [0.0, -3.0]], [[9.0, 9.0], [9.0, 9.0]]]])
    selected = torch.tensor([[[1.0, -1.0], [0.5, -4.0]]])
    loss = ReportLoss(volume_weight=1.0)(
        output(finding_logits=patches, selected_finding_logits=selected),
        {**LABELS, "findings": torch.tensor([[1.0, 0.0]])},
    )
    of_patches = (math.log(2) + math.log1p(math.exp(2.0))) / 2
    of_selected = math.log1p(math.exp(-1.0))
    assert loss.item() == pytest.approx(math.log(4) + of_patches + of_selected, rel=1e-5)


def test_patch_term_by_hand() -> None:
    """Logits 0, so that each patch and finding costs 1/4 ln 2 times alpha (positive) or 1 - alpha (negative).

    Finding 0 fills two patches and counts once; finding 1 grazes one patch, which doesn't count. Negative are one
    patch of finding 0 and two of finding 1, over two positive patches. The padded slab doesn't count.
    """
    truth = torch.tensor([[[[1, 0], [1, 255], [0, 0]], [[1, 1], [1, 1], [1, 1]]]], dtype=torch.uint8)
    loss = ReportLoss(patch_weight=2.0, alpha=0.25)(
        output(finding_logits=torch.zeros(1, 2, 3, 2)), {**LABELS, "patch_findings": truth}
    )
    expected = (0.25 + 0.75 * 3 / 2) / 4 * math.log(2)
    assert loss.item() == pytest.approx(math.log(4) + 2 * expected, rel=1e-5)


def test_supervision_without_truth_or_head_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_findings above 0"):
        ReportLoss(volume_weight=1.0)(output(), LABELS)
    with pytest.raises(ValueError, match="needs 'patch_findings' in the batch"):
        ReportLoss(patch_weight=1.0)(output(finding_logits=torch.zeros(1, 2, 1, 2)), LABELS)
