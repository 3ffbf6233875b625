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

"""From vision tokens to the language model's width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn


class SpatialPoolingProjector(nn.Module):
    """Average pooling over the patch grid, then a two-layer perceptron, as in M3D-LaMed (https://arxiv.org/abs/2404.00578).

    Args:
        grid: patch grid of one slab `(d, h, w)`.
        in_size: width of the vision tokens.
        out_size: width of the language model's embeddings.
        pooling_size: pooling window on the grid `(d, h, w)`; must divide `grid`. `(1, 1, 1)` keeps every token.

    Raises:
        ValueError: when `grid` is not divisible by `pooling_size`.
    """

    def __init__(
        self, grid: Sequence[int], in_size: int, out_size: int, pooling_size: Sequence[int] = (2, 2, 2)
    ) -> None:
        super().__init__()
        if any(size % pool != 0 for size, pool in zip(grid, pooling_size)):
            raise ValueError(f"grid {tuple(grid)} must be divisible by pooling_size {tuple(pooling_size)}.")
        self.in_grid = tuple(grid)
        self.pooling_size = tuple(pooling_size)
        self.grid = tuple(size // pool for size, pool in zip(grid, pooling_size))
        self.projector = nn.Sequential(nn.Linear(in_size, out_size), nn.GELU(), nn.Linear(out_size, out_size))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """
        Args:
            tokens: `(M, prod(grid), in_size)` in raster order.

        Returns:
            `(M, prod(grid / pooling_size), out_size)`.
        """
        if any(pool > 1 for pool in self.pooling_size):
            (d, h, w), (a, b, c) = self.grid, self.pooling_size
            # mean over unflattened axes: avg_pool3d has no bfloat16 kernel on CPU
            tokens = tokens.unflatten(1, (d, a, h, b, w, c)).mean(dim=(2, 4, 6)).flatten(1, 3)
        return self.projector(tokens)
