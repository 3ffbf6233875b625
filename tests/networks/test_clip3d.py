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

from monai_u2.networks import CLIP3D

VISION = {
    "image_size": (8, 16, 16),
    "patch_size": (4, 4, 4),
    "hidden_size": 24,
    "mlp_dim": 48,
    "num_layers": 1,
    "num_heads": 2,
    "stem_channels": (8,),
}
TEXT = {
    "model_type": "modernbert",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
    "cls_token_id": None,
    "sep_token_id": None,
}


@pytest.fixture
def clip() -> CLIP3D:
    torch.manual_seed(0)
    return CLIP3D(VISION, TEXT, embedding_size=16, num_findings=3).eval()


def test_shapes_and_norms(clip: CLIP3D) -> None:
    ids, mask = torch.randint(2, 50, (2, 7)), torch.ones(2, 7, dtype=torch.long)
    output = clip(torch.rand(2, 3, 8, 16, 16), ids, mask)
    assert output.image_embeds.shape == output.text_embeds.shape == (2, 16)
    assert output.finding_logits.shape == (2, 3, 2 * 4 * 4, 3)
    torch.testing.assert_close(output.image_embeds.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(output.text_embeds.norm(dim=1), torch.ones(2))


def test_padding_changes_nothing(clip: CLIP3D) -> None:
    image, ids = torch.rand(1, 2, 8, 16, 16), torch.randint(2, 50, (1, 5))
    whole = clip(image, ids, torch.ones(1, 5, dtype=torch.long))
    padded_ids = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], dim=1)
    padded = clip(
        torch.cat([image, torch.rand(1, 1, 8, 16, 16)], dim=1),
        padded_ids,
        torch.tensor([[0] * 3 + [1] * 5]),
        torch.tensor([[True, True, False]]),
    )
    torch.testing.assert_close(padded.image_embeds, whole.image_embeds)
    torch.testing.assert_close(padded.text_embeds, whole.text_embeds, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(clip: CLIP3D) -> None:
    output = clip.train()(torch.rand(2, 2, 8, 16, 16), torch.randint(2, 50, (2, 5)), torch.ones(2, 5, dtype=torch.long))
    similarity = output.logit_scale * output.image_embeds @ output.text_embeds.t()
    (similarity.square().sum() + output.finding_logits.square().sum()).backward()
    assert [name for name, parameter in clip.named_parameters() if parameter.grad is None] == []
