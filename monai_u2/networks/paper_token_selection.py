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

"""Selection and pooling of tokens in the published μ²Tokenizer."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from transformers import initialization as init

SCALES = (1, 2, 4)


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
