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

"""Attention of the published μ²Tokenizer."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import initialization as init

from monai_u2.networks.attention import checked_option, rotate

POSITIONS = ("relative", "rotary", None)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    num_heads: int,
    bias: torch.Tensor | None = None,
    rotary: bool = False,
    axis: int = -2,
) -> torch.Tensor:
    """`softmax(q k^T / sqrt(d) + bias) v` along one axis, for each head.

    Args:
        query: `(..., C)`.
        key: `(..., C)`.
        value: `(..., C)`.
        num_heads: number of heads.
        bias: added to the logits, `(num_heads, Lq, Lk)`.
        rotary: whether queries and keys are rotated by their place along the axis.
        axis: the axis of the tokens; tokens at other places of the axes before the last don't see each other.

    Returns:
        `(..., C)`, the shape of `query`, heads concatenated.
    """
    axis %= query.dim()
    moved = query.movedim(axis, -2).shape[:-2]

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.movedim(axis, -2).flatten(0, -3).unflatten(-1, (num_heads, -1)).transpose(1, 2)

    query, key, value = split(query), split(key), split(value)
    if rotary:
        query, key = rotate(query), rotate(key)
    # of four axes: with three PyTorch wouldn't take its fused kernel
    bias = None if bias is None else bias[None]
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return attended.transpose(1, 2).unflatten(0, moved).movedim(-3, axis).flatten(-2)


class PaperAttention(nn.Module):
    """Multi-head attention; positions enter by a learned bias for each offset of key and query, or by rotation.

    Args:
        hidden_size: width of queries, keys, values and output.
        num_heads: number of heads; must divide `hidden_size`.
        position: `"relative"`, `"rotary"` or None.
        max_length: longest sequence that a table of biases serves.

    Raises:
        ValueError: when `hidden_size` is not divisible by `num_heads`, a head's width is odd and to be rotated, or the
            position is unknown.
    """

    def __init__(self, hidden_size: int, num_heads: int, position: str | None = None, max_length: int = 512) -> None:
        super().__init__()
        if hidden_size % num_heads != 0:
            raise ValueError(f"hidden_size {hidden_size} must be divisible by num_heads {num_heads}.")
        self.position = checked_option("position", position, POSITIONS)
        if position == "rotary" and (hidden_size // num_heads) % 2:
            raise ValueError(f"rotary positions need heads of even width; {hidden_size} / {num_heads} is odd.")
        self.num_heads = num_heads
        self.max_length = max_length
        self.wq = nn.Linear(hidden_size, hidden_size)
        self.wk = nn.Linear(hidden_size, hidden_size)
        self.wv = nn.Linear(hidden_size, hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        if position == "relative":
            self.relative_bias = nn.Parameter(torch.zeros(2 * max_length - 1, num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier uniform weights, all biases zero, as published."""
        for linear in (self.wq, self.wk, self.wv, self.dense):
            init.xavier_uniform_(linear.weight)
            init.zeros_(linear.bias)
        if self.position == "relative":
            init.zeros_(self.relative_bias)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, axis: int = -2) -> torch.Tensor:
        """Attention of projected queries to keys and values `(..., C)` along an axis, before `dense`.

        Returns:
            `(..., C)`, heads concatenated.

        Raises:
            ValueError: when the sequence is longer than the table of biases.
        """
        bias = None
        if self.position == "relative":
            length = query.shape[axis]
            if length > self.max_length:
                raise ValueError(
                    f"sequence of {length} tokens is longer than max_length {self.max_length}; pool the tokens "
                    f"further, or raise max_length."
                )
            index = torch.arange(length, device=query.device)
            offset = index[None, :] - index[:, None] + self.max_length - 1
            bias = self.relative_bias[offset].permute(2, 0, 1).to(query.dtype)
        return attend(query, key, value, self.num_heads, bias, rotary=self.position == "rotary", axis=axis)

    def forward(self, x: torch.Tensor, axis: int = -2) -> torch.Tensor:
        """Self-attention along an axis, `(..., C)` to `(..., C)`.

        Raises:
            ValueError: see :meth:`attend`.
        """
        return self.dense(self.attend(self.wq(x), self.wk(x), self.wv(x), axis).contiguous())


class SequenceFirstAttention(nn.MultiheadAttention):
    """What the published code does without positions: PyTorch's attention over the *first* axis, which is the batch.

    Tokens of different slabs, and in the self-attention of the queries different volumes of a batch, attend to each
    other; the output of one volume depends on the others.

    Args:
        hidden_size: width of queries, keys, values and output.
        num_heads: number of heads; must divide `hidden_size`.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__(hidden_size, num_heads)

    def reset_parameters(self) -> None:
        """Xavier uniform on the joint projection, biases zero, PyTorch's default for the output, as published."""
        init.xavier_uniform_(self.in_proj_weight)
        init.zeros_(self.in_proj_bias)
        init.kaiming_uniform_(self.out_proj.weight, a=5**0.5)
        init.zeros_(self.out_proj.bias)

    def forward(self, x: torch.Tensor, axis: int = -2) -> torch.Tensor:
        """Self-attention over all axes but the last and the given one, `(..., C)` to `(..., C)`."""
        moved = x.movedim(axis, -2)
        x = moved.flatten(0, -3).contiguous()
        return super().forward(x, x, x, need_weights=False)[0].reshape(moved.shape).movedim(-2, axis)


def self_attention(hidden_size: int, num_heads: int, position: str | None, max_length: int) -> nn.Module:
    if position is None:
        return SequenceFirstAttention(hidden_size, num_heads)
    return PaperAttention(hidden_size, num_heads, position, max_length)
