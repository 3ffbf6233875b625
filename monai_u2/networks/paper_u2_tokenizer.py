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

"""The published μ²Tokenizer, exactly: the baseline that :class:`monai_u2.networks.U2Tokenizer` is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import initialization as init

# edge lengths of the published pooling windows, in selected tokens
SCALES = (1, 2, 4)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, num_heads: int, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`softmax(q k^T / sqrt(d) + bias) v` for each head, heads concatenated: `(B, Lq, C)`."""
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    bias = None if bias is None else bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


class PaperAttention(nn.Module):
    """Multi-head attention, with a learned bias for each offset of key and query where `max_relative` is given.

    Args:
        hidden_size: width of queries, keys, values and output.
        num_heads: number of heads; must divide `hidden_size`.
        max_relative: longest sequence that the table of biases serves; None for no bias.

    Raises:
        ValueError: when `hidden_size` is not divisible by `num_heads`.
    """

    def __init__(self, hidden_size: int, num_heads: int, max_relative: int | None = None) -> None:
        super().__init__()
        if hidden_size % num_heads != 0:
            raise ValueError(f"hidden_size {hidden_size} must be divisible by num_heads {num_heads}.")
        self.num_heads = num_heads
        self.max_relative = max_relative
        self.wq = nn.Linear(hidden_size, hidden_size)
        self.wk = nn.Linear(hidden_size, hidden_size)
        self.wv = nn.Linear(hidden_size, hidden_size)
        self.dense = nn.Linear(hidden_size, hidden_size)
        if max_relative is not None:
            self.relative_bias = nn.Parameter(torch.zeros(2 * max_relative - 1, num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier uniform weights, all biases zero, as published."""
        for linear in (self.wq, self.wk, self.wv, self.dense):
            init.xavier_uniform_(linear.weight)
            init.zeros_(linear.bias)
        if self.max_relative is not None:
            init.zeros_(self.relative_bias)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            x: queries `(B, Lq, C)`.
            context: keys and values `(B, Lk, C)`; `x` itself when None.

        Returns:
            `(B, Lq, C)`.

        Raises:
            ValueError: when the sequence is longer than the table of biases.
        """
        context = x if context is None else context
        bias = None
        if self.max_relative is not None:
            length = x.shape[1]
            if length > self.max_relative:
                raise ValueError(
                    f"sequence of {length} tokens is longer than max_relative {self.max_relative}; pool the tokens "
                    f"further, or raise max_relative."
                )
            index = torch.arange(length, device=x.device)
            offset = index[None, :] - index[:, None] + self.max_relative - 1
            bias = self.relative_bias[offset].permute(2, 0, 1)
        return self.dense(_attend(self.wq(x), self.wk(context), self.wv(context), self.num_heads, bias))


class SpatioTemporalAttention(nn.Module):
    """Attention over the tokens of each slab, then over the slabs at each token; neither residual nor norm.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of attention heads.
        max_relative: longest sequence, of tokens of a slab or of slabs.
    """

    def __init__(self, hidden_size: int, num_heads: int, max_relative: int) -> None:
        super().__init__()
        self.spatial_attention = PaperAttention(hidden_size, num_heads, max_relative)
        self.temporal_attention = PaperAttention(hidden_size, num_heads, max_relative)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, T, N, C)` to `(B, T, N, C)`."""
        batch, slabs, tokens, _ = x.shape
        x = self.spatial_attention(x.flatten(0, 1)).unflatten(0, (batch, slabs))
        return self.temporal_attention(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, tokens)).transpose(1, 2)


class DifferentiableTokenSelection(nn.Module):
    """DTS: each of K heads draws one token as a softmax-weighted mean of all tokens, at a temperature of 1.

    Args:
        hidden_size: width of the tokens.
        num_selected: number of selected tokens K.
    """

    def __init__(self, hidden_size: int, num_selected: int) -> None:
        super().__init__()
        self.score_net = nn.Linear(hidden_size, num_selected)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, M, C)` to `(B, K, C)`."""
        return self.score_net(x).softmax(dim=1).transpose(1, 2) @ x


class GatedMultiScalePooling(nn.Module):
    """DMTP: means of 1, 2 and 4 consecutive selected tokens (the remainder is dropped), each scale weighted by a gate.

    Args:
        hidden_size: width of the tokens.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate_fc = nn.Linear(hidden_size, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, K, C)` to `(B, V, C)`, `V = Σ_s K // s`."""
        length = x.shape[1]
        pooled = [x[:, : length // s * s].unflatten(1, (-1, s)).mean(dim=2) for s in SCALES if length >= s]
        gates = torch.cat([self.gate_fc(tokens.mean(dim=1)) for tokens in pooled], dim=1).softmax(dim=1)
        return torch.cat([tokens * gates[:, i, None, None] for i, tokens in enumerate(pooled)], dim=1)


class TextConditionedLayer(nn.Module):
    """Post-norm layer of the queries: self-attention, attention to the visual tokens, attention to the question.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of attention heads.
        max_relative: largest number of queries.
    """

    def __init__(self, hidden_size: int, num_heads: int, max_relative: int) -> None:
        super().__init__()
        self.self_attention = PaperAttention(hidden_size, num_heads, max_relative)
        self.visual_cross_attention = PaperAttention(hidden_size, num_heads)
        self.text_cross_attention = PaperAttention(hidden_size, num_heads)
        self.norm_self = nn.LayerNorm(hidden_size)
        self.norm_cross_v = nn.LayerNorm(hidden_size)
        self.norm_cross_t = nn.LayerNorm(hidden_size)

    def forward(self, queries: torch.Tensor, visual: torch.Tensor, text: torch.Tensor | None) -> torch.Tensor:
        """Queries `(B, Q, C)`, visual tokens `(B, V, C)` and the question `(B, L, C)` to `(B, Q, C)`."""
        queries = self.norm_self(queries + self.self_attention(queries))
        queries = self.norm_cross_v(queries + self.visual_cross_attention(queries, visual))
        return self.norm_cross_t(queries if text is None else queries + self.text_cross_attention(queries, text))


class LinearAggregation(nn.Module):
    """Attention of the queries to the visual tokens, whose values are the tokens themselves.

    The official module also holds a `wv` and a `dense` that take no part in its output; they are left out here.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of attention heads.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.wq = nn.Linear(hidden_size, hidden_size)
        self.wk = nn.Linear(hidden_size, hidden_size)
        for linear in (self.wq, self.wk):
            init.xavier_uniform_(linear.weight)
            init.zeros_(linear.bias)

    def forward(self, queries: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
        """`(B, Q, C)` and `(B, V, C)` to `(B, Q, C)`."""
        return _attend(self.wq(queries), self.wk(visual), visual, self.num_heads)


class PaperU2Tokenizer(nn.Module):
    """μ²Tokenizer as published (https://arxiv.org/abs/2507.00316), with relative positions, DTS and DMTP.

    It computes the function of the official code and starts from its initialization. Parameters have the official
    names, so that an official state dict loads but for `tta_module.layer_linagg.linear_aggregator.{wv,dense}`, which
    nothing uses. The published function knows no masks: padded slabs and pad tokens of the question take part, and so
    the output depends on the padding of the batch. It collapses at its own initialization: all outputs are about
    equal.

    Args:
        hidden_size: width of the language model's embeddings.
        num_heads: number of attention heads.
        num_layers: number of spatio-temporal layers, and of text-conditioned layers.
        num_selected: number of selected tokens K.
        num_queries: number of output tokens Q.
        max_relative: longest sequence of tokens of a slab, of slabs, or of queries.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 8,
        num_layers: int = 4,
        num_selected: int = 1024,
        num_queries: int = 256,
        max_relative: int = 512,
    ) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, hidden_size))
        refiner = (SpatioTemporalAttention(hidden_size, num_heads, max_relative) for _ in range(num_layers))
        aggregator = (TextConditionedLayer(hidden_size, num_heads, max_relative) for _ in range(num_layers))
        self.svt_module = nn.ModuleDict(
            {
                "attention_network": nn.ModuleDict({"layers": nn.ModuleList(refiner)}),
                "token_selection": DifferentiableTokenSelection(hidden_size, num_selected),
                "dynamic_pool": GatedMultiScalePooling(hidden_size),
            }
        )
        self.tta_module = nn.ModuleDict(
            {
                "layers_vt": nn.ModuleList(aggregator),
                "layer_linagg": nn.ModuleDict({"linear_aggregator": LinearAggregation(hidden_size, num_heads)}),
            }
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Queries from N(0, 0.02²); scores and gate as any linear layer of PyTorch."""
        init.normal_(self.query_tokens, std=0.02)
        self.svt_module["token_selection"].score_net.reset_parameters()
        self.svt_module["dynamic_pool"].gate_fc.reset_parameters()

    def condense(
        self, tokens: torch.Tensor, grid: Sequence[int] | None = None, slab_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Refine, select and pool visual tokens; doesn't depend on the question.

        Args:
            tokens: `(B, T, N, C)`.
            grid: not used; the published positions follow the raster order.
            slab_mask: not used; padded slabs take part.

        Returns:
            `(B, V, C)`, `V = Σ_s num_selected // s` over the scales 1, 2 and 4.
        """
        for layer in self.svt_module["attention_network"]["layers"]:
            tokens = layer(tokens)
        return self.svt_module["dynamic_pool"](self.svt_module["token_selection"](tokens.flatten(1, 2)))

    def aggregate(
        self, visual: torch.Tensor, text: torch.Tensor | None = None, text_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Gather visual tokens into the queries under the guidance of the question.

        Args:
            visual: `(B, V, C)`, from :meth:`condense`.
            text: the question's embedded tokens `(B, L, C)`; without a question the attention to it is left out.
            text_mask: not used; pad tokens take part.

        Returns:
            `(B, Q, C)`.
        """
        queries = self.query_tokens.expand(visual.shape[0], -1, -1)
        for layer in self.tta_module["layers_vt"]:
            queries = layer(queries, visual, text)
        return self.tta_module["layer_linagg"]["linear_aggregator"](queries, visual)

    def forward(
        self,
        tokens: torch.Tensor,
        text: torch.Tensor | None,
        grid: Sequence[int] | None = None,
        slab_mask: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """:meth:`condense`, then :meth:`aggregate`: `(B, T, N, C)` and `(B, L, C)` to `(B, Q, C)`."""
        return self.aggregate(self.condense(tokens, grid, slab_mask), text, text_mask)
