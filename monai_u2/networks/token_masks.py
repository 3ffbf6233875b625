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

"""Masks of slabs and of a question's tokens, and work on the slabs alone that are there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def checked_slab_mask(tokens: torch.Tensor, grid: Sequence[int], slab_mask: torch.Tensor | None) -> torch.Tensor:
    """Mask of the valid slabs `(B, T)`; ValueError where tokens `(B, T, N, C)`, grid and mask don't fit each other."""
    batch, slabs, num_tokens, _ = tokens.shape
    if num_tokens != math.prod(grid):
        raise ValueError(f"grid {tuple(grid)} has {math.prod(grid)} places for {num_tokens} tokens a slab.")
    if slab_mask is None:
        return torch.ones(batch, slabs, dtype=torch.bool, device=tokens.device)
    if slab_mask.shape != (batch, slabs):
        raise ValueError(f"slab_mask {tuple(slab_mask.shape)} must be {(batch, slabs)}, as the tokens' (B, T).")
    if not torch.compiler.is_compiling() and not bool(slab_mask.any(dim=1).all()):
        raise ValueError(f"volume {int(slab_mask.any(dim=1).int().argmin())} of the batch has no valid slab.")
    return slab_mask


def checked_text_mask(text: torch.Tensor, text_mask: torch.Tensor | None) -> torch.Tensor:
    """Mask of the question's tokens `(B, L)`; ValueError where it doesn't fit `text` `(B, L, C)`, or a question has no
    token."""
    if text_mask is None:
        return torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
    if text_mask.shape != text.shape[:2]:
        raise ValueError(f"text_mask {tuple(text_mask.shape)} must be {tuple(text.shape[:2])}, as the text's (B, L).")
    text_mask = text_mask.bool()
    if not torch.compiler.is_compiling() and not bool(text_mask.any(dim=1).all()):
        raise ValueError(
            f"question {int(text_mask.any(dim=1).int().argmin())} of the batch has no token that isn't masked; give it "
            "one, or no text for no question."
        )
    return text_mask


class SlabPlaces:
    """Which slabs of a batch are there: work on tokens goes over these alone, `(M, …)` in place of `(B, T, …)`.

    Args:
        slab_mask: boolean `(B, T)`, True where a slab is there.
    """

    def __init__(self, slab_mask: torch.Tensor) -> None:
        self.mask = slab_mask
        # a compiled graph can't depend on how many there are: it works on all of them
        padded = not torch.compiler.is_compiling() and not bool(slab_mask.all())
        self._index = slab_mask.flatten().nonzero().squeeze(1) if padded else None

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, T, …)` to `(M, …)`."""
        # contiguous: a linear layer without gradients makes a copy of its weights for each row of a strided batch
        x = x.flatten(0, 1).contiguous()
        return x if self._index is None else x[self._index]

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """`(M, …)` to `(B, T, …)`, zeros elsewhere."""
        if self._index is not None:
            x = x.new_zeros(self.mask.numel(), *x.shape[1:]).index_copy(0, self._index, x)
        return x.unflatten(0, tuple(self.mask.shape))
