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

"""Vision pre-training: image–report contrast, with finding supervision as a second term."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F

from monai_u2.losses.findings import FindingLoss
from monai_u2.networks.clip3d import CLIP3DOutput


def image_report_contrast(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy of matching images and reports of a batch (CLIP, https://arxiv.org/abs/2103.00020).

    Args:
        image: normalized image embeddings `(B, E)`.
        text: normalized report embeddings `(B, E)`.
        scale: factor of the cosine similarities, a scalar.

    Returns:
        Scalar.
    """
    similarity = scale * image.float() @ text.float().t()
    target = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.t(), target)) / 2


class VisionPretrainingLoss(nn.Module):
    """Weighted sum of image–report contrast and finding supervision.

    Args:
        findings: finding supervision, see :class:`FindingLoss`; None where the data has no labels.
        contrast_weight: weight of the contrast.

    Raises:
        ValueError: when neither term has a weight.
    """

    def __init__(self, findings: FindingLoss | None = None, contrast_weight: float = 1.0) -> None:
        super().__init__()
        self.findings = findings if findings is not None and findings.active else None
        self.contrast_weight = contrast_weight
        if contrast_weight < 0 or not (contrast_weight or self.findings):
            raise ValueError(
                f"contrast_weight is {contrast_weight} and no finding is supervised: expected a weight above 0."
            )

    def forward(self, output: CLIP3DOutput, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """
        Args:
            output: the network's output.
            targets: `slab_mask (B, T)`, and the truth that the finding supervision asks for.

        Returns:
            Scalar.
        """
        loss = output.image_embeds.new_zeros((), dtype=torch.float32)
        if self.contrast_weight:
            contrast = image_report_contrast(output.image_embeds, output.text_embeds, output.logit_scale)
            loss = loss + self.contrast_weight * contrast
        if self.findings is not None:
            loss = loss + self.findings(output.finding_logits, targets)
        return loss
