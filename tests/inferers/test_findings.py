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

from monai_u2.inferers import FindingInferer
from monai_u2.networks import CLIP3DOutput


class Logits(torch.nn.Module):
    def forward(self, image: torch.Tensor, slab_mask: torch.Tensor) -> CLIP3DOutput:
        return CLIP3DOutput(finding_logits=image[:, :, :, 0, 0, None].repeat(1, 1, 1, 3))


def test_largest_logit_of_the_valid_slabs() -> None:
    image = torch.tensor([[1.0, 2.0], [9.0, 9.0]]).view(1, 2, 2, 1, 1)
    logits = FindingInferer(2)(image, Logits(), slab_mask=torch.tensor([[True, False]]))
    assert logits.tolist() == [[2.0, 2.0]]
    assert FindingInferer()(image, Logits()).tolist() == [[9.0, 9.0, 9.0]]


def test_a_finding_head_is_needed() -> None:
    class Without(torch.nn.Module):
        def forward(self, image: torch.Tensor, slab_mask: torch.Tensor) -> CLIP3DOutput:
            return CLIP3DOutput()

    with pytest.raises(ValueError, match="no finding head"):
        FindingInferer()(torch.zeros(1, 1, 1, 1, 1), Without())
