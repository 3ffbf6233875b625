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

import torch

from monai_u2.networks import U2LLM


def test_finding_heads_start_from_a_probability_of_one_percent(tiny_u2llm: U2LLM) -> None:
    for head in (tiny_u2llm.model.finding_head, tiny_u2llm.model.image_token_finding_head):
        torch.testing.assert_close(head.classifier.bias.sigmoid(), torch.full((5,), 0.01))


def test_batch_normalization_starts_as_the_identity(tiny_u2llm: U2LLM) -> None:
    """Also where memory was never written, as when a checkpoint lacks these tensors."""
    norm = torch.nn.BatchNorm3d(4)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.fill_(7.0)
    tiny_u2llm._init_weights(norm)
    image = torch.randn(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(norm.eval()(image), image, rtol=1e-4, atol=1e-4)
