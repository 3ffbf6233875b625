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

"""Vision tower and text tower side by side: image–report contrast in the manner of M3D-CLIP."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel
from transformers.modeling_outputs import ModelOutput

from monai_u2.networks.finding_head import FindingHead
from monai_u2.networks.vit3d import ViT3D

LARGEST_LOGIT_SCALE = math.log(100.0)


@dataclass
class CLIP3DOutput(ModelOutput):
    """Output of :class:`CLIP3D`.

    Attributes:
        image_embeds: normalized `(B, E)`.
        text_embeds: normalized `(B, E)`, None without reports.
        logit_scale: factor of the cosine similarities.
        finding_logits: `(B, T, N, F)`, None without a finding head.
    """

    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    finding_logits: torch.Tensor | None = None


class CLIP3D(nn.Module):
    """Contrastive pre-training of a :class:`ViT3D` on volumes and their reports.

    The volume's embedding is a linear layer on the mean and the maximum of its patch tokens over all slabs; the
    report's is a linear layer on the mean of its text tokens. Sources: CLIP (https://arxiv.org/abs/2103.00020) and
    M3D-CLIP (https://arxiv.org/abs/2404.00578).

    Args:
        vision: arguments of :class:`ViT3D`.
        text_config: configuration of a Hugging Face text encoder, a dict with `model_type`.
        embedding_size: width of the shared embedding E.
        num_findings: number of findings F of a head on the patch tokens; 0 for no head.
    """

    def __init__(
        self,
        vision: Mapping[str, Any],
        text_config: Mapping[str, Any],
        embedding_size: int = 512,
        num_findings: int = 0,
    ) -> None:
        super().__init__()
        self.vision_tower = ViT3D(**vision)
        vision_size = self.vision_tower.norm.normalized_shape[0]
        config = AutoConfig.for_model(**text_config)
        self.text_tower = AutoModel.from_config(config)
        if getattr(self.text_tower, "pooler", None) is not None:
            self.text_tower.pooler = None  # tokens are averaged; an unused parameter makes DDP fail
        self.image_projection = nn.Linear(2 * vision_size, embedding_size, bias=False)
        self.text_projection = nn.Linear(config.hidden_size, embedding_size, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.finding_head = FindingHead(vision_size, num_findings) if num_findings else None

    def forward(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        slab_mask: torch.Tensor | None = None,
    ) -> CLIP3DOutput:
        """
        Args:
            image: `(B, T, D, H, W)`, T slabs as channels, intensities in [0, 1].
            input_ids: the reports' token ids `(B, L)`.
            attention_mask: `(B, L)`.
            slab_mask: boolean `(B, T)`, True where a slab is there; all slabs when None.

        Returns:
            :class:`CLIP3DOutput`.
        """
        batch, slabs = image.shape[:2]
        if slab_mask is None:
            slab_mask = torch.ones(batch, slabs, dtype=torch.bool, device=image.device)
        patches = self.vision_tower(image[slab_mask][:, None])
        padded = patches.new_zeros(batch, slabs, *patches.shape[1:])
        padded[slab_mask] = patches
        valid = slab_mask[:, :, None, None]
        mean = padded.sum(dim=(1, 2)) / (slab_mask.sum(dim=1, keepdim=True) * patches.shape[1])
        largest = padded.masked_fill(~valid, -torch.inf).amax(dim=(1, 2))
        output = CLIP3DOutput(
            image_embeds=F.normalize(self.image_projection(torch.cat([mean, largest], dim=1)).float(), dim=1),
            logit_scale=self.logit_scale.clamp(max=LARGEST_LOGIT_SCALE).exp(),
        )
        if input_ids is not None:
            text = self.text_tower(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weight = attention_mask[..., None].to(text.dtype)
            text = (text * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
            output.text_embeds = F.normalize(self.text_projection(text).float(), dim=1)
        if self.finding_head is not None:
            output.finding_logits = self.finding_head(padded)
        return output
