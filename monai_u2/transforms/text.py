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

"""Questions and answers to token ids through the chat template, and back."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform, Transform
from monai.utils import ensure_tuple

from monai_u2.data.mixture import drawn_kinds
from monai_u2.data.records import question_kind
from monai_u2.data.text_tokenizer import IMAGE_TOKEN
from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
PROMPT_KEY = "prompt"
"""Key of the prompt in an image's metadata."""


class ReportPrompt(Transform):
    """One question, and in training its answer, to token ids.

    The prompt is the chat template's user turn: the image placeholders, then the question. The labels are the answer's
    tokens alone: what the template adds to the prompt-only rendering.

    Args:
        tokenizer: text tokenizer with chat template and image placeholder.
        num_image_tokens: number of placeholders: the U2Tokenizer's `num_queries`, and `num_finding_tokens` more.
        max_length: the language model's context in tokens.
        max_new_tokens: tokens kept free for the answer where none is given.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, num_image_tokens: int, max_length: int, max_new_tokens: int = 0
    ) -> None:
        self.tokenizer = tokenizer
        self.num_image_tokens = num_image_tokens
        self.max_length = max_length
        self.max_new_tokens = max_new_tokens

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _check_plain(self, name: str, text: str) -> None:
        if not text.strip():
            raise InputError(f"{name} is empty; expected a text.")
        for token in self.tokenizer.all_special_tokens:
            if token in text:
                place = text.index(token)  # reports may hold names: none is quoted
                raise InputError(f"{name} contains the control token {token!r} at character {place}; remove it.")

    def __call__(self, question: str, answer: str | None = None) -> dict[str, torch.Tensor]:
        """
        Args:
            question: the question.
            answer: the answer to train on; None for generation.

        Returns:
            `input_ids (L,)`, `question_ids (Lq,)` and, with an answer, `labels (L,)`, -100 where nothing is trained on.

        Raises:
            InputError: when a text is empty or holds control tokens, or it all is longer than the context.
        """
        self._check_plain("question", question)
        user = {"role": "user", "content": IMAGE_TOKEN * self.num_image_tokens + question}
        prompt = self._render([user], add_generation_prompt=True)
        length = len(prompt) + self.max_new_tokens
        ids = prompt
        if answer is not None:
            self._check_plain("answer", answer)
            ids = self._render([user, {"role": "assistant", "content": answer}], add_generation_prompt=False)
            length = len(ids)
            if ids[: len(prompt)] != prompt:
                raise ValueError(
                    "the chat template renders the prompt differently with an answer; labels can't be told."
                )
        if length > self.max_length:
            raise InputError(
                f"question {question[:60]!r}… is too long: {len(prompt)} prompt tokens ({self.num_image_tokens} of "
                f"them for the "
                f"image) and {length - len(prompt)} for the answer make {length}, the context holds {self.max_length}; "
                "shorten the question or the answer, or raise max_length with a model of longer context."
            )
        out = {
            "input_ids": torch.tensor(ids),
            "question_ids": torch.tensor(self.tokenizer(question, add_special_tokens=False)["input_ids"]),
        }
        if answer is not None:
            out["labels"] = torch.tensor([IGNORE_INDEX] * len(prompt) + ids[len(prompt) :])
        return out


class ReportPromptd(MapTransform):
    """Dictionary version of :class:`ReportPrompt`, for one or several questions about one image.

    Adds `input_ids`, `question_ids` and, with answers, `labels`: each a list with one tensor a question.

    Args:
        keys: key of the question (a string or a list of them).
        tokenizer: see :class:`ReportPrompt`, as the next three.
        num_image_tokens: see :class:`ReportPrompt`.
        max_length: see :class:`ReportPrompt`.
        max_new_tokens: see :class:`ReportPrompt`.
        answer_key: key of the answers; None for generation.
    """

    def __init__(
        self,
        keys: KeysCollection,
        tokenizer: PreTrainedTokenizerBase,
        num_image_tokens: int,
        max_length: int,
        max_new_tokens: int = 0,
        answer_key: str | None = None,
    ) -> None:
        super().__init__(keys)
        self.prompt = ReportPrompt(tokenizer, num_image_tokens, max_length, max_new_tokens)
        self.answer_key = answer_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        questions = ensure_tuple(d[self.first_key(d)])
        answers: Sequence[str | None] = [None] * len(questions)
        if self.answer_key is not None:
            answers = ensure_tuple(d[self.answer_key])
            if len(answers) != len(questions):
                raise InputError(f"{len(questions)} questions have {len(answers)} answers; expected one each.")
        prompts = [self.prompt(question, answer) for question, answer in zip(questions, answers)]
        for name in prompts[0]:
            d[name] = [prompt[name] for prompt in prompts]
        return d


class AttachPromptd(MapTransform):
    """Lay the prompt of :class:`ReportPromptd` beside the image, in its metadata: apps such as MONAI Label give an
    inferer the image alone, see :class:`monai_u2.inferers.ReportInferer`.

    It travels as JSON text, as prompts of different lengths can't be collated otherwise. An image without metadata, and
    one with several questions, stays as it is.

    Args:
        keys: keys of images.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if len(d["input_ids"]) != 1:
            return d
        prompt = json.dumps({name: d[name][0].tolist() for name in ("input_ids", "question_ids")})
        for key in self.key_iterator(d):
            if isinstance(d[key], MetaTensor):
                image = d[key]
                d[key] = MetaTensor(
                    image, meta={**image.meta, PROMPT_KEY: prompt}, applied_operations=image.applied_operations
                )
        return d


