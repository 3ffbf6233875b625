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
from transformers import PreTrainedTokenizerBase

from monai_u2.exceptions import InputError
from monai_u2.transforms import TokenizeTextd


def test_each_text_becomes_its_ids(text_tokenizer: PreTrainedTokenizerBase) -> None:
    texts = ["The lungs are clear.", "Normal CT."]
    ids = TokenizeTextd("answer", text_tokenizer, max_length=64)({"answer": texts})["input_ids"]
    assert [text_tokenizer.decode(row) for row in ids] == texts


def test_nothing_is_cut_or_left_out(text_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="^a text of 20 characters has .* tokens, more than max_length 2"):
        TokenizeTextd("answer", text_tokenizer, max_length=2)({"answer": "The lungs are clear."})
    with pytest.raises(InputError, match="is empty"):
        TokenizeTextd("answer", text_tokenizer, max_length=2)({"answer": ""})
