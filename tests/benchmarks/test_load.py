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

import load
import pytest

from monai_u2.exceptions import InputError

VISION = {
    "image_size": [8, 16, 24],
    "patch_size": [4, 8, 8],
    "hidden_size": 24,
    "mlp_dim": 48,
    "num_layers": 2,
    "num_heads": 4,
}
TEXT = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 4}
SMALL = {
    "text_config": TEXT,
    "vision": VISION,
    "projector": {"pooling_size": 1},
    "u2_tokenizer": {"type": "paper", "num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": 4},
    "image_token_id": 64,
}


def test_both_ways_load_the_same_weights(tmp_path: Path) -> None:
    output, folder = tmp_path / "out.json", tmp_path / "model"
    load.benchmark(str(folder), str(output), config=SMALL)
    figures = json.loads(output.read_text())
    assert set(figures["ways"]) == {"float32, then a .bin", "from_pretrained"}
    assert all(row["sum"] > 0 and row["peak"] >= 0 for row in figures["ways"].values())
    assert not folder.exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        load.benchmark(str(tmp_path))
    assert tmp_path.is_dir()
