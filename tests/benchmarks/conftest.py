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
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_u2.data.phantom import generate_phantoms

# the scripts are no package: they find each other in their own folder
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The scripts silence the log of their process, which here is that of the tests that follow."""
    before = logging.root.manager.disable
    yield
    logging.disable(before)


@pytest.fixture(scope="session")
def tiny_bundle(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder with the real preprocessing and a random model of a few thousand weights; answers of 6 tokens."""
    import torch
    from monai.bundle import ConfigParser

    root = tmp_path_factory.mktemp("bundle")
    (root / "configs").mkdir()
    (root / "models").mkdir()
    (root / "models" / "text_tokenizer").symlink_to(bundle / "models" / "text_tokenizer")
    for name in ("inference.json", "sft.json", "dpo.json"):
        config = json.loads((bundle / "configs" / name).read_text())
        config["vision"] |= {"hidden_size": 16, "mlp_dim": 32, "num_heads": 2, "num_layers": 1, "stem_channels": [4, 8]}
        network = config["network_def"]["config"]
        network["u2_tokenizer"] |= {"num_heads": 2, "num_layers": 1, "num_selected": 8}
        network["text_config"] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
        network["text_config"] |= {"num_attention_heads": 2, "num_key_value_heads": 2}
        config["max_new_tokens"] = 6
        (root / "configs" / name).write_text(json.dumps(config))
    parser = ConfigParser()
    parser.read_config(root / "configs" / "inference.json")
    parser.update({"bundle_root": str(root), "device": "cpu"})
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def")
    torch.save(network.state_dict(), root / "models" / "model.pt")
    torch.save({"vision_tower": network.model.vision_tower.state_dict()}, root / "models" / "vision.pt")
    return root


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Records of two training and two test cases."""
    root = tmp_path_factory.mktemp("phantoms")
    return generate_phantoms(root, 2, 0, 2, questions_per_case=6, num_workers=0, progress=False)
