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

from monai_u2.evidence.methods import (
    AnsweredCase,
    EvidenceMethod,
    GradientEvidence,
    OcclusionEvidence,
    answer_log_probs,
    image_gains,
    mean_tokens,
    patch_tokens,
)
from monai_u2.networks import U2LLM

SPANS = [[0, 1, 2], [4, 5]]


@pytest.fixture
def case() -> AnsweredCase:
    generator = torch.Generator().manual_seed(1)
    question = torch.randint(2, 90, (5,), generator=generator)
    return AnsweredCase(
        image=torch.rand(2, 8, 32, 32, generator=generator),
        input_ids=torch.cat([torch.full((4,), 99), question]),
        answer_ids=torch.randint(2, 90, (6,), generator=generator),
        question_ids=question,
    )


def test_log_probs_are_those_of_the_model(tiny_u2llm: U2LLM, case: AnsweredCase) -> None:
    with torch.no_grad():
        found = answer_log_probs(tiny_u2llm, case, patch_tokens(tiny_u2llm, case)[None])[0]
        ids = torch.cat([case.input_ids, case.answer_ids])[None]
        logits = tiny_u2llm(case.image[None], ids, question_ids=case.question_ids[None]).logits[0]
    before = len(case.input_ids) - 1
    expected = logits.log_softmax(1)[range(before, before + 6), case.answer_ids]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("method", [GradientEvidence(), GradientEvidence(steps=1), OcclusionEvidence()])
def test_each_sentence_has_a_weight_for_each_token(
    tiny_u2llm: U2LLM, case: AnsweredCase, method: EvidenceMethod
) -> None:
    weights = method(tiny_u2llm, case, SPANS)
    assert weights.shape == (2, 2, 32) and not weights.requires_grad
    assert weights.min() >= 0 and weights.amax(dim=(1, 2)).min() > 0
    assert not torch.allclose(weights[0], weights[1])
    assert all(parameter.grad is None for parameter in tiny_u2llm.parameters())
    torch.testing.assert_close(method(tiny_u2llm, case, SPANS), weights)


def test_gradient_tells_what_a_small_step_towards_the_mean_changes(tiny_u2llm: U2LLM, case: AnsweredCase) -> None:
    model = tiny_u2llm.double()
    patches = patch_tokens(model, case)
    weights = GradientEvidence(steps=1)(model, case, SPANS)[1]
    step = 1e-4
    for slab, token in ((0, 3), (0, 20), (1, 7), (1, 31)):
        moved = patches.clone()
        moved[slab, token] += step * (mean_tokens(patches)[slab, token] - patches[slab, token])
        with torch.no_grad():
            whole, changed = answer_log_probs(model, case, torch.stack([patches, moved]))[:, SPANS[1]].sum(dim=1)
        # the sum of float32 log-probabilities is known to about 1e-6
        assert float(weights[slab, token]) == pytest.approx(max(float(whole - changed) / step, 0), abs=2e-2)


def test_steps_from_the_mean_add_up_to_the_gain(tiny_u2llm: U2LLM, case: AnsweredCase) -> None:
    added = GradientEvidence(steps=100).contributions(tiny_u2llm, case, SPANS)
    assert added.sum(dim=(1, 2)).tolist() == pytest.approx(image_gains(tiny_u2llm, case, SPANS), abs=5e-3)


def test_occlusion_is_the_drop_of_the_log_likelihood(tiny_u2llm: U2LLM, case: AnsweredCase) -> None:
    patches = patch_tokens(tiny_u2llm, case)
    weights = OcclusionEvidence(box=2, batch_size=3)(tiny_u2llm, case, SPANS).unflatten(2, (2, 4, 4))
    occluded = patches.unflatten(1, (2, 4, 4)).clone()
    occluded[1, :, 2:4, 0:2] = patches.mean(dim=(0, 1))
    with torch.no_grad():
        whole = answer_log_probs(tiny_u2llm, case, patches[None])[0]
        changed = answer_log_probs(tiny_u2llm, case, occluded.flatten(1, 3)[None])[0]
    for weight, span in zip(weights, SPANS):
        expected = (whole - changed)[span].sum().clamp(min=0)
        torch.testing.assert_close(weight[1, :, 2:4, 0:2], expected.expand(2, 2, 2))


def test_image_gain_is_that_over_mean_tokens(tiny_u2llm: U2LLM, case: AnsweredCase) -> None:
    gains = image_gains(tiny_u2llm, case, SPANS)
    patches = patch_tokens(tiny_u2llm, case)
    with torch.no_grad():
        seen = answer_log_probs(tiny_u2llm, case, patches[None])[0]
        unseen = answer_log_probs(tiny_u2llm, case, mean_tokens(patches)[None])[0]
    assert gains == pytest.approx([float((seen - unseen)[span].sum()) for span in SPANS], abs=1e-5)
