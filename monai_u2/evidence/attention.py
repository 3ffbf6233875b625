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


"""Attention maps of a model that keeps none: recomputed from queries and keys while one forward pass runs.

The networks attend through fused kernels, which hold no attention matrix. Here the rows that are wanted are computed
beside them, averaged over heads at once, and nothing changes for any other forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from monai_u2.evidence.methods import AnsweredCase, EvidenceMethod, answer_log_probs, patch_tokens
from monai_u2.exceptions import InputError
from monai_u2.networks.attention import MultiHeadAttention
from monai_u2.networks.token_selection import SoftTokenSelection, TopKTokenSelection
from monai_u2.networks.u2_tokenizer import U2Tokenizer
from monai_u2.networks.u2llm import U2LLM

_RECORDED = "sdpa_recorded"


@dataclass
class RecordedAttention:
    """What was recorded in one forward pass of one row.

    Attributes:
        language: of each layer of the language model, mean attention over the heads from each wanted row to each
            wanted column `(rows, columns)`.
        aggregation: of each aggregator block, mean attention over the heads `(Q, V)`.
        selections: of each scale of the pooling, the weights of its tokens `(K, M)`.
    """

    language: list[torch.Tensor] = field(default_factory=list)
    aggregation: list[torch.Tensor] = field(default_factory=list)
    selections: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def record_language_attention(
    language_model: nn.Module, rows: slice, columns: torch.Tensor, recorded: RecordedAttention
) -> Iterator[None]:
    """Record the attention of a language model of `transformers` from some positions to others.

    Args:
        language_model: the model; it must choose its attention function by its config, as all that are tested do.
        rows: positions that attend.
        columns: positions that are attended to.
        recorded: where to put it.
    """

    def attend(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        logits = query[0, :, rows].float() @ repeat_kv(key, groups)[0].float().transpose(1, 2) * scale
        place = torch.arange(key.shape[2], device=key.device)
        logits = logits.masked_fill(place[None] > place[rows, None], -torch.inf)
        recorded.language.append(logits.softmax(dim=2).mean(dim=0)[:, columns])
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)

    AttentionInterface.register(_RECORDED, attend)
    AttentionMaskInterface.register(_RECORDED, sdpa_mask)
    before = language_model.config._attn_implementation
    language_model.set_attn_implementation(_RECORDED)
    try:
        yield
    finally:
        language_model.set_attn_implementation(before)


@contextmanager
def record_tokenizer_attention(tokenizer: nn.Module, recorded: RecordedAttention) -> Iterator[None]:
    """Record aggregation and selection of a :class:`monai_u2.networks.U2Tokenizer`.

    Args:
        tokenizer: the tokenizer.
        recorded: where to put it.
    """

    def aggregation(module: MultiHeadAttention, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        query, key, _ = module.project(args[0], kwargs["context"])
        logits = query[0].transpose(0, 1) @ key[0].permute(1, 2, 0) * module.head_dim**-0.5
        recorded.aggregation.append(logits.softmax(dim=2).mean(dim=0))

    def selection(module: nn.Module, args: tuple[torch.Tensor, torch.Tensor]) -> None:
        recorded.selections.append(selection_weights(module, args[0][:1], args[1][:1])[0])

    with ExitStack() as stack:
        for block in tokenizer.aggregator:
            handle = block.visual_attention.register_forward_pre_hook(aggregation, with_kwargs=True)
            stack.callback(handle.remove)
        for module in tokenizer.pooling.selections:
            stack.callback(module.register_forward_pre_hook(selection).remove)
        yield


def selection_weights(
    selection: SoftTokenSelection | TopKTokenSelection, x: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Weight of each token `(B, M, C)` in each selected one: `(B, K, M)`."""
    if isinstance(selection, SoftTokenSelection):
        scores = selection.score.weight @ selection.norm(x).transpose(1, 2) * selection.log_scale.exp()
        return scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=2)
    scores = selection.score(selection.norm(x))[..., 0].masked_fill(~mask, -torch.inf)
    best = scores.topk(min(selection.num_selected, x.shape[1]), dim=1)
    weights = x.new_zeros(len(x), selection.num_selected, x.shape[1])
    place = torch.arange(best.indices.shape[1], device=x.device)
    weights[torch.arange(len(x), device=x.device)[:, None], place, best.indices] = best.values.sigmoid()
    return weights


def on_grid(weights: torch.Tensor, slabs: int, grid: Sequence[int], scale: int) -> torch.Tensor:
    """Weights of tokens that were pooled by `scale` `(K, M)`, shared evenly among the tokens of each: `(K, T, N)`."""
    pooled = [-(-size // scale) for size in grid]
    weights = weights.unflatten(1, (slabs, *pooled))
    for axis, size in enumerate(grid, start=2):
        place = torch.arange(size, device=weights.device) // scale
        counts = place.bincount()[place].to(weights)
        weights = weights.index_select(axis, place) / counts.view([-1 if i == axis else 1 for i in range(5)])
    return weights.flatten(2)


class AttentionEvidence(EvidenceMethod):
    """Attention product: the language model's attention from a sentence's tokens to the image tokens, times the
    aggregation's to the selected tokens, times the selection's weights.

    Means over heads and layers; values, and what the layers do to their tokens, are left out.
    """

    @torch.no_grad()
    def __call__(self, model: U2LLM, case: AnsweredCase, spans: Sequence[Sequence[int]]) -> torch.Tensor:
        """
        Raises:
            InputError: when the model's image tokens don't come from a :class:`monai_u2.networks.U2Tokenizer`.
        """
        tokenizer = model.model.u2_tokenizer
        if not isinstance(tokenizer, U2Tokenizer):
            raise InputError(
                f"evidence by attention needs a U2Tokenizer; the model has a {type(tokenizer).__name__}. Choose "
                "GradientEvidence, which works with any."
            )
        patches = patch_tokens(model, case)
        before = len(case.input_ids) - 1  # the prompt's last token is asked for the answer's first one
        rows = slice(before, before + len(case.answer_ids))
        columns = (case.input_ids == model.config.image_token_id).nonzero()[:, 0][model.config.num_finding_tokens :]
        recorded = RecordedAttention()
        with (
            record_language_attention(model.model.language_model, rows, columns, recorded),
            record_tokenizer_attention(tokenizer, recorded),
        ):
            answer_log_probs(model, case, patches[None])
        language = torch.stack(recorded.language).mean(dim=0)
        image_tokens = torch.stack([language[list(span)].mean(dim=0) for span in spans])
        slabs, grid = len(patches), model.model.projector.grid
        scales = zip(recorded.selections, tokenizer.pooling.scales)
        selection = torch.cat([on_grid(weights.float(), slabs, grid, scale) for weights, scale in scales])
        aggregation = torch.stack(recorded.aggregation).mean(dim=0).float()
        weights = (image_tokens @ aggregation @ selection.flatten(1)).unflatten(1, (slabs, *grid))
        for axis, (patch_count, count) in enumerate(zip(model.model.vision_tower.grid, grid), start=2):
            shared = patch_count // count  # patches of a projected token
            weights = weights.repeat_interleave(shared, dim=axis) / shared
        return weights.flatten(2)
