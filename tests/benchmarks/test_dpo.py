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
from typing import Any

import dpo
import pytest

from monai_u2.exceptions import InputError

SMALL: dict[str, Any] = {
    **{"vocabulary": 200, "hidden": 32, "layers": 1, "pairs": 2, "slabs": 2, "queries": 4, "question": 5, "answer": 6},
    "vision": {"image_size": [8, 16, 32], "patch_size": [4, 8, 8], "hidden_size": 24, "mlp_dim": 48}
    | {"num_layers": 1, "num_heads": 4},
}


def test_both_steps_have_the_same_loss(tmp_path: Path) -> None:
    dpo.benchmark(str(tmp_path / "out.json"), sizes=SMALL)
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["difference of the losses"] < 1e-5
    assert abs(figures["here"]["loss"] - 0.693147) > 1e-4  # the adapters do something
    assert figures["faster"] == pytest.approx(figures["straightforward"]["seconds"] / figures["here"]["seconds"])


def test_unknown_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"sizes \['slab'\] aren't known"):
        dpo.benchmark(sizes={"slab": 2})
