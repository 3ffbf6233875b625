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

"""Log-probabilities of labels without the logits of a whole sequence."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100


def label_log_probs(
    hidden: torch.Tensor, head: nn.Module, labels: torch.Tensor, chunk_size: int = 256
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each sequence's labels.

    Logits are computed where there is a label alone, `chunk_size` labels at a time, and again in the backward pass: at
    a vocabulary of 128,000 the logits of a whole batch take more memory than the model. Sums are in float64; in float32
    a sum of about a thousand shifts the loss.

    Args:
        hidden: the language model's last hidden states `(R, L, C)`.
        head: from hidden states to logits.
        labels: `(R, L)`, -100 where a token isn't counted; the token at place i is predicted at place i - 1.
        chunk_size: number of labels whose logits are held at once.

    Returns:
        Sum over each sequence's labels `(R,)`, float64, and their number `(R,)`.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORE_INDEX
    rows = counted.nonzero()[:, 0]
    states, targets = hidden[:, :-1][counted], targets[counted]
    parts = [
        checkpoint(_token_log_probs, head, state, target, use_reentrant=False)
        for state, target in zip(states.split(chunk_size), targets.split(chunk_size))
    ]
    sums = torch.zeros(len(labels), dtype=torch.float64, device=hidden.device)
    return sums.index_add(0, rows, torch.cat(parts).double()), counted.sum(dim=1)


def _token_log_probs(head: nn.Module, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -F.cross_entropy(head(states).float(), targets, reduction="none")
