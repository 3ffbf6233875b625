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
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from monai_u2.networks.attention import checked_option
from monai_u2.networks.paper_attention import POSITIONS, PaperAttention, attend, self_attention
from monai_u2.networks.paper_token_selection import (
    DifferentiableTokenSelection,
    GatedMultiScalePooling,
    MultiScalePooling,
    NoPooling,
    PooledTokens,
    TokenSelection,
)
from monai_u2.networks.token_masks import checked_slab_mask, checked_text_mask

if TYPE_CHECKING:
    from monai_u2.networks.paper_folding import FoldedPaperU2Tokenizer

SELECTIONS = ("soft", "topk")
POOLINGS = ("dynamic", "multi", None)


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
        self.spatial_attention = self_attention(hidden_size, num_heads, position, max_length)
        self.temporal_attention = self_attention(hidden_size, num_heads, position, max_length)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, T, N, C)` to `(B, T, N, C)`."""
        return self.temporal_attention(self.spatial_attention(x, axis=2), axis=1)


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
        self.self_attention = self_attention(hidden_size, num_heads, position, max_length)
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
