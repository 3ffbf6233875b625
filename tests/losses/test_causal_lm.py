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

from monai_u2.losses import FindingLoss, ReportLoss, causal_lm_loss
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


def test_short_and_long_answers_count_alike() -> None:
    """Answers of one token (loss ln 4) and of three (loss 0); a row without answer doesn't count."""
    logits = torch.zeros(3, 4, 4)
    labels = torch.tensor([[-100, 1, -100, -100], [-100, 2, 2, 2], [-100] * 4])
    logits[1, :, 2] = 50.0
    assert causal_lm_loss(logits, labels).item() == pytest.approx(math.log(4) / 2)


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="all labels are -100"):
        causal_lm_loss(torch.zeros(1, 3, 4), torch.full((1, 3), -100))


def test_findings_are_added_over_patches_and_image_tokens() -> None:
    findings = FindingLoss(volume_weight=0.5)
    patches, tokens = torch.zeros(1, 2, 1, 2), torch.full((1, 3, 2), 2.0)
    targets = {**LABELS, "findings": torch.tensor([[1.0, 1.0]])}
    loss = ReportLoss(findings)(output(finding_logits=patches, image_token_finding_logits=tokens), targets)
    expected = math.log(4) + 0.5 * (math.log(2) + math.log1p(math.exp(-2.0)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_findings_without_weight_need_no_truth() -> None:
    assert ReportLoss(FindingLoss())(output(), LABELS).item() == pytest.approx(math.log(4))
