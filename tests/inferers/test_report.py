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

from monai_u2.inferers import ReportInferer
from monai_u2.networks import U2LLM


def test_returns_new_tokens_alone(tiny_u2llm: U2LLM) -> None:
    ids = torch.tensor([[5, 99, 99, 99, 99, 7]])
    inferer = ReportInferer(max_new_tokens=3, min_new_tokens=3, do_sample=False)
    image = torch.rand(1, 2, 8, 32, 32)
    mask = torch.ones_like(ids)
    new = inferer(image, tiny_u2llm, input_ids=ids, attention_mask=mask)
    whole = tiny_u2llm.generate(image, ids, attention_mask=mask, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert new.tolist() == whole[:, 6:].tolist()
    wrapped = torch.nn.Module()
    wrapped.module = tiny_u2llm
    assert inferer(image, wrapped, input_ids=ids, attention_mask=mask).tolist() == new.tolist()
