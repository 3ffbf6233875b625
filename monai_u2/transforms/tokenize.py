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

"""Plain texts to token ids, without a chat template."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple

from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenizeTextd(MapTransform):
    """Texts to token ids for a text encoder: adds `input_ids`, a list with one tensor a text.

    Args:
        keys: key of the text (a string or a list of them).
        tokenizer: text tokenizer.
        max_length: largest number of tokens; a longer text is refused, never cut.
    """

    def __init__(self, keys: KeysCollection, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        super().__init__(keys)
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: the case.

        Raises:
            InputError: when a text is empty or longer than `max_length` tokens.
        """
        d = dict(data)
        ids = []
        for text in ensure_tuple(d[self.first_key(d)]):
            tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if not tokens:
                raise InputError("a text to encode is empty; expected a report.")
            if len(tokens) > self.max_length:
                raise InputError(
                    f"a text of {len(text)} characters has {len(tokens)} tokens, more than max_length "
                    f"{self.max_length}; raise max_length or shorten it."
                )
            ids.append(torch.tensor(tokens))
        d["input_ids"] = ids
        return d
