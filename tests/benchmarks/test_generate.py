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

import json
from pathlib import Path

import generate
import pytest

from monai_u2.exceptions import InputError

VISION = {
    "image_size": [8, 16, 32],
    "patch_size": [4, 8, 8],
    "hidden_size": 24,
    "mlp_dim": 48,
    "num_layers": 2,
    "num_heads": 4,
}


def test_writes_both_times_and_compares_the_texts(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    generate.benchmark(str(output), samples=3, vision=VISION, num_queries=4, new_tokens=3, rounds=1)
    figures = json.loads(output.read_text())
    assert figures["same under greedy decoding"] is True
    times = figures["seconds"]
    assert figures["ratio"] == pytest.approx(times["separate calls"] / times["one call"])


def test_no_samples_are_refused() -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        generate.benchmark(samples=0)
