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

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from monai_u2.networks.attention import checked_option, rotate
from monai_u2.networks.u2_tokenizer import checked_slab_mask, checked_text_mask

if TYPE_CHECKING:
    from monai_u2.networks.paper_folding import FoldedPaperU2Tokenizer

SCALES = (1, 2, 4)
POSITIONS = ("relative", "rotary", None)
SELECTIONS = ("soft", "topk")
POOLINGS = ("dynamic", "multi", None)


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


def _self_attention(hidden_size: int, num_heads: int, position: str | None, max_length: int) -> nn.Module:
    if position is None:
        return SequenceFirstAttention(hidden_size, num_heads)
    return PaperAttention(hidden_size, num_heads, position, max_length)


class SpatioTemporalAttention(GradientCheckpointingLayer):
    """Attention over the tokens of each slab, then over the slabs at each token; neither residual nor norm.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of attention heads.
        position: see :class:`PaperAttention`; None attends over the wrong axes, see :class:`SequenceFirstAttention`.
        max_length: longest sequence, of tokens of a slab or of slabs.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, position: str | None = "relative", max_length: int = 512
    ) -> None:
        super().__init__()
        self.spatial_attention = _self_attention(hidden_size, num_heads, position, max_length)
        self.temporal_attention = _self_attention(hidden_size, num_heads, position, max_length)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, T, N, C)` to `(B, T, N, C)`."""
        return self.temporal_attention(self.spatial_attention(x, axis=2), axis=1)


