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

"""The 3-D vision transformer that reads one slab of a CT volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from monai.networks.blocks import PatchEmbeddingBlock, TransformerBlock


class ViT3D(nn.Module):
    """MONAI's vision transformer in the layout of M3D-CLIP: patch tokens and a class token in, patch tokens out.

    Patches are embedded by a linear layer, tokens are in raster order of the patch grid (depth, rows, columns);
    blocks are
    pre-norm with a query-key-value layer without bias. Source: Bai et al., "M3D", https://arxiv.org/abs/2404.00578.

    Args:
        image_size: size of one slab `(D, H, W)` in voxels.
        patch_size: size of one patch in voxels; must divide `image_size`.
        hidden_size: width of the tokens.
        mlp_dim: width of the feed-forward layers.
        num_layers: number of transformer blocks.
        num_heads: number of attention heads.

    Raises:
        ValueError: when `image_size` is not divisible by `patch_size`.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (32, 256, 256),
        patch_size: Sequence[int] = (4, 16, 16),
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_layers: int = 12,
        num_heads: int = 12,
    ) -> None:
        super().__init__()
        for name, image, patch in zip(("depth", "height", "width"), image_size, patch_size):
            if image % patch != 0:
                raise ValueError(
                    f"image_size {tuple(image_size)} must be divisible by patch_size {tuple(patch_size)}: "
                    f"{name} {image} % {patch} = {image % patch}."
                )
        self.image_size = tuple(image_size)
        self.grid = tuple(image // patch for image, patch in zip(image_size, patch_size))
        self.patch_embedding = PatchEmbeddingBlock(
            in_channels=1,
            img_size=tuple(image_size),
            patch_size=tuple(patch_size),
            hidden_size=hidden_size,
            num_heads=num_heads,
            proj_type="perceptron",
            pos_embed_type="learnable",
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.blocks = nn.ModuleList(
            TransformerBlock(hidden_size, mlp_dim, num_heads, use_flash_attention=True) for _ in range(num_layers)
        )
        for block in self.blocks:
            del block.norm_cross_attn  # never used without cross-attention; an unused parameter makes DDP fail
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """
        Args:
            image: slabs `(M, 1, D, H, W)`, intensities in [0, 1].

        Returns:
            Patch tokens `(M, N, C)`, `N = prod(grid)`, normalised, without the class token.

        Raises:
            ValueError: when the slabs' size isn't `image_size`.
        """
        if tuple(image.shape[2:]) != self.image_size:
            raise ValueError(f"slab size {tuple(image.shape[2:])} must be image_size {self.image_size}.")
        tokens = self.patch_embedding(image)
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1:]
