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

"""The U2Tokenizer: thousands of visual tokens condensed into a few hundred under the guidance of the question."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from transformers.modeling_layers import GradientCheckpointingLayer

from monai_u2.networks.attention import FeedForward, MultiHeadAttention, RelativePositionBias, checked_option
from monai_u2.networks.token_masks import SlabPlaces, checked_slab_mask, checked_text_mask
from monai_u2.networks.token_selection import DynamicMultiScalePooling

POSITIONS = ("relative_3d", "relative", "rotary", None)
SELECTIONS = ("soft", "topk")
POOLINGS = ("dynamic", "multi", None)


class RefinerBlock(GradientCheckpointingLayer):
    """Pre-norm residual block: attention within each slab, attention over slabs at each grid place, feed-forward.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of attention heads.
        position: see :class:`U2Tokenizer`.
    """

    def __init__(self, hidden_size: int, num_heads: int, position: str | None = "relative_3d") -> None:
        super().__init__()
        relative, rotary = position in ("relative_3d", "relative"), position == "rotary"
        self.slab_axes = 3 if position == "relative_3d" else 1
        self.slab_norm = nn.LayerNorm(hidden_size)
        self.slab_attention = MultiHeadAttention(hidden_size, num_heads, rotary=rotary)
        self.slab_position = RelativePositionBias(num_heads, self.slab_axes) if relative else None
        self.depth_norm = nn.LayerNorm(hidden_size)
        self.depth_attention = MultiHeadAttention(hidden_size, num_heads, rotary=rotary)
        self.depth_position = RelativePositionBias(num_heads, num_axes=1) if relative else None
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = FeedForward(hidden_size)

    def forward(self, x: torch.Tensor, grid: Sequence[int], places: SlabPlaces) -> torch.Tensor:
        """
        Args:
            x: tokens of the slabs that are there `(M, N, C)`.
            grid: token grid of one slab, `N = prod(grid)`.
            places: which slabs they are.

        Returns:
            `(M, N, C)`.
        """
        (batch, slabs), tokens = places.mask.shape, x.shape[1]
        bias = None
        if self.slab_position is not None:
            bias = self.slab_position(grid if self.slab_axes == 3 else (tokens,))
        x = x + self.slab_attention(self.slab_norm(x), bias=bias)
        # projected before it is spread over all places: what isn't there costs no product
        query, key, value = (
            places.spread(part).transpose(1, 2).flatten(0, 1)
            for part in self.depth_attention.project(self.depth_norm(x))
        )
        bias = None if self.depth_position is None else self.depth_position((slabs,))
        key_mask = places.mask.repeat_interleave(tokens, dim=0)
        across = self.depth_attention.attend(query, key, value, key_mask, bias)
        x = x + self.depth_attention.out(places.gather(across.unflatten(0, (batch, tokens)).transpose(1, 2)))
        return x + self.mlp(self.mlp_norm(x))


class AggregatorBlock(GradientCheckpointingLayer):
    """Pre-norm residual block of the query tokens: self-attention, the question's tokens, visual tokens, feed-forward.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of attention heads.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(hidden_size)
        self.self_attention = MultiHeadAttention(hidden_size, num_heads)
        self.text_norm = nn.LayerNorm(hidden_size)
        self.text_attention = MultiHeadAttention(hidden_size, num_heads)
        self.visual_norm = nn.LayerNorm(hidden_size)
        self.visual_attention = MultiHeadAttention(hidden_size, num_heads)
        self.mlp_norm = nn.LayerNorm(hidden_size)
        self.mlp = FeedForward(hidden_size)

    def forward(
        self, queries: torch.Tensor, visual: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            queries: `(B, Q, C)`.
            visual: selected visual tokens `(B, V, C)`.
            text: the question's tokens `(B, L, C)`.
            text_mask: boolean `(B, L)`.

        Returns:
            `(B, Q, C)`.
        """
        queries = queries + self.self_attention(self.self_norm(queries))
        queries = queries + self.text_attention(self.text_norm(queries), context=text, key_mask=text_mask)
        queries = queries + self.visual_attention(self.visual_norm(queries), context=visual)
        return queries + self.mlp(self.mlp_norm(queries))


class U2Tokenizer(nn.Module):
    """Visual tokens of all slabs to `num_queries` tokens for the language model, guided by the question.

    The stages are those of μ²Tokenizer (https://arxiv.org/abs/2507.00316): spatio-temporal refinement, differentiable
    token selection, dynamic multi-scale pooling, text-conditioned aggregation. This configuration is trainable from
    scratch: all
    blocks are residual and pre-normalised, queries and keys are normalised, padded slabs and question tokens are
    masked, and the grid itself is pooled.

    Args:
        hidden_size: width of the language model's embeddings.
        num_heads: number of attention heads.
        num_layers: number of refiner blocks.
        num_aggregator_layers: number of aggregator blocks; `num_layers` when None.
        num_selected: number of tokens selected at scale 1.
        num_queries: number of output tokens Q.
        scales: edge lengths of the pooling windows on the token grid.
        position: relative positions in the refiner's attention: `"relative_3d"` (along depth, rows and columns of the
            slab's grid), `"relative"` (in raster order, as published), `"rotary"` (likewise), or None for none but the
            slab's place in the volume.
        selection: `"soft"` (DTS) or `"topk"`.
        pooling: `"dynamic"` (DMTP), `"multi"` (its scales without the gate) or None (scale 1 alone).

    Raises:
        ValueError: for an unknown option, or a `hidden_size` that is not divisible by `num_heads`.

    Example:
        >>> tokenizer = U2Tokenizer(hidden_size=64, num_heads=4, num_layers=1, num_selected=16, num_queries=8)
        >>> tokens = tokenizer(torch.randn(1, 3, 24, 64), torch.randn(1, 5, 64), grid=(2, 3, 4))
        >>> tokens.shape
        torch.Size([1, 8, 64])
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 8,
        num_layers: int = 2,
        num_aggregator_layers: int | None = None,
        num_selected: int = 1024,
        num_queries: int = 256,
        scales: Sequence[int] = (1, 2, 4),
        position: str | None = "relative_3d",
        selection: str = "soft",
        pooling: str | None = "dynamic",
    ) -> None:
        super().__init__()
        checked_option("position", position, POSITIONS)
        checked_option("selection", selection, SELECTIONS)
        checked_option("pooling", pooling, POOLINGS)
        if min(num_selected, num_queries) < 1:
            raise ValueError(f"num_selected {num_selected} and num_queries {num_queries} must be at least 1.")
        self.num_queries = num_queries
        self.slab_embedding = nn.Linear(8, hidden_size, bias=False)
        self.refiner = nn.ModuleList(RefinerBlock(hidden_size, num_heads, position) for _ in range(num_layers))
        scales = (1,) if pooling is None else scales
        self.pooling = DynamicMultiScalePooling(hidden_size, num_selected, scales, selection, pooling == "dynamic")
        self.text_norm = nn.LayerNorm(hidden_size)
        # the sink gives the cross-attention something to attend to where there is no question
        self.text_sink = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.query_tokens = nn.Parameter(torch.randn(1, num_queries, hidden_size))
        num_aggregator_layers = num_layers if num_aggregator_layers is None else num_aggregator_layers
        self.aggregator = nn.ModuleList(AggregatorBlock(hidden_size, num_heads) for _ in range(num_aggregator_layers))
        self.output_norm = nn.LayerNorm(hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def condense(
        self, tokens: torch.Tensor, grid: Sequence[int], slab_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Refine and select visual tokens; doesn't depend on the question.

        Args:
            tokens: `(B, T, N, C)`.
            grid: token grid of one slab `(d, h, w)`, `N = d h w`.
            slab_mask: boolean `(B, T)`, True where a slab is there; all slabs when None.

        Returns:
            Selected tokens `(B, V, C)`.

        Raises:
            ValueError: when grid and tokens, or mask and tokens, don't fit, or a volume has no valid slab.
        """
        slab_mask = checked_slab_mask(tokens, grid, slab_mask)
        # position of each slab over the whole volume: sine and cosine at wavelengths of 4, 8, 16 and 32 slabs
        wavelengths = 2.0 ** torch.arange(2, 6, device=tokens.device)
        phase = 2 * torch.pi * torch.arange(tokens.shape[1], device=tokens.device)[:, None] / wavelengths
        position = torch.cat([phase.sin(), phase.cos()], dim=1).to(tokens.dtype)
        places = SlabPlaces(slab_mask)
        x = places.gather(tokens + self.slab_embedding(position)[None, :, None])
        for block in self.refiner:
            x = block(x, grid, places)
        return self.pooling(places.spread(x), grid, slab_mask)

    def aggregate(
        self, visual: torch.Tensor, text: torch.Tensor | None = None, text_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Gather selected visual tokens into the queries under the guidance of the question.

        Args:
            visual: `(B, V, C)`, from :meth:`condense`.
            text: the question's embedded tokens `(B, L, C)`, or None for no question.
            text_mask: boolean `(B, L)`, True where a question token is there; all of them when None.

        Returns:
            `(B, Q, C)`.

        Raises:
            ValueError: when mask and text don't fit, or a question has no token.
        """
        batch = visual.shape[0]
        context = self.text_sink.expand(batch, -1, -1)
        context_mask = torch.ones(batch, 1, dtype=torch.bool, device=visual.device)
        if text is not None:
            text_mask = checked_text_mask(text, text_mask)
            context = torch.cat([context, self.text_norm(text)], dim=1)
            context_mask = torch.cat([context_mask, text_mask], dim=1)
        queries = self.query_tokens.expand(batch, -1, -1)
        for block in self.aggregator:
            queries = block(queries, visual, context, context_mask)
        return self.output(self.output_norm(queries))

    def forward(
        self,
        tokens: torch.Tensor,
        text: torch.Tensor | None,
        grid: Sequence[int],
        slab_mask: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """:meth:`condense`, then :meth:`aggregate`: `(B, T, N, C)` and `(B, L, C)` to `(B, Q, C)`."""
        return self.aggregate(self.condense(tokens, grid, slab_mask), text, text_mask)
