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


"""What an answer rests on: a weight per visual token for each of its sentences, by the gradient or by occlusion."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monai_u2.networks.u2llm import U2LLM


@dataclass(frozen=True)
class AnsweredCase:
    """One image, one prompt about it, and the answer whose evidence is looked for.

    Args:
        image: `(T, D, H, W)`, slabs that are all there.
        input_ids: the prompt with its image placeholders `(L,)`, without padding.
        answer_ids: the answer `(A,)`.
        question_ids: the question that guides the U2Tokenizer `(Lq,)`, without padding; None for no question.
    """

    image: torch.Tensor
    input_ids: torch.Tensor
    answer_ids: torch.Tensor
    question_ids: torch.Tensor | None = None


@torch.no_grad()
def patch_tokens(model: U2LLM, case: AnsweredCase) -> torch.Tensor:
    """The vision tower's tokens of a case `(T, N, C)`."""
    return model.model.vision_tower(case.image[:, None].to(model.dtype))


def answer_log_probs(model: U2LLM, case: AnsweredCase, patches: torch.Tensor) -> torch.Tensor:
    """Log-probability of each token of the answer, given visual tokens.

    Args:
        model: the model.
        case: the case.
        patches: tokens of the vision tower in R versions `(R, T, N, C)`.

    Returns:
        `(R, A)`, float32.
    """
    rows = len(patches)
    image = case.image.expand(rows, *case.image.shape)
    questions = None if case.question_ids is None else case.question_ids.expand(rows, -1)
    encoded = model.model.encode_image(image, patches=patches.flatten(0, 1))
    features = model.model.guide_image(encoded.selected, questions, volume_finding_logits=encoded.volume_finding_logits)
    answer = case.answer_ids
    ids = torch.cat([case.input_ids, answer]).expand(rows, -1)
    hidden = model.model(model.model.embed_with_image(ids, features), use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[:, -len(answer) - 1 : -1]).float()
    return logits.log_softmax(dim=2).gather(2, answer.expand(rows, -1)[..., None])[..., 0]


def mean_tokens(patches: torch.Tensor) -> torch.Tensor:
    """Tokens of an image that is the same everywhere: the mean of a case's tokens `(T, N, C)` in all places."""
    return patches.mean(dim=(0, 1), keepdim=True).expand_as(patches)


@torch.no_grad()
def image_gains(model: U2LLM, case: AnsweredCase, spans: Sequence[Sequence[int]]) -> list[float]:
    """How much likelier the image makes each sentence: the difference of its log-likelihood (nats) to that with
    :func:`mean_tokens`, the sentences before it being given."""
    patches = patch_tokens(model, case)
    seen, unseen = answer_log_probs(model, case, torch.stack([patches, mean_tokens(patches)]))
    return [float((seen[span] - unseen[span]).sum()) for span in spans]


class EvidenceMethod(ABC):
    """From a case with its answer to a weight per visual token for each of the answer's sentences."""

    @abstractmethod
    def __call__(self, model: U2LLM, case: AnsweredCase, spans: Sequence[Sequence[int]]) -> torch.Tensor:
        """
        Args:
            model: the model, in evaluation mode.
            case: the case.
            spans: indexes of each sentence's tokens in the answer.

        Returns:
            Weights `(S, T, N)`, 0 or more, on the vision tower's tokens; 0 everywhere for a sentence without evidence.
        """


class GradientEvidence(EvidenceMethod):
    """Gradient × activation: the gradient of a sentence's log-likelihood with respect to the visual tokens, times what
    the tokens hold beyond their mean, where that is positive.

    The gradient is the mean of those on the straight way from mean tokens to the image's own (integrated gradients,
    Sundararajan et al., https://arxiv.org/abs/1703.01365): before positive parts are taken, the weights of a sentence
    add up to what the image gains it. With one step it is the gradient at the image alone, which vanishes for what the
    model is sure of. One forward pass from the visual tokens on for each step, one backward pass a step and sentence;
    the vision tower has no backward pass.

    Args:
        steps: steps of the way.
    """

    def __init__(self, steps: int = 5) -> None:
        self.shares = [(step + 1) / steps for step in range(steps)]

    def __call__(self, model: U2LLM, case: AnsweredCase, spans: Sequence[Sequence[int]]) -> torch.Tensor:
        return self.contributions(model, case, spans).clamp(min=0)

    def contributions(self, model: U2LLM, case: AnsweredCase, spans: Sequence[Sequence[int]]) -> torch.Tensor:
        """What each token adds to a sentence's log-likelihood (nats), or takes from it: `(S, T, N)`."""
        patches = patch_tokens(model, case)
        mean = mean_tokens(patches)
        weights = torch.zeros(len(spans), *patches.shape[:2], device=patches.device)
        for share in self.shares:
            tokens = (mean + share * (patches - mean)).requires_grad_()
            with torch.enable_grad():
                log_probs = answer_log_probs(model, case, tokens[None])[0]
            for weight, span in zip(weights, spans):
                with torch.enable_grad():
                    likelihood = log_probs[list(span)].sum()
                (gradient,) = torch.autograd.grad(likelihood, tokens, retain_graph=True)
                weight += ((gradient * (patches - mean)).sum(dim=2) / len(self.shares)).float()
        return weights


class OcclusionEvidence(EvidenceMethod):
    """Occlusion of token groups: by how much a sentence's log-likelihood drops when a box of tokens becomes the mean
    token (Zeiler and Fergus, https://arxiv.org/abs/1311.2901). Slow, one forward pass a box, and free of assumptions
    about the model: the reference.

    Args:
        box: edge of a box in tokens.
        batch_size: boxes at a time.
    """

    def __init__(self, box: int = 2, batch_size: int = 16) -> None:
        self.box = box
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, model: U2LLM, case: AnsweredCase, spans: Sequence[Sequence[int]]) -> torch.Tensor:
        patches = patch_tokens(model, case)
        grid = model.model.vision_tower.grid
        volume = patches.unflatten(1, grid).flatten(0, 1)
        mean = mean_tokens(patches)[0, 0]
        corners = list(itertools.product(*(range(0, size, self.box) for size in volume.shape[:3])))
        boxes = [tuple(slice(start, start + self.box) for start in corner) for corner in corners]
        weights = patches.new_zeros(len(spans), *volume.shape[:3], dtype=torch.float32)
        whole = answer_log_probs(model, case, patches[None])[0]
        for start in range(0, len(boxes), self.batch_size):
            chunk = boxes[start : start + self.batch_size]
            versions = volume.repeat(len(chunk), 1, 1, 1, 1)
            for version, box in zip(versions, chunk):
                version[box] = mean
            drops = whole - answer_log_probs(model, case, versions.unflatten(1, (len(patches), -1)).flatten(2, 4))
            for drop, box in zip(drops, chunk):
                for weight, span in zip(weights, spans):
                    weight[box] = drop[list(span)].sum().clamp(min=0)
        return weights.unflatten(1, (len(patches), -1)).flatten(2)
