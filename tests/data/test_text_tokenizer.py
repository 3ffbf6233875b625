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

from pathlib import Path

import pytest

from monai_u2.data import load_text_tokenizer, train_text_tokenizer
from monai_u2.data.phantom import grammar_texts
from monai_u2.data.text_tokenizer import decode_answer
from monai_u2.exceptions import InputError


def test_any_text_survives() -> None:
    tokenizer = train_text_tokenizer(["The lungs are clear."], vocab_size=300)
    for text in ("The lungs are clear.", "Größe ≥ 12 mm — 肺", "  two\n\nlines\t"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    tokenizer = train_text_tokenizer(["A 20 mm nodule."], vocab_size=300)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_text_tokenizer(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.convert_tokens_to_ids("<im_patch>") == tokenizer.convert_tokens_to_ids("<im_patch>")
    chat = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == "<|user|>Q<|end|><|assistant|>A<|end|>"


def test_an_answer_ends_where_the_model_ended_it() -> None:
    tokenizer = train_text_tokenizer(["A 20 mm nodule."], vocab_size=300)
    ids, end, padding = tokenizer("A nodule.")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id
    whole = {"text": "A nodule.", "whole": True, "tokens": len(ids) + 1}
    assert decode_answer([*ids, end, padding, padding], tokenizer) == whole
    assert decode_answer(ids, tokenizer) == {"text": "A nodule.", "whole": False, "tokens": len(ids)}


def test_the_bundles_tokenizer_is_that_of_the_grammar(bundle: Path) -> None:
    """The shipped files are what the documented call gives."""
    shipped = load_text_tokenizer(bundle / "models" / "text_tokenizer")
    assert train_text_tokenizer(grammar_texts(1500, seed=0), vocab_size=768).get_vocab() == shipped.get_vocab()


def test_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokenizer.json is missing"):
        load_text_tokenizer(tmp_path)
