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

"""What a run has done so far, case by case, so that it can be broken off at any time."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai_u2.data.records import write_text_atomically
from monai_u2.exceptions import InputError

logger = logging.getLogger(__name__)


def check_settings(folder: str | os.PathLike[str], settings: Mapping[str, Any], made: str) -> None:
    """Write `settings.json` into a folder, or check that what is there was made with the same settings.

    Args:
        folder: the folder, made where needed.
        settings: JSON types.
        made: what was made with them, for the message.

    Raises:
        InputError: when the folder's are others.
    """
    path = Path(folder) / "settings.json"
    if not path.exists():
        write_text_atomically(path, json.dumps(settings, indent=4) + "\n")
    found, own = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(settings))
    other = [name for name in own if found.get(name) != own[name]]
    if other:
        name = other[0]
        raise InputError(
            f"{folder}: its {made} were made with another {name} ({found.get(name)}) than asked for ({own[name]}); "
            "expected the same. Give another output_dir, or delete this one."
        )


class Journal:
    """JSON Lines files that grow by one entry a case: each process appends to its own and reads those of all.

    A process that is killed while it writes leaves a last line without an end; that line is dropped with a warning.

    Args:
        folder: folder of the files, made where needed.
        name: beginning of the files' names.
        shard: number of this process.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str, shard: int = 0) -> None:
        self.folder = Path(folder)
        self.name = name
        self.path = self.folder / f"{name}-{shard:05d}.jsonl"
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._drop_broken_line()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add an entry; it is with the operating system when this returns."""
        with self.path.open("ab") as file:
            file.write(json.dumps(dict(entry), ensure_ascii=False).encode() + b"\n")

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of all processes, file by file.

        Raises:
            InputError: for a line that is damaged.
        """
        for path in sorted(self.folder.glob(f"{self.name}-[0-9]*.jsonl")):
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.endswith(b"\n"):  # else another process is just writing it, or was killed
                        yield _parsed(line, f"{path}, line {number}")

    def _drop_broken_line(self) -> None:
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            logger.warning("%s: the last line was broken off; it is dropped, and its case done again", self.path.name)
            with self.path.open("r+b") as file:
                file.truncate(end)


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(
            f"{where}: is damaged ({type(error).__name__}); delete the line, its case is done again."
        ) from error
    if not isinstance(entry, dict) or "case_key" not in entry:
        raise InputError(f"{where}: is no entry of a case; delete the line, or give another folder.")
    return entry
