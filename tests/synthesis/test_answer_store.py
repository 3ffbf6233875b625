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

"""Answers on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from monai_u2.chat_client import ChatAnswer
from monai_u2.data import Journal
from monai_u2.exceptions import InputError
from monai_u2.synthesis import AnswerStore


def test_answers_of_all_processes_from_any_thread(tmp_path: Path) -> None:
    stores = [AnswerStore(tmp_path, shard) for shard in range(2)]
    answers = {f"{number:x}": ChatAnswer(text=f"ä\n{number}" * 500, prompt_tokens=number) for number in range(60)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: stores[int(item[0], 16) % 2].put(*item), answers.items()))
    again = AnswerStore(tmp_path, 7)
    assert len(again) == 60 and all(again.get(key) == answer for key, answer in answers.items())
    assert again.get("none") is None


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path, "answers").append({"case_key": "a", "score": 1})
    with pytest.raises(InputError, match="has the keys score"):
        AnswerStore(tmp_path)
