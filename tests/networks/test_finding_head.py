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

from monai_u2.networks import FindingHead
from monai_u2.networks.finding_head import volume_finding_logits


def test_starts_from_one_percent() -> None:
    head = FindingHead(8, 3)
    assert head(torch.zeros(2, 5, 8)).sigmoid().flatten().tolist() == pytest.approx([0.01] * 30)


def test_volume_has_what_one_of_its_patches_has() -> None:
    logits = torch.tensor([[[[1.0, -5.0], [2.0, -6.0]], [[9.0, 9.0], [9.0, 9.0]]]])
    assert volume_finding_logits(logits, torch.tensor([[True, False]])).tolist() == [[2.0, -5.0]]
    assert volume_finding_logits(logits, torch.tensor([[True, True]])).tolist() == [[9.0, 9.0]]
