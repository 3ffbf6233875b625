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

"""Attention with masks and relative positions, on PyTorch's fused scaled dot-product attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F


def checked_option(name: str, value: Any, known: Sequence[Any]) -> Any:
    """The value, where it is one of those known.

    Raises:
        ValueError: where it isn't.
    """
    if value not in known:
        raise ValueError(f"{name} {value!r} must be one of {', '.join(repr(option) for option in known)}.")
    return value


class MultiHeadAttention(nn.Module):
    """Multi-head attention with optional QK-normalisation, key mask and additive bias.

    QK-normalisation (Henry et al., "Query-Key Normalization for Transformers", https://arxiv.org/abs/2010.04245)
    keeps the logits' scale independent of the tokens' norm; each head learns its own temperature.

    Args:
        hidden_size: width of queries, keys, values and output.
        num_heads: number of heads; must divide `hidden_size`.
        qk_norm: whether queries and keys are normalised per head.
        rotary: whether queries and keys are rotated by their place in the sequence, see :func:`rotate`.

    Raises:
        ValueError: when `hidden_size` is not divisible by `num_heads`, or a head's width is odd and to be rotated.
    """

    def __init__(self, hidden_size: int, num_heads: int, *, qk_norm: bool = True, rotary: bool = False) -> None:
        super().__init__()
        if hidden_size % num_heads != 0:
            raise ValueError(f"hidden_size {hidden_size} must be divisible by num_heads {num_heads}.")
        if rotary and (hidden_size // num_heads) % 2:
            raise ValueError(f"rotary positions need heads of even width; {hidden_size} / {num_heads} is odd.")
        self.rotary = rotary
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.query_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()

    def project(
        self, x: torch.Tensor, context: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries of `x` `(..., Lq, C)`, keys and values of `context` `(..., Lk, C)` (`x` itself when None), each
        `(..., L, num_heads, C / num_heads)`."""
        context = x if context is None else context
        heads = (self.num_heads, self.head_dim)
        query = self.query_norm(self.query(x).unflatten(-1, heads))
        return query, self.key_norm(self.key(context).unflatten(-1, heads)), self.value(context).unflatten(-1, heads)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_mask: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What :meth:`project` gives, `(B, L, num_heads, C / num_heads)`, to `(B, Lq, C)`, before the output layer; see
        :meth:`forward`."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        if self.rotary:
            query, key = rotate(query), rotate(key)
        mask = None if bias is None else bias.to(query.dtype)[None]
        if key_mask is not None:
            mask = (
                key_mask[:, None, None, :]
                if mask is None
                else mask.masked_fill(~key_mask[:, None, None, :], -torch.inf)
            )
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        key_mask: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            x: queries `(B, Lq, C)`.
            context: keys and values `(B, Lk, C)`; `x` itself when None.
            key_mask: boolean `(B, Lk)`, True where a key is valid; each row needs at least one valid key.
            bias: added to the logits, `(num_heads, Lq, Lk)`.

        Returns:
            `(B, Lq, C)`.
        """
        return self.out(self.attend(*self.project(x, context), key_mask, bias))


class RelativePositionBias(nn.Module):
    """Relative position bias over a grid, factorised over its axes: `b(Δ) = Σ_axis f_axis(Δ_axis)`.

    Each `f_axis` is a small network of the signed logarithm of the offset (the log-spaced continuous bias of Swin
    Transformer
    V2, https://arxiv.org/abs/2111.09883), so that no table limits the grid's size and unseen sizes extrapolate.

    Args:
        num_heads: number of attention heads.
        num_axes: number of the grid's axes.
        hidden_size: width of each small network.
    """

    def __init__(self, num_heads: int, num_axes: int, hidden_size: int = 16) -> None:
        super().__init__()
        self.axes = nn.ModuleList(
            nn.Sequential(nn.Linear(1, hidden_size), nn.GELU(), nn.Linear(hidden_size, num_heads, bias=False))
            for _ in range(num_axes)
        )

    def forward(self, grid: Sequence[int]) -> torch.Tensor:
        """
        Args:
            grid: the number of tokens along each axis.

        Returns:
            `(num_heads, N, N)` for the `N = prod(grid)` tokens in raster order (last axis fastest).

        Raises:
            ValueError: when `grid` has another number of axes.
        """
        if len(grid) != len(self.axes):
            raise ValueError(f"grid {tuple(grid)} must have {len(self.axes)} axes.")
        num_tokens = 1
        for size in grid:
            num_tokens *= size
        parameter = self.axes[0][0].weight
        index = torch.arange(num_tokens, device=parameter.device)
        bias = parameter.new_zeros(())
        stride = num_tokens
        for size, network in zip(grid, self.axes):
            stride //= size
            offset = torch.arange(1 - size, size, device=parameter.device, dtype=parameter.dtype)
            table = network((offset.sign() * torch.log2(1 + offset.abs()))[:, None])  # (2 size - 1, num_heads)
            coordinate = (index // stride) % size
            bias = bias + table[coordinate[:, None] - coordinate[None, :] + size - 1]
        return bias.permute(2, 0, 1)


def rotate(x: torch.Tensor, base: float = 10000.0) -> torch.Tensor:
    """Rotate queries or keys by their place in the sequence (Su et al., "RoFormer", https://arxiv.org/abs/2104.09864).

    Coordinate i is paired with i + d / 2, as in GPT-NeoX and Llama; any length is served.

    Args:
        x: `(..., L, d)`, d even.
        base: base of the wavelengths.

    Returns:
        `(..., L, d)`.

    Raises:
        ValueError: when d is odd.
    """
    length, width = x.shape[-2:]
    if width % 2:
        raise ValueError(f"rotary positions need heads of even width; got {width}.")
    frequency = base ** (-torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    angle = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class FeedForward(nn.Sequential):
    """Two linear layers with GELU in between.

    Args:
        hidden_size: width of input and output.
        mlp_ratio: width of the layer between, relative to `hidden_size`.
    """

    def __init__(self, hidden_size: int, mlp_ratio: float = 4.0) -> None:
        mlp_dim = int(hidden_size * mlp_ratio)
        super().__init__(nn.Linear(hidden_size, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, hidden_size))
