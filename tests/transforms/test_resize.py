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
from monai.transforms import Resize

from monai_u2.transforms import resize_volume

SHAPE = (50, 44, 60)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(25, 40, 30), (80, 44, 7), (60, 60, 90), (50, 44, 60), (1, 2, 3)])
def test_does_what_monai_does(size: tuple[int, ...], align_corners: bool) -> None:
    volume = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    theirs = Resize(size, mode="trilinear", align_corners=align_corners, anti_aliasing=True)(volume[None])[0]
    ours = resize_volume(volume, size, align_corners=align_corners)
    torch.testing.assert_close(ours, theirs.as_tensor(), rtol=0, atol=5e-6)


def test_whole_numbers_become_float32() -> None:
    volume = torch.arange(60, dtype=torch.int16).reshape(3, 4, 5)
    assert resize_volume(volume, (6, 8, 10)).dtype == torch.float32
    assert torch.equal(resize_volume(volume, (3, 4, 5)), volume.float())


def test_what_is_no_volume() -> None:
    with pytest.raises(ValueError, match="zip|shorter"):
        resize_volume(torch.rand(1, 3, 4, 5), (6, 8, 10))
