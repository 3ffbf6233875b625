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

"""Judgements on disk, so that no pair of reports is judged twice."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path

from monai_u2.data.records import write_text_atomically
from monai_u2.judges.base import FindingErrors

logger = logging.getLogger(__name__)


class JudgementCache:
    """Judgements as files, one for each pair of reports.

    A file is named by the hash of judge, version and both texts, and holds the judgement alone: no report, but what the
    judge explains. Files appear whole or not at all, so that several threads and processes may share a folder.

    Args:
        folder: made where needed; None for no cache.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)

    def get(self, key: str) -> FindingErrors | None:
        """Return the judgement of a key of :func:`fingerprint`, None where there is none."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            return FindingErrors(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            logger.warning("cached judgement %s is damaged (%s): judged again", path.name, type(error).__name__)
            return None

    def put(self, key: str, errors: FindingErrors) -> None:
        """Keep a judgement; one that failed isn't kept, so that it is tried again."""
        path = self._path(key)
        if path is not None and errors.status != "failed":
            write_text_atomically(path, json.dumps(dataclasses.asdict(errors), ensure_ascii=False) + "\n")

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / key[:2] / f"{key}.json"
