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

"""Finding logits per visual token: supervision of the vision tower and of the token selection."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from transformers import initialization as init


class FindingHead(nn.Module):
    """One linear layer from each patch token to a logit per finding.

    The volume's logit of a finding is its largest patch logit (multiple-instance learning: the volume has what one of
    its patches has).

    Args:
        hidden_size: width of the patch tokens.
        num_findings: number of findings F.
    """

    def __init__(self, hidden_size: int, num_findings: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(hidden_size, num_findings)
        self.reset_bias()

    def reset_bias(self) -> None:
        """Start from a probability of 1 % for each token and finding (https://arxiv.org/abs/1708.02002, section
        4.1)."""
        init.constant_(self.classifier.bias, -math.log(99.0))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(…, C)` to `(…, F)`."""
        return self.classifier(tokens)


def volume_finding_logits(patch_logits: torch.Tensor, slab_mask: torch.Tensor) -> torch.Tensor:
    """Largest patch logit of each finding over the valid slabs.

    Args:
        patch_logits: `(B, T, N, F)`.
        slab_mask: boolean `(B, T)`.

    Returns:
        `(B, F)`.
    """
    return patch_logits.masked_fill(~slab_mask[:, :, None, None], -torch.inf).amax(dim=(1, 2))
