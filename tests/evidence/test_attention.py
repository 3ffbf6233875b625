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

from monai_u2.evidence.attention import (
    AttentionEvidence,
    RecordedAttention,
    on_grid,
    record_language_attention,
    record_tokenizer_attention,
    selection_weights,
)
from monai_u2.evidence.methods import AnsweredCase, answer_log_probs, patch_tokens
from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM, U2LLMConfig
from monai_u2.networks.token_selection import TopKTokenSelection

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
VISION = {"image_size": (8, 32, 32), "patch_size": (4, 8, 8), "hidden_size": 24, "mlp_dim": 48, "num_layers": 1}
TOKENIZER = {"num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": 4}


def tiny(family: str = "llama", **changed: object) -> U2LLM:
    torch.manual_seed(0)
    options = {"text_config": SIZES | {"model_type": family}, "vision": VISION | {"num_heads": 4}}
    options |= {"u2_tokenizer": TOKENIZER, "image_token_id": 96, "num_findings": 3}
    return U2LLM(U2LLMConfig(**{**options, **changed})).eval()


@pytest.fixture
def case() -> AnsweredCase:
    generator = torch.Generator().manual_seed(1)
    question = torch.randint(2, 90, (5,), generator=generator)
    ids = torch.cat([torch.tensor([3]), torch.full((4,), 96), question])
    return AnsweredCase(torch.rand(3, 8, 32, 32, generator=generator), ids, ids[-4:], question)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_recorded_attention_is_that_of_the_eager_model(family: str, case: AnsweredCase) -> None:
    model = tiny(family)
    language = model.model.language_model
    embeds = torch.randn(1, 14, 32)
    rows, columns = slice(9, 13), torch.tensor([1, 2, 3, 4])
    recorded = RecordedAttention()
    implementation = language.config._attn_implementation
    with torch.no_grad():
        before = language(inputs_embeds=embeds, use_cache=False).last_hidden_state
        with record_language_attention(language, rows, columns, recorded):
            during = language(inputs_embeds=embeds, use_cache=False).last_hidden_state
        assert language.config._attn_implementation == implementation
        language.set_attn_implementation("eager")
        eager = language(inputs_embeds=embeds, use_cache=False, output_attentions=True).attentions
    torch.testing.assert_close(during, before)
    assert len(recorded.language) == len(eager) == 2
    for found, expected in zip(recorded.language, eager):
        torch.testing.assert_close(found, expected[0, :, rows].mean(dim=0)[:, columns])


def test_recorded_aggregation_and_selection(case: AnsweredCase) -> None:
    """Weights of the tokens that were selected, as the tokenizer's own steps use them."""
    model = tiny()
    tokenizer, recorded = model.model.u2_tokenizer, RecordedAttention()
    seen: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, None]) -> None:
        seen.extend((args[0][0], output[0][0]))

    tokenizer.pooling.selections[1].register_forward_hook(keep)
    with torch.no_grad(), record_tokenizer_attention(tokenizer, recorded):
        answer_log_probs(model, case, patch_tokens(model, case)[None])
    assert [tuple(weights.shape) for weights in recorded.selections] == [(8, 12), (4, 3), (2, 3)]
    torch.testing.assert_close(recorded.selections[1] @ seen[0], seen[1])
    assert [tuple(weights.shape) for weights in recorded.aggregation] == [(4, 14)]
    torch.testing.assert_close(recorded.aggregation[0].sum(dim=1), torch.ones(4))
    assert not any(block.visual_attention._forward_pre_hooks for block in tokenizer.aggregator)
    assert not any(selection._forward_pre_hooks for selection in tokenizer.pooling.selections)


def test_weights_of_the_best_tokens() -> None:
    torch.manual_seed(0)
    selection = TopKTokenSelection(8, 5)
    x, mask = torch.randn(1, 4, 8), torch.tensor([[True, True, False, True]])
    chosen, weights = selection(x, mask)
    torch.testing.assert_close(selection_weights(selection, x, mask) @ x, chosen * weights)


def test_pooled_tokens_share_their_weight() -> None:
    weights = torch.rand(2, 3 * 1 * 2 * 2)
    spread = on_grid(weights, slabs=3, grid=(2, 3, 4), scale=2)
    assert spread.shape == (2, 3, 24)
    torch.testing.assert_close(spread.sum(dim=(1, 2)), weights.sum(dim=1))
    window = spread.unflatten(2, (2, 3, 4))[0, 1, :, :2, 2:]
    torch.testing.assert_close(window, (weights[0, 5] / 8).expand(2, 2, 2))
    torch.testing.assert_close(spread.unflatten(2, (2, 3, 4))[0, 1, 0, 2, 0], weights[0, 6] / 4)


@pytest.mark.parametrize("pooling_size", [1, 2])
def test_evidence_holds_the_attention_to_the_image(case: AnsweredCase, pooling_size: int) -> None:
    model = tiny(projector={"pooling_size": pooling_size})
    weights = AttentionEvidence()(model, case, [[0, 1], [2, 3]])
    assert weights.shape == (2, 3, 32) and weights.min() >= 0
    recorded = RecordedAttention()
    with (
        torch.no_grad(),
        record_language_attention(model.model.language_model, slice(9, 13), torch.arange(1, 5), recorded),
    ):
        answer_log_probs(model, case, patch_tokens(model, case)[None])
    to_image = torch.stack(recorded.language).mean(dim=0).sum(dim=1)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.stack([to_image[:2].mean(), to_image[2:].mean()]))


def test_other_tokenizers_are_refused(case: AnsweredCase) -> None:
    model = tiny(u2_tokenizer={"type": "linear", "pooled_grid": (1, 2, 2)})
    with pytest.raises(InputError, match="needs a U2Tokenizer; the model has a LinearTokens"):
        AttentionEvidence()(model, case, [[0]])
