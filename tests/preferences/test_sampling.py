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

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monai_u2.data import collate_reports
from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM
from monai_u2.preferences import ReportSampler

TOKENIZER = SimpleNamespace(
    eos_token_id=1,
    pad_token_id=0,
    decode=lambda ids, skip_special_tokens: " ".join(str(i) for i in ids if i not in (0, 1)) + " ",
)


def batch_of(number: int) -> dict[str, Any]:
    image = torch.rand(2, 8, 32, 32, generator=torch.Generator().manual_seed(number))
    prompt = torch.tensor([99, 99, 99, 99, 7, 8])
    return collate_reports([{"image": image, "input_ids": [prompt], "question_ids": [prompt[4:]]}])


def sampler_of(network: U2LLM, **options: Any) -> ReportSampler:
    return ReportSampler(network, TOKENIZER, **{"num_samples": 4, "max_new_tokens": 12, **options})


def texts(samples: list[dict[str, Any]]) -> list[str]:
    return [sample["text"] for sample in samples]


def test_samples_depend_on_case_and_seed_alone(tiny_u2llm: U2LLM) -> None:
    sampler = sampler_of(tiny_u2llm)
    first, second = sampler(batch_of(0), "a"), sampler(batch_of(1), "b")
    torch.rand(7)
    assert sampler(batch_of(1), "b") == second and sampler(batch_of(0), "a") == first
    assert texts(first) != texts(second) and len(set(texts(first))) > 1
    assert texts(sampler_of(tiny_u2llm, seed=1)(batch_of(0), "a")) != texts(first)


def test_the_generator_outside_is_left_alone(tiny_u2llm: U2LLM) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sampler_of(tiny_u2llm)(batch_of(0), "a")
    assert torch.equal(torch.rand(3), expected)


def test_the_image_is_encoded_once(tiny_u2llm: U2LLM) -> None:
    calls = []
    tiny_u2llm.model.vision_tower.register_forward_hook(lambda module, inputs, output: calls.append(1))
    assert len(sampler_of(tiny_u2llm, num_samples=6)(batch_of(0), "a")) == 6
    assert len(calls) == 1


def test_top_k_of_the_model_does_not_count(tiny_u2llm: U2LLM) -> None:
    tiny_u2llm.generation_config.top_k = 1
    assert len(set(texts(sampler_of(tiny_u2llm, top_p=1.0)(batch_of(0), "a")))) > 1
    assert len(set(texts(sampler_of(tiny_u2llm, top_p=1e-6)(batch_of(0), "a")))) == 1


def test_text_length_and_end(tiny_u2llm: U2LLM) -> None:
    sampler = sampler_of(tiny_u2llm)
    rows = torch.tensor([[99, 99, 5, 6, 1, 0], [99, 99, 5, 6, 7, 8], [99, 99, 1, 0, 0, 0]])
    sampler.inferer = lambda *args, **kwargs: rows[:, 2:]
    assert sampler(batch_of(0), "a") == [
        {"text": "5 6", "whole": True, "tokens": 3},
        {"text": "5 6 7 8", "whole": False, "tokens": 4},
        {"text": "", "whole": True, "tokens": 1},
    ]


def test_a_network_in_training_mode_is_set_to_evaluation(tiny_u2llm: U2LLM) -> None:
    assert not sampler_of(tiny_u2llm.train()).network.training


@pytest.mark.parametrize("options", [{"num_samples": 1}, {"temperature": 0}, {"top_p": 1.5}, {"max_new_tokens": 0}])
def test_settings_are_checked(tiny_u2llm: U2LLM, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        sampler_of(tiny_u2llm, **options)
