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


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 90, (3, 10), generator=generator)
    ids[:, 2:6] = 99
    return {
        "image": torch.rand(2, 3, 8, 32, 32, generator=generator),
        "input_ids": ids,
        "question_ids": torch.randint(2, 90, (3, 4), generator=generator),
        "image_index": torch.tensor([0, 0, 1]),
        "slab_mask": torch.tensor([[True, True, False], [True, True, True]]),
    }