class PreferencePromptd(ReportPromptd):
    """Prompts of a preference pair: the question with the chosen answer, and the same with the rejected one.

    Adds `input_ids`, `question_ids` and `labels`, each a list of two, chosen first.

    Args:
        keys: key of the question.
        tokenizer: see :class:`ReportPrompt`, as the next two.
        num_image_tokens: see :class:`ReportPrompt`.
        max_length: see :class:`ReportPrompt`.
    """

    def __init__(
        self, keys: KeysCollection, tokenizer: PreTrainedTokenizerBase, num_image_tokens: int, max_length: int
    ) -> None:
        super().__init__(keys, tokenizer, num_image_tokens, max_length, answer_key="answers")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: the case, with `chosen` and `rejected`.
        """
        key = self.first_key(dict(data))
        pair = {**data, key: [data[key]] * 2, "answers": [data["chosen"], data["rejected"]]}
        prompts = super().__call__(pair)
        return {**data, **{name: prompts[name] for name in ("input_ids", "question_ids", "labels")}}


class RandSelectConversationsd(RandomizableTransform, MapTransform):
    """Draw some of a case's conversations, at random each time: `question` and `answer` become lists.

    Each conversation is drawn in two steps: a kind by its weight among the kinds of which the case has one left, then
    one of this kind's conversations evenly. None is drawn twice. A kind of which a case has few is thus drawn less
    often than its weight says once it is used up: a case has one report, whatever the report's weight. Conversations
    without a kind count as "report".

    A case with fewer conversations of the kinds with a weight gives what it has.

    Args:
        keys: key of the conversations, a list of `{"question", "answer", "kind"}`.
        num_conversations: number of conversations to draw.
        weights: relative probability of each kind, 0 or more; a kind that isn't named or has 0 is never drawn.

    Raises:
        ValueError: for a number of conversations below 1; for negative, infinite or all-zero weights.

    Example::

        weights = {"report": 0.4, "region": 0.2, "presence": 0.15, "side": 0.1, "location": 0.1, "size": 0.05}
        RandSelectConversationsd("conversations", num_conversations=3, weights=weights)
    """

    def __init__(
        self,
        keys: KeysCollection,
        num_conversations: int,
        weights: Mapping[str, float],
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob=1.0)
        if num_conversations < 1:
            raise ValueError(f"num_conversations {num_conversations} must be at least 1.")
        self.num_conversations = num_conversations
        self.weights = drawn_kinds(weights)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            InputError: when none of the case's conversations is of a kind with a weight.
        """
        d = dict(data)
        chosen = self._draw(d.pop(self.first_key(d)))
        d["question"] = [c["question"] for c in chosen]
        d["answer"] = [c["answer"] for c in chosen]
        return d

    def _draw(self, conversations: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        left: dict[str, list[Mapping[str, Any]]] = {}
        for conversation in conversations:
            if question_kind(conversation) in self.weights:
                left.setdefault(question_kind(conversation), []).append(conversation)
        if not left:
            raise InputError(
                f"the case's questions are of the kinds {sorted({question_kind(c) for c in conversations})}; expected "
                f"some of {list(self.weights)}, the kinds with a weight. Give one of its kinds a weight, or drop the "
                "case."
            )
        chosen: list[Mapping[str, Any]] = []
        while left and len(chosen) < self.num_conversations:
            kinds = list(left)
            shares = np.array([self.weights[kind] for kind in kinds])
            kind = kinds[self.R.choice(len(kinds), p=shares / shares.sum())]
            chosen.append(left[kind].pop(self.R.randint(len(left[kind]))))
            if not left[kind]:
                del left[kind]
        return chosen


class DecodeReportd(MapTransform):
    """Generated token ids to text, and whether the text is whole: ended by the model, not cut off at its largest
    length.

    Args:
        keys: key of the ids `(L,)`.
        tokenizer: text tokenizer.
        report_key: key of the text; whether it is whole stands at `{report_key}_whole`.
    """

    def __init__(self, keys: KeysCollection, tokenizer: PreTrainedTokenizerBase, report_key: str = "report") -> None:
        super().__init__(keys)
        self.tokenizer = tokenizer
        self.report_key = report_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        ids = torch.as_tensor(d[self.first_key(d)]).int().tolist()  # also from a GPU
        d[f"{self.report_key}_whole"] = self.tokenizer.eos_token_id in ids
        d[self.report_key] = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return d
