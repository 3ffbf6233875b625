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

"""Supervised fine-tuning: the answer's tokens, and the findings that the vision tower should see."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F
from monai.losses import FocalLoss

from monai_u2.networks.finding_head import volume_finding_logits
from monai_u2.networks.u2llm import U2LLMOutput


def causal_lm_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each next token.

    Args:
        logits: `(B, L, V)`.
        labels: `(B, L)`, -100 where nothing is trained on.

    Returns:
        Scalar.

    Raises:
        ValueError: when no label of the batch is trained on.
    """
    targets = labels[:, 1:]
    if not bool((targets != -100).any()):
        raise ValueError("no token of the batch is trained on: all labels are -100.")
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=-100)


class ReportLoss(nn.Module):
    """Causal language-model loss plus finding supervision of the vision tower where truth is there.

    Per patch (from lesion masks) the focal loss of RetinaNet (https://arxiv.org/abs/1708.02002): negative patches are
    summed and divided by the number of positive ones; positive patches are averaged over each finding first, so that a
    nodule in one patch counts as much as an effusion in fifty; patches that a finding only grazes don't count; per
    volume (from finding labels) the mean binary cross-entropy of the largest logit over its patches, and over its
    selected tokens.

    Args:
        patch_weight: weight of the patch term; needs `patch_findings (B, T, N, F)` in the targets where above 0.
        volume_weight: weight of the volume term; needs `findings (B, F)` in the targets where above 0.
        gamma: exponent of the focal loss.
        alpha: weight of positive patches in the focal loss.
    """

    def __init__(
        self, patch_weight: float = 0.0, volume_weight: float = 0.0, gamma: float = 2.0, alpha: float = 0.25
    ) -> None:
        super().__init__()
        self.patch_weight = patch_weight
        self.volume_weight = volume_weight
        # summed by hand: for inputs without spatial axes, reduction="sum" gives the mean
        self.focal = FocalLoss(include_background=True, gamma=gamma, alpha=alpha, reduction="none")

    def forward(self, output: U2LLMOutput, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        Args:
            output: the network's output, with finding logits where a weight is above 0.
            targets: `labels (R, L)`, `slab_mask (B, T)`, and the truth that the weights ask for.

        Returns:
            Scalar.

        Raises:
            ValueError: when a weight asks for what the network or the targets lack.
        """
        loss = causal_lm_loss(output.logits, targets["labels"])
        if not (self.patch_weight or self.volume_weight):
            return loss
        if output.finding_logits is None:
            raise ValueError("finding supervision needs a network with num_findings above 0; set both weights to 0.")
        for weight, key in ((self.patch_weight, "patch_findings"), (self.volume_weight, "findings")):
            if weight and key not in targets:
                raise ValueError(
                    f"finding supervision with weight {weight} needs {key!r} in the batch; set the weight to 0."
                )
        if self.patch_weight:
            loss = loss + self.patch_weight * self._patch_loss(
                output.finding_logits.float(), targets["patch_findings"], targets["slab_mask"]
            )
        if self.volume_weight:
            of_patches = volume_finding_logits(output.finding_logits.float(), targets["slab_mask"])
            of_selected = output.selected_finding_logits.float().amax(dim=1)
            for logits in (of_patches, of_selected):
                loss = loss + self.volume_weight * F.binary_cross_entropy_with_logits(logits, targets["findings"])
        return loss

    def _patch_loss(self, logits: torch.Tensor, truth: torch.Tensor, slab_mask: torch.Tensor) -> torch.Tensor:
        positive = (truth == 1) & slab_mask[:, :, None, None]
        negative = (truth == 0) & slab_mask[:, :, None, None]
        target = positive.to(logits.dtype)
        focal = self.focal(logits.flatten(0, 2), target.flatten(0, 2)).view_as(logits)
        patches = positive.sum(dim=(1, 2))  # (B, F) positive patches of each finding
        present = (patches > 0).sum().clamp(min=1)
        positive_loss = ((focal * positive).sum(dim=(1, 2)) / patches.clamp(min=1)).sum() / present
        return positive_loss + (focal * negative).sum() / patches.sum().clamp(min=1)