class TokenSelection(nn.Module):
    """The K tokens of the highest scores, in descending order; the scores get no gradient.

    Args:
        hidden_size: width of the tokens.
        num_selected: number of selected tokens K.
    """

    def __init__(self, hidden_size: int, num_selected: int) -> None:
        super().__init__()
        self.num_selected = num_selected
        self.score_net = nn.Linear(hidden_size, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's default weight, bias zero, as published."""
        init.kaiming_uniform_(self.score_net.weight, a=5**0.5)
        init.zeros_(self.score_net.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, M, C)` to `(B, K, C)`.

        Raises:
            ValueError: when there are fewer than K tokens.
        """
        if x.shape[1] < self.num_selected:
            raise ValueError(f"num_selected {self.num_selected} must be at most the number of tokens, {x.shape[1]}.")
        index = self.score_net(x).topk(self.num_selected, dim=1).indices
        return x.gather(1, index.expand(-1, -1, x.shape[2]))


class DifferentiableTokenSelection(nn.Module):
    """DTS: each of K heads draws one token as a softmax-weighted mean of all tokens.

    Args:
        hidden_size: width of the tokens.
        num_selected: number of selected tokens K.
        temperature: the scores are divided by it; 1 as published.
    """

    def __init__(self, hidden_size: int, num_selected: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.score_net = nn.Linear(hidden_size, num_selected)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's default, as published."""
        bound = self.score_net.in_features**-0.5
        init.kaiming_uniform_(self.score_net.weight, a=5**0.5)
        init.uniform_(self.score_net.bias, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, M, C)` to `(B, K, C)`."""
        # (B, K, M): a softmax over the last axis is several times faster than one over the axis before it
        scores = self.score_net.weight @ x.transpose(1, 2) + self.score_net.bias[:, None]
        return (scores / self.temperature).softmax(dim=2) @ x


class MultiScalePooling(nn.Module):
    """Means of 1, 2 and 4 consecutive selected tokens; the remainder is dropped, as are scales above their number."""

    def gates(self, x: torch.Tensor) -> torch.Tensor | None:
        """Weight of each scale `(B, S)` for the selected tokens `(B, K, C)`; None for no weights."""
        return None

    def pool(self, x: torch.Tensor, gates: torch.Tensor | None) -> torch.Tensor:
        """Pool `(B, K, C)` to `(B, V, C)`, `V = Σ_s K // s`: the selected tokens, or any linear map of them."""
        pooled = self._pooled(x)
        if gates is not None:
            pooled = [tokens * gates[:, i, None, None] for i, tokens in enumerate(pooled)]
        return torch.cat(pooled, dim=1)

    def _pooled(self, x: torch.Tensor) -> list[torch.Tensor]:
        length = x.shape[1]
        return [
            x if s == 1 else x[:, : length // s * s].unflatten(1, (-1, s)).mean(dim=2) for s in SCALES if length >= s
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, K, C)` to `(B, V, C)`."""
        return self.pool(x, self.gates(x))


class GatedMultiScalePooling(MultiScalePooling):
    """DMTP: multi-scale pooling with each scale weighted by a gate on the mean of its tokens.

    Args:
        hidden_size: width of the tokens.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate_fc = nn.Linear(hidden_size, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """PyTorch's default, as published."""
        bound = self.gate_fc.in_features**-0.5
        init.kaiming_uniform_(self.gate_fc.weight, a=5**0.5)
        init.uniform_(self.gate_fc.bias, -bound, bound)

    def gates(self, x: torch.Tensor) -> torch.Tensor:
        """Weight of each scale `(B, S)` for the selected tokens `(B, K, C)`; they add up to 1."""
        return torch.cat([self.gate_fc(tokens.mean(dim=1)) for tokens in self._pooled(x)], dim=1).softmax(dim=1)


class NoPooling(MultiScalePooling):
    """The selected tokens as they are."""

    def _pooled(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


class PooledTokens:
    """Selected tokens and what pooling makes of them.

    Keys and values of the pooled tokens are pooled keys and values of the selected ones, of which there are fewer.

    Args:
        selected: `(B, K, C)`.
        pooling: how they are pooled.
    """

    def __init__(self, selected: torch.Tensor, pooling: MultiScalePooling) -> None:
        self.selected = selected
        self._gates = pooling.gates(selected)
        self._pool = pooling.pool
        self.pooled = self._pool(selected, self._gates)

    def project(self, linear: nn.Linear) -> torch.Tensor:
        """`linear` of the pooled tokens, `(B, V, C)`."""
        return self._pool(F.linear(self.selected, linear.weight), self._gates) + linear.bias


class TextConditionedLayer(GradientCheckpointingLayer):
    """Post-norm layer of the queries: self-attention, attention to the visual tokens, attention to the question.

    Args:
        hidden_size: width of the tokens.
        num_heads: number of attention heads.
        position: of the self-attention, see :class:`SpatioTemporalAttention`.
        max_length: largest number of queries.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, position: str | None = "relative", max_length: int = 512
    ) -> None:
        super().__init__()
        self.self_attention = _self_attention(hidden_size, num_heads, position, max_length)
        self.visual_cross_attention = PaperAttention(hidden_size, num_heads)
        self.text_cross_attention = PaperAttention(hidden_size, num_heads)
        self.norm_self = nn.LayerNorm(hidden_size)
        self.norm_cross_v = nn.LayerNorm(hidden_size)
        self.norm_cross_t = nn.LayerNorm(hidden_size)

    def forward(self, queries: torch.Tensor, visual: PooledTokens, text: torch.Tensor | None) -> torch.Tensor:
        """Queries `(B, Q, C)`, visual tokens and the question `(B, L, C)` to `(B, Q, C)`."""
        queries = self.norm_self(queries + self.self_attention(queries))
        cross = self.visual_cross_attention
        seen = cross.attend(cross.wq(queries), visual.project(cross.wk), visual.project(cross.wv))
        queries = self.norm_cross_v(queries + cross.dense(seen))
        if text is not None:
            cross = self.text_cross_attention
            queries = queries + cross.dense(cross.attend(cross.wq(queries), cross.wk(text), cross.wv(text)))
        return self.norm_cross_t(queries)


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
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier uniform weights, biases zero, as published."""
        for linear in (self.wq, self.wk):
            init.xavier_uniform_(linear.weight)
            init.zeros_(linear.bias)

    def forward(self, queries: torch.Tensor, visual: PooledTokens) -> torch.Tensor:
        """`(B, Q, C)` and visual tokens to `(B, Q, C)`."""
        return attend(self.wq(queries), visual.project(self.wk), visual.pooled, self.num_heads)


_SELECTION: dict[str, type[nn.Module]] = {"soft": DifferentiableTokenSelection, "topk": TokenSelection}
_POOLING: dict[str | None, Callable[[int], MultiScalePooling]] = {
    "dynamic": GatedMultiScalePooling,
    "multi": lambda hidden_size: MultiScalePooling(),
    None: lambda hidden_size: NoPooling(),
}


def u2_tokenizer_paper(hidden_size: int = 2048, **options: Any) -> PaperU2Tokenizer:
    """The published configuration: 8 heads, 4 layers, 1024 selected tokens, 256 queries, relative positions, DTS and
    DMTP.

    Args:
        hidden_size: width of the language model's embeddings; 2048 is Llama-3.2-1B's.
        options: other arguments of :class:`PaperU2Tokenizer`.
    """
    return PaperU2Tokenizer(hidden_size, **options)


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
        position: `"relative"` (the official `attn_type="rma"` or `enable_rpe=True`), `"rotary"` (`"rope"`), or None
            (any other, or `enable_rpe=False`), which attends over the wrong axes, see :class:`SequenceFirstAttention`.
        selection: `"soft"` (DTS, `enable_diffts=True`) or `"topk"`.
        pooling: `"dynamic"` (DMTP, `enable_dmtp=True`), `"multi"` or None (`use_multi_scale=False`).
        max_length: longest sequence of tokens of a slab, of slabs, or of queries that the relative positions serve.

    Raises:
        ValueError: for an unknown option, or a `hidden_size` that is not divisible by `num_heads`.
    """

    # the model gives it the tokens of empty slabs in their place
    padded_slabs_take_part = True

    def __init__(
        self,
        hidden_size: int,
        num_heads: int = 8,
        num_layers: int = 4,
        num_selected: int = 1024,
        num_queries: int = 256,
        position: str | None = "relative",
        selection: str = "soft",
        pooling: str | None = "dynamic",
        max_length: int = 512,
    ) -> None:
        super().__init__()
        checked_option("position", position, POSITIONS)
        checked_option("selection", selection, SELECTIONS)
        checked_option("pooling", pooling, POOLINGS)
        if min(num_selected, num_queries) < 1:
            raise ValueError(f"num_selected {num_selected} and num_queries {num_queries} must be at least 1.")
        self.num_queries = num_queries
        self.query_tokens = nn.Parameter(torch.empty(1, num_queries, hidden_size))
        sizes = (hidden_size, num_heads, position, max_length)
        self.svt_module = nn.ModuleDict(
            {
                "attention_network": nn.ModuleDict(
                    {"layers": nn.ModuleList(SpatioTemporalAttention(*sizes) for _ in range(num_layers))}
                ),
                "token_selection": _SELECTION[selection](hidden_size, num_selected),
                "dynamic_pool": _POOLING[pooling](hidden_size),
            }
        )
        self.tta_module = nn.ModuleDict(
            {
                "layers_vt": nn.ModuleList(TextConditionedLayer(*sizes) for _ in range(num_layers)),
                "layer_linagg": nn.ModuleDict({"linear_aggregator": LinearAggregation(hidden_size, num_heads)}),
            }
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Queries from N(0, 0.02²)."""
        init.normal_(self.query_tokens, std=0.02)

    def condense(
        self, tokens: torch.Tensor, grid: Sequence[int] | None = None, slab_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Refine and select visual tokens; doesn't depend on the question.

        Args:
            tokens: `(B, T, N, C)`.
            grid: not used; the published positions follow the raster order.
            slab_mask: checked, but not used; padded slabs take part.

        Returns:
            Selected tokens `(B, K, C)`.

        Raises:
            ValueError: when there are more tokens than the relative positions serve, or fewer than the top-k; when the
                mask doesn't fit, or a volume has no valid slab.
        """
        checked_slab_mask(tokens, (tokens.shape[2],), slab_mask)
        # contiguous here and before each `dense`: a linear layer without gradients makes a copy of its weights for each
        # row of a strided batch
        tokens = tokens.contiguous()
        for layer in self.svt_module["attention_network"]["layers"]:
            tokens = layer(tokens)
        return self.svt_module["token_selection"](tokens.flatten(1, 2))

    def aggregate(
        self, selected: torch.Tensor, text: torch.Tensor | None = None, text_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Pool the selected tokens and gather them into the queries under the guidance of the question.

        Args:
            selected: `(B, K, C)`, from :meth:`condense`.
            text: the question's embedded tokens `(B, L, C)`; without a question the attention to it is left out.
            text_mask: checked, but not used; pad tokens take part.

        Returns:
            `(B, Q, C)`.

        Raises:
            ValueError: when the mask doesn't fit, or a question has no token.
        """
        if text is not None:
            checked_text_mask(text, text_mask)
        visual = PooledTokens(selected, self.svt_module["dynamic_pool"])
        queries = self.query_tokens.expand(selected.shape[0], -1, -1)
        for layer in self.tta_module["layers_vt"]:
            queries = layer(queries, visual, text)
        return self.tta_module["layer_linagg"]["linear_aggregator"](queries, visual)

    def fold(self) -> FoldedPaperU2Tokenizer:
        """The same function for inference, with fewer operations; see :class:`FoldedPaperU2Tokenizer`."""
        from monai_u2.networks.paper_folding import FoldedPaperU2Tokenizer

        return FoldedPaperU2Tokenizer(self)

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
