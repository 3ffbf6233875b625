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

from pathlib import Path

import pytest
import torch
from monai.transforms import Compose, Lambdad

from monai_u2.data import RecoveringPersistentDataset


def test_a_file_that_was_cut_off_is_computed_again(tmp_path: Path) -> None:
    computed = []

    def double(x: torch.Tensor) -> torch.Tensor:
        computed.append(x)
        return 2 * x

    dataset = RecoveringPersistentDataset([{"x": torch.arange(1000.0)}], Compose([Lambdad("x", double)]), tmp_path)
    expected = dataset[0]["x"]
    assert torch.equal(dataset[0]["x"], expected) and len(computed) == 1
    (file,) = tmp_path.glob("*.pt")
    whole = file.read_bytes()
    for part in (whole[: len(whole) // 2], b""):
        file.write_bytes(part)
        with pytest.warns(UserWarning, match="is cut off; it is computed again"):
            assert torch.equal(dataset[0]["x"], expected)
        assert len(file.read_bytes()) == len(whole)
    assert len(computed) == 3
