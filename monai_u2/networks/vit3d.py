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

from collections.abc import Mapping, Sequence

import torch
import torch.nn as nn
from monai.networks.blocks import Convolution, PatchEmbeddingBlock, TransformerBlock
from transformers.modeling_layers import GradientCheckpointingLayer


class ConvolutionalStem(nn.Sequential):
    """Patch embedding by strided convolutions instead of one linear layer per patch.

    Small findings at any place of a patch are learned from far fewer volumes. Batch normalization, unlike normalization
    of each volume or place, keeps absolute intensities (HU). Source: Xiao et al., "Early Convolutions Help Transformers
    See Better", https://arxiv.org/abs/2106.14881.

    Args:
        patch_size: size of one patch in voxels, a power of two along each axis.
        channels: channels after each stage but the last; each stage halves the axes that are not yet at patch size.
        hidden_size: width of the tokens.
        windows: intensity ranges `(low, high)` in which the volume is seen, one input channel each, as a radiologist
            looks at a CT in a lung, a soft-tissue and a bone window; None for the range 0 to 1 alone.

    Raises:
        ValueError: when `patch_size` isn't made of powers of two, `channels` doesn't have one entry for each stage but
            the last, or a window isn't `low < high`.
    """

    def __init__(
        self,
        patch_size: Sequence[int],
        channels: Sequence[int],
        hidden_size: int,
        windows: Sequence[Sequence[float]] | None = None,
    ) -> None:
        stages = max(patch_size).bit_length() - 1
        if any(size & (size - 1) for size in patch_size) or len(channels) != stages - 1:
            raise ValueError(
                f"a convolutional stem for patch_size {tuple(patch_size)} needs powers of two and {stages - 1} "
                f"stem_channels; got {tuple(channels)}."
            )
        windowing = IntensityWindows([(0.0, 1.0)] if windows is None else windows)
        widths = [len(windowing.windows), *channels, hidden_size]
        layers = [
            Convolution(
                spatial_dims=3,
                in_channels=widths[stage],
                out_channels=widths[stage + 1],
                strides=tuple(2 if size >> stage > 1 else 1 for size in patch_size),
                kernel_size=3,
                act="GELU",
                norm="BATCH",
                adn_ordering="NA",
                bias=False,
            )
            for stage in range(stages)
        ]
        super().__init__(windowing, *layers, nn.Flatten(2), _Transpose(), nn.Linear(hidden_size, hidden_size))


class IntensityWindows(nn.Module):
    """One channel to one channel per intensity window, each clipped and scaled to [-1, 1].

    Args:
        windows: `(low, high)` of each window, in the intensities of the input.

    Raises:
        ValueError: when a window isn't `low < high`.
    """

    def __init__(self, windows: Sequence[Sequence[float]]) -> None:
        super().__init__()
        for window in windows:
            if len(window) != 2 or not window[0] < window[1]:
                raise ValueError(f"intensity window {tuple(window)} must be (low, high) with low < high.")
        self.windows = tuple((float(low), float(high)) for low, high in windows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(M, 1, D, H, W)` to `(M, windows, D, H, W)`."""
        return torch.cat([2 * ((x - low) / (high - low)).clamp(0, 1) - 1 for low, high in self.windows], dim=1)


def relative_windows(windows: Mapping[str, Sequence[float]], full_range: Sequence[float]) -> list[tuple[float, float]]:
    """HU windows as intensities, 0 and 1 being the ends of the range to which HU are scaled.

    Args:
        windows: name -> `(low, high)` in HU.
        full_range: `(low, high)` in HU.

    Raises:
        ValueError: when a window reaches out of the range.

    Example:
        >>> relative_windows({"lung": (-1000, 0)}, (-1000, 1000))
        [(0.0, 0.5)]
    """
    start, end = full_range
    for name, (low, high) in windows.items():
        if not start <= low < high <= end:
            raise ValueError(f"{name} window {low} to {high} HU must lie in the range {start} to {end} HU.")
    return [((low - start) / (end - start), (high - start) / (end - start)) for low, high in windows.values()]


class _Transpose(nn.Module):
    """`(M, C, N)` to `(M, N, C)`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


class VisionBlock(GradientCheckpointingLayer, TransformerBlock):
    """MONAI's transformer block, whose activations can be computed again instead of held."""


class ViT3D(nn.Module):
    """MONAI's vision transformer in the layout of M3D-CLIP: patch tokens and a class token in, patch tokens out.

    Patches are embedded by a linear layer, tokens are in raster order of the patch grid (depth, rows, columns); blocks
    are pre-norm with a query-key-value layer without bias. Source: Bai et al., "M3D", https://arxiv.org/abs/2404.00578.

    Args:
        image_size: size of one slab `(D, H, W)` in voxels.
        patch_size: size of one patch in voxels; must divide `image_size`.
        hidden_size: width of the tokens.
        mlp_dim: width of the feed-forward layers.
        num_layers: number of transformer blocks.
        num_heads: number of attention heads.
        stem_channels: channels of a convolutional stem, see :class:`ConvolutionalStem`; None embeds patches linearly.
        stem_windows: intensity windows of that stem; None for one, 0 to 1.

    Raises:
        ValueError: when `image_size` is not divisible by `patch_size`, the stem can't make such patches, or windows are
            given without a stem.
    """

    def __init__(
        self,
        image_size: Sequence[int] = (32, 256, 256),
        patch_size: Sequence[int] = (4, 16, 16),
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_layers: int = 12,
        num_heads: int = 12,
        stem_channels: Sequence[int] | None = None,
        stem_windows: Sequence[Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        for name, image, patch in zip(("depth", "height", "width"), image_size, patch_size):
            if image % patch != 0:
                raise ValueError(
                    f"image_size {tuple(image_size)} must be divisible by patch_size {tuple(patch_size)}: "
                    f"{name} {image} % {patch} = {image % patch}."
                )
        if stem_windows is not None and stem_channels is None:
            raise ValueError("stem_windows need a convolutional stem: give stem_channels too.")
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
        if stem_channels is not None:
            self.patch_embedding.patch_embeddings = ConvolutionalStem(
                patch_size, stem_channels, hidden_size, stem_windows
            )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.blocks = nn.ModuleList(
            VisionBlock(hidden_size, mlp_dim, num_heads, use_flash_attention=True) for _ in range(num_layers)
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
