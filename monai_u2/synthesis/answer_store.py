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

"""Answers on disk, so that none is asked for twice."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict

from monai_u2.chat_client import ChatAnswer
from monai_u2.data.journal import Journal
from monai_u2.exceptions import InputError


class AnswerStore:
    """The answers that a folder holds, by the hash of their requests.

    Every process appends to a file of its own and reads those of all when it starts. **The files hold what the model
    wrote about the reports.** One process at a time may have the same share.

    Args:
        folder: made where needed.
        shard: number of this process.
    """

    def __init__(self, folder: str | os.PathLike[str], shard: int = 0) -> None:
        self._journal = Journal(folder, "answers", shard)
        self._lock = threading.Lock()
        self._answers: dict[str, ChatAnswer] = {}
        for entry in self._journal.entries():
            key = entry.pop("case_key")
            try:
                self._answers[key] = ChatAnswer(**entry)
            except TypeError as error:
                raise InputError(
                    f"{folder}: a line of answers-*.jsonl has the keys {', '.join(entry)}; expected those of an "
                    "answer. Give another cache_dir."
                ) from error

    def get(self, key: str) -> ChatAnswer | None:
        """Return the answer to a request, None where there is none."""
        return self._answers.get(key)

    def put(self, key: str, answer: ChatAnswer) -> None:
        """Keep an answer; it is with the operating system when this returns. Any thread may call it."""
        with self._lock:
            self._journal.append({"case_key": key, **asdict(answer)})
            self._answers[key] = answer

    def __len__(self) -> int:
        return len(self._answers)
