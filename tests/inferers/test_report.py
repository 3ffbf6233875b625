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

import copy

import pytest
import torch
from monai.data import MetaTensor

from monai_u2.exceptions import InputError
from monai_u2.inferers import ReportInferer, writer_of
from monai_u2.networks import U2LLM
from monai_u2.transforms import AttachPromptd


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


def test_an_image_alone_is_asked_with_its_attached_prompt(tiny_u2llm: U2LLM) -> None:
    ids, question = torch.tensor([5, 99, 99, 99, 99, 7]), torch.tensor([3, 4])
    inferer = ReportInferer(max_new_tokens=3, min_new_tokens=3, do_sample=False)
    case = {"image": MetaTensor(torch.rand(2, 8, 32, 32)), "input_ids": [ids], "question_ids": [question]}
    image = AttachPromptd("image")(case)["image"][None]
    new = inferer(image, tiny_u2llm)
    asked = inferer(image, tiny_u2llm, input_ids=ids[None], question_ids=question[None])
    assert new.tolist() == asked.tolist()
    # MONAI copies metadata deeply, the network isn't copied
    assert writer_of(new[0]) is writer_of(copy.deepcopy(new)) is tiny_u2llm
    assert writer_of(asked) is None


def test_an_image_without_any_prompt_is_refused(tiny_u2llm: U2LLM) -> None:
    for image in (torch.rand(1, 2, 8, 32, 32), MetaTensor(torch.rand(1, 2, 8, 32, 32))):
        with pytest.raises(InputError, match="without input_ids"):
            ReportInferer()(image, tiny_u2llm)
