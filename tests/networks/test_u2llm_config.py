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
from huggingface_hub.errors import StrictDataclassFieldValidationError

from monai_u2.networks import U2LLMConfig

TEXT = {"model_type": "qwen3", "hidden_size": 32, "vocab_size": 50}


@pytest.mark.parametrize("tied", [True, False])
def test_language_model_is_any_and_its_tie_is_mirrored(tied: bool) -> None:
    config = U2LLMConfig(text_config={**TEXT, "tie_word_embeddings": tied}, vision={"hidden_size": 48})
    assert type(config.text_config).__name__ == "Qwen3Config"
    assert config.tie_word_embeddings is tied
    again = U2LLMConfig.from_dict(config.to_dict())
    assert again.vision == {"hidden_size": 48} and again.text_config.hidden_size == 32


def test_wrong_types_are_refused() -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match="num_findings"):
        U2LLMConfig(text_config=TEXT, num_findings="many")


@pytest.mark.parametrize("tokenizer", [{}, {"type": "u2"}, {"type": "linear", "pooled_grid": (1, 2, 2)}])
def test_tokenizer_is_one_of_a_few(tokenizer: dict[str, object]) -> None:
    config = U2LLMConfig(text_config=TEXT, u2_tokenizer=tokenizer)
    assert U2LLMConfig.from_dict(config.to_dict()).u2_tokenizer == tokenizer


def test_unknown_tokenizer_names_the_options() -> None:
    with pytest.raises(ValueError, match="u2_tokenizer type 'qformer' must be one of u2, paper, linear, resampler"):
        U2LLMConfig(text_config=TEXT, u2_tokenizer={"type": "qformer"})


@pytest.mark.parametrize(("findings", "tokens"), [(0, 2), (5, -1)])
def test_finding_tokens_need_findings(findings: int, tokens: int) -> None:
    with pytest.raises(ValueError, match=f"num_finding_tokens {tokens} with num_findings {findings}"):
        U2LLMConfig(text_config=TEXT, num_findings=findings, num_finding_tokens=tokens)
