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

"""The text tokenizer: one that is trained on a corpus, or one of a Hugging Face language model, with the image
placeholder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_TOKEN = "<im_patch>"
PAD_TOKEN = "<|pad|>"
END_TOKEN = "<|end|>"
USER_TOKEN = "<|user|>"
ASSISTANT_TOKEN = "<|assistant|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_text_tokenizer(texts: Iterable[str], vocab_size: int = 1024) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer with chat template, image placeholder and end-of-turn token.

    Args:
        texts: the corpus.
        vocab_size: largest vocabulary, special tokens and the 256 bytes included.

    Returns:
        A `PreTrainedTokenizerFast` that encodes any text without unknown tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    # digits one by one: a size is read off its digits, and no number is a word of its own
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, END_TOKEN, USER_TOKEN, ASSISTANT_TOKEN, IMAGE_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        extra_special_tokens=[USER_TOKEN, ASSISTANT_TOKEN, IMAGE_TOKEN],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def load_text_tokenizer(path: str | PathLike[str]) -> PreTrainedTokenizerBase:
    """Load a text tokenizer from a folder, ours or a language model's; nothing is fetched from a hub.

    A tokenizer without the image placeholder gets it as one more special token.

    Args:
        path: folder with `tokenizer.json` and `tokenizer_config.json`.

    Raises:
        InputError: when the folder holds no tokenizer, or the tokenizer has no chat template.
    """
    from transformers import AutoTokenizer

    if not (Path(path) / "tokenizer.json").is_file():
        raise InputError(
            f"text tokenizer folder {path}: tokenizer.json is missing; expected the folder of a tokenizer."
        )
    tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise InputError(
            f"text tokenizer folder {path}: no chat template; use the tokenizer of an instruction-tuned model."
        )
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"extra_special_tokens": [*tokenizer.extra_special_tokens, IMAGE_TOKEN]})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def decode_answer(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Read generated token ids up to the end of the turn.

    Args:
        ids: without the prompt.
        tokenizer: the model's.

    Returns:
        `text`, `whole` (the model ended it) and `tokens` (its length, the end included).
    """
    end = tokenizer.eos_token_id
    whole = end in ids
    ids = ids[: ids.index(end) + 1] if whole else ids
    return {"text": tokenizer.decode(ids, skip_special_tokens=True).strip(), "whole": whole, "tokens": len(ids)}
