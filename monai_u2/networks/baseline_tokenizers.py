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

"""Ways from visual tokens to image tokens that don't know the question: baselines of the U2Tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from monai_u2.networks.attention import FeedForward, MultiHeadAttention
from monai_u2.networks.token_masks import checked_slab_mask

# wavelengths of the sine positions: 2, 4, 8, 16 and 32 places along an axis
NUM_OCTAVES = 5


class _ImageTokens(nn.Module):
    """Interface of a U2Tokenizer for what makes its tokens before the question is known."""

    def condense(
        self, tokens: torch.Tensor, grid: Sequence[int], slab_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        raise NotImplementedError

    def aggregate(
        self, visual: torch.Tensor, text: torch.Tensor | None = None, text_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The condensed tokens `(B, Q, C)` as they are; the question is not used."""
        return visual

    def forward(
        self,
        tokens: torch.Tensor,
        text: torch.Tensor | None,
        grid: Sequence[int],
        slab_mask: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """:meth:`condense`: `(B, T, N, C)` to `(B, Q, C)`."""
        return self.condense(tokens, grid, slab_mask)


class LinearTokens(_ImageTokens):
    """Pooled visual tokens straight to the language model, as in LLaVA (https://arxiv.org/abs/2304.08485) and M3D
    (https://arxiv.org/abs/2404.00578).

    The token grid of a volume's valid slabs, stacked along the depth, is averaged over about equal boxes.

    Args:
        hidden_size: width of the language model's embeddings.
        pooled_grid: number of boxes along depth, height and width of the volume; their product is `num_queries`.

    Raises:
        ValueError: when `pooled_grid` isn't three positive numbers.
    """

    def __init__(self, hidden_size: int, pooled_grid: Sequence[int] = (4, 2, 4)) -> None:
        super().__init__()
        if len(pooled_grid) != 3 or any(size < 1 for size in pooled_grid):
            raise ValueError(f"pooled_grid {tuple(pooled_grid)} must be three positive numbers (depth, height, width).")
        self.pooled_grid = tuple(pooled_grid)
        self.num_queries = math.prod(pooled_grid)
        self.norm = nn.LayerNorm(hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def condense(
        self, tokens: torch.Tensor, grid: Sequence[int], slab_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pool the tokens of each volume.

        Args:
            tokens: `(B, T, N, C)`.
            grid: token grid of one slab `(d, h, w)`, `N = d h w`.
            slab_mask: boolean `(B, T)`, True where a slab is there; all slabs when None.

        Returns:
            `(B, Q, C)`, in raster order of `pooled_grid`.

        Raises:
            ValueError: when grid and tokens, or mask and tokens, don't fit, or a volume has no valid slab.
        """
        slab_mask = checked_slab_mask(tokens, grid, slab_mask)
        pooled = []
        for volume, mask in zip(tokens, slab_mask):  # volumes differ in their number of valid slabs
            volume = volume[mask].unflatten(1, tuple(grid)).flatten(0, 1)  # (T d, h, w, C)
            pooled.append(F.adaptive_avg_pool3d(volume.permute(3, 0, 1, 2), self.pooled_grid).flatten(1).T)
        return self.output(self.norm(torch.stack(pooled)))


class ProjectedTokens(_ImageTokens):
    """The projector's tokens as they are, slab after slab: no parameters, as the official code without its tokenizer.

    Args:
        hidden_size: not used.
        num_queries: number of tokens of all slabs of a volume, which must all be there.
    """

    def __init__(self, hidden_size: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries

    def condense(
        self, tokens: torch.Tensor, grid: Sequence[int], slab_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`(B, T, N, C)` to `(B, T N, C)`.

        Raises:
            ValueError: when `T N` isn't `num_queries`, or a slab is missing.
        """
        slab_mask = checked_slab_mask(tokens, grid, slab_mask)
        slabs, num_tokens = tokens.shape[1:3]
        if slabs * num_tokens != self.num_queries or not bool(slab_mask.all()):
            raise ValueError(
                f"the projector's tokens of {slabs} slabs, {num_tokens} each, must be {self.num_queries} "
                "(num_queries), without padded slabs; give volumes of another number of slabs, or use another "
                "tokenizer type."
            )
        return tokens.flatten(1, 2)


class ResamplerBlock(GradientCheckpointingLayer):
    """Pre-norm residual block: queries attend to the visual tokens and to each other, then feed-forward.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of attention heads.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(hidden_size)
        self.token_norm = nn.LayerNorm(hidden_size)
        self.attention = MultiHeadAttention(hidden_size, num_heads)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = FeedForward(hidden_size)

    def forward(self, queries: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: `(B, Q, C)`.
            tokens: `(B, M, C)`.
            mask: boolean `(B, M)`, True where a token is valid.

        Returns:
            `(B, Q, C)`.
        """
        normed = self.query_norm(queries)
        context = torch.cat([self.token_norm(tokens), normed], dim=1)
        key_mask = torch.cat([mask, mask.new_ones(queries.shape[:2])], dim=1)
        queries = queries + self.attention(normed, context=context, key_mask=key_mask)
        return queries + self.mlp(self.mlp_norm(queries))


class QueryResampler(_ImageTokens):
    """Learned queries that gather all visual tokens, as the Perceiver resampler of Flamingo
    (https://arxiv.org/abs/2204.14198).

    Args:
        hidden_size: width of the language model's embeddings.
        num_heads: number of attention heads.
        num_layers: number of blocks.
        num_queries: number of output tokens Q.
    """

    def __init__(self, hidden_size: int, num_heads: int = 8, num_layers: int = 4, num_queries: int = 256) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.position_embedding = nn.Linear(4 * 2 * NUM_OCTAVES, hidden_size, bias=False)
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, hidden_size))
        self.blocks = nn.ModuleList(ResamplerBlock(hidden_size, num_heads) for _ in range(num_layers))
        self.output_norm = nn.LayerNorm(hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Queries from N(0, 1)."""
        init.normal_(self.query_tokens)

    def _positions(self, sizes: Sequence[int]) -> torch.Tensor:
        """Embedded place in the grid `sizes` (slab, depth, height, width), `(prod(sizes), C)` in raster order."""
        weight = self.position_embedding.weight
        octaves = 2.0 ** torch.arange(NUM_OCTAVES, device=weight.device)
        places = torch.stack(
            torch.meshgrid(*(torch.arange(size, device=weight.device) for size in sizes), indexing="ij"), dim=-1
        )
        phase = places.flatten(0, -2)[..., None] * torch.pi / octaves
        return self.position_embedding(torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(1).to(weight.dtype))

    def condense(
        self, tokens: torch.Tensor, grid: Sequence[int], slab_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Gather the tokens of each volume.

        Args:
            tokens: `(B, T, N, C)`.
            grid: token grid of one slab `(d, h, w)`, `N = d h w`.
            slab_mask: boolean `(B, T)`, True where a slab is there; all slabs when None.

        Returns:
            `(B, Q, C)`.

        Raises:
            ValueError: when grid and tokens, or mask and tokens, don't fit, or a volume has no valid slab.
        """
        batch, slabs, num_tokens, _ = tokens.shape
        slab_mask = checked_slab_mask(tokens, grid, slab_mask)
        tokens = tokens.flatten(1, 2) + self._positions((slabs, *grid))
        mask = slab_mask.repeat_interleave(num_tokens, dim=1)
        queries = self.query_tokens.expand(batch, -1, -1)
        for block in self.blocks:
            queries = block(queries, tokens, mask)
        return self.output(self.output_norm(queries))
