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

"""Selection of visual tokens at several scales, in the U2Tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

# at a scale of 4 a selection head starts from a few tokens; at 1 it averages a thousand, and a small finding is lost
# in them
INITIAL_LOG_SCALE = math.log(4.0)


class SoftTokenSelection(nn.Module):
    """Differentiable token selection: each of K heads draws one token as a softmax-weighted mean of all tokens.

    `α_r = softmax_i(w_r · norm(x_i) · exp(s))`, `z_r = Σ_i α_ri x_i` (eq. of DTS in https://arxiv.org/abs/2507.00316,
    with normalised tokens and a learned log-temperature `s`, so that the selection can become sharp).

    Args:
        hidden_size: width of the tokens.
        num_selected: number of selected tokens K.
    """

    def __init__(self, hidden_size: int, num_selected: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, bias=False)  # a bias would shift all scores of a head alike
        self.score = nn.Linear(hidden_size, num_selected, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, None]:
        """
        Args:
            x: `(B, M, C)`.
            mask: boolean `(B, M)`, True where a token is valid.

        Returns:
            `(B, K, C)`, and None: no weights but those in it.
        """
        # (B, K, M): a softmax over the last axis is several times faster than one over the axis before it
        scores = self.score.weight @ self.norm(x).transpose(1, 2) * self.log_scale.exp()
        return scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=2) @ x, None


class TopKTokenSelection(nn.Module):
    """The K tokens with the highest scores, in descending order.

    Each is weighted by the sigmoid of its score, by which the scores learn (Gao and Ji, "Graph U-Nets",
    https://arxiv.org/abs/1905.05178). Where there are fewer than K tokens, tokens of weight 0 fill the rest.

    Args:
        hidden_size: width of the tokens.
        num_selected: number of selected tokens K.
    """

    def __init__(self, hidden_size: int, num_selected: int) -> None:
        super().__init__()
        self.num_selected = num_selected
        self.norm = nn.LayerNorm(hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            x: `(B, M, C)`.
            mask: boolean `(B, M)`, True where a token is valid.

        Returns:
            `(B, K, C)`, and the weight of each `(B, K, 1)`.
        """
        scores = self.score(self.norm(x)).masked_fill(~mask[..., None], -torch.inf)
        best = scores.topk(min(self.num_selected, x.shape[1]), dim=1)
        missing = self.num_selected - best.values.shape[1]
        chosen = x.gather(1, best.indices.expand(-1, -1, x.shape[2]))
        return F.pad(chosen, (0, 0, 0, missing)), F.pad(best.values.sigmoid(), (0, 0, 0, missing))


class DynamicMultiScalePooling(nn.Module):
    """Token selection at several scales of the slab's grid, each weighted by a gate on what was selected there.

    At scale s the grid is pooled by means over s × s × s tokens (what doesn't divide is averaged over what is there),
    `K / s` tokens are selected and normalized, and `ω = softmax_s(g · mean_r(z_sr))` weights the scales. The published
    gate sees means of the same tokens at all scales and can't differ between them; here the scales select for
    themselves.

    Args:
        hidden_size: width of the tokens.
        num_selected: number of tokens selected at scale 1.
        scales: edge lengths of the pooling windows in tokens.
        selection: see :class:`U2Tokenizer`.
        gated: whether the gate weights the scales.
    """

    def __init__(
        self,
        hidden_size: int,
        num_selected: int,
        scales: Sequence[int] = (1, 2, 4),
        selection: str = "soft",
        gated: bool = True,
    ) -> None:
        super().__init__()
        self.scales = tuple(scales)
        select = SoftTokenSelection if selection == "soft" else TopKTokenSelection
        self.selections = nn.ModuleList(select(hidden_size, max(1, num_selected // s)) for s in self.scales)
        # before the gate and the weights: after them, a norm of each token would undo them
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in self.scales)
        self.gate = nn.Linear(hidden_size, 1, bias=False) if gated else None
        self.scale_embedding = nn.Parameter(torch.zeros(len(self.scales), hidden_size))

    def forward(self, x: torch.Tensor, grid: Sequence[int], slab_mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            x: `(B, T, N, C)`.
            grid: token grid of one slab, `N = prod(grid)`.
            slab_mask: boolean `(B, T)`.

        Returns:
            `(B, V, C)`, `V = Σ_s max(1, num_selected // s)`.
        """
        batch, slabs, _, channels = x.shape
        selected = []
        for scale, selection, norm in zip(self.scales, self.selections, self.norms):
            pooled = x
            if scale > 1:
                volume = x.flatten(0, 1).transpose(1, 2).unflatten(2, tuple(grid))
                for axis in (2, 3, 4):
                    volume = torch.stack([part.mean(dim=axis) for part in volume.split(scale, dim=axis)], dim=axis)
                pooled = volume.flatten(2).transpose(1, 2).unflatten(0, (batch, slabs))
            mask = slab_mask[:, :, None].expand(batch, slabs, pooled.shape[2])
            tokens, weights = selection(pooled.reshape(batch, -1, channels), mask.reshape(batch, -1))
            tokens = norm(tokens)
            selected.append(tokens if weights is None else tokens * weights)
        if self.gate is not None:
            gates = torch.cat([self.gate(tokens.mean(dim=1)) for tokens in selected], dim=1).softmax(dim=1)
            selected = [tokens * (gates[:, i, None, None] * len(selected)) for i, tokens in enumerate(selected)]
        return torch.cat([tokens + self.scale_embedding[i] for i, tokens in enumerate(selected)], dim=1)
