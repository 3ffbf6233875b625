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

from monai_u2.inferers import AutocastInferer


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_of_the_network(precision: str, dtype: torch.dtype) -> None:
    network = torch.nn.Linear(3, 2)
    out = AutocastInferer(precision)(torch.rand(1, 3), network)
    assert out.dtype == dtype
    out.sum().backward()
    assert network.weight.grad.dtype == torch.float32


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision 'float16' must be one of"):
        AutocastInferer("float16")
