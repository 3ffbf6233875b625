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

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_u2.networks import SpatialPoolingProjector


@pytest.mark.parametrize("pooling_size", [(1, 1, 1), (2, 2, 2), (1, 2, 3)])
def test_pooling_equals_average_pooling(pooling_size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    projector = SpatialPoolingProjector((2, 4, 6), 12, 20, pooling_size)
    tokens = torch.randn(3, 48, 12)
    volume = tokens.transpose(1, 2).unflatten(2, (2, 4, 6))
    pooled = F.avg_pool3d(volume, pooling_size)
    assert projector.grid == tuple(pooled.shape[2:])
    torch.testing.assert_close(projector(tokens), projector.projector(pooled.flatten(2).transpose(1, 2)))


def test_grid_must_divide() -> None:
    with pytest.raises(ValueError, match=r"grid \(2, 4, 6\) must be divisible by pooling_size \(2, 2, 4\)"):
        SpatialPoolingProjector((2, 4, 6), 12, 20, (2, 2, 4))
