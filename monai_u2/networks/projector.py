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

import math
from collections.abc import Sequence

import torch
import torch.nn as nn

POOLING_TYPES = ("spatial", "sequence")
LAYER_TYPES = ("mlp", "linear")


class SpatialPoolingProjector(nn.Module):
    """Average pooling over the patch grid, then a perceptron, as in M3D-LaMed (https://arxiv.org/abs/2404.00578).

    Args:
        grid: patch grid of one slab `(d, h, w)`.
        in_size: width of the vision tokens.
        out_size: width of the language model's embeddings.
        pooling_size: pooling window on the grid `(d, h, w)`, or one number for all three; must divide `grid`. 1 keeps
            every token.
        pooling_type: `"spatial"` pools boxes of the grid, `"sequence"` as many consecutive tokens.
        layer_type: `"mlp"` (GELU between the layers) or `"linear"`.
        num_layers: number of linear layers.
        drop_remainder: let tokens that fill no window go, as published, instead of refusing such a grid.

    Raises:
        ValueError: when `grid` is not divisible by `pooling_size`, or for an unknown type.
    """

    def __init__(
        self,
        grid: Sequence[int],
        in_size: int,
        out_size: int,
        pooling_size: Sequence[int] | int = (2, 2, 2),
        pooling_type: str = "spatial",
        layer_type: str = "mlp",
        num_layers: int = 2,
        drop_remainder: bool = False,
    ) -> None:
        super().__init__()
        pooling_size = (pooling_size,) * 3 if isinstance(pooling_size, int) else tuple(pooling_size)
        if pooling_type not in POOLING_TYPES or layer_type not in LAYER_TYPES or num_layers < 1:
            raise ValueError(
                f"pooling_type {pooling_type!r} must be one of {POOLING_TYPES}, layer_type {layer_type!r} one of "
                f"{LAYER_TYPES}, num_layers {num_layers} at least 1."
            )
        if not drop_remainder and any(size % pool != 0 for size, pool in zip(grid, pooling_size)):
            raise ValueError(f"grid {tuple(grid)} must be divisible by pooling_size {pooling_size}.")
        self.in_grid = tuple(grid)
        self.pooling_size = pooling_size
        self.pooling_type = pooling_type
        if pooling_type == "spatial":
            self.grid = tuple(size // pool for size, pool in zip(grid, pooling_size))
        else:  # a run of tokens lies in a row of the grid; the pooled ones are a sequence without a grid
            self.grid = (math.prod(grid) // math.prod(pooling_size), 1, 1)
        layers: list[nn.Module] = [nn.Linear(in_size, out_size)]
        for _ in range(num_layers - 1):
            layers += [nn.GELU()] * (layer_type == "mlp") + [nn.Linear(out_size, out_size)]
        self.projector = nn.Sequential(*layers)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """
        Args:
            tokens: `(M, prod(in_grid), in_size)` in raster order.

        Returns:
            `(M, prod(grid), out_size)`.
        """
        return self.projector(self._pool(tokens))

    def _pool(self, tokens: torch.Tensor) -> torch.Tensor:
        if max(self.pooling_size) == 1:
            return tokens
        # means over unflattened axes: avg_pool3d has no bfloat16 kernel on CPU
        if self.pooling_type == "sequence":
            return tokens[:, : self.grid[0] * math.prod(self.pooling_size)].unflatten(1, (self.grid[0], -1)).mean(dim=2)
        (d, h, w), (a, b, c) = self.grid, self.pooling_size
        if self.in_grid != (d * a, h * b, w * c):
            tokens = tokens.unflatten(1, self.in_grid)[:, : d * a, : h * b, : w * c].flatten(1, 3)
        return tokens.unflatten(1, (d, a, h, b, w, c)).mean(dim=(2, 4, 6)).flatten(1, 3)
