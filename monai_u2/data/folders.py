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


"""Files of a folder, also behind links."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["files_below"]


def files_below(folder: str | os.PathLike[str]) -> list[Path]:
    """Return all files below a folder, sorted; linked folders are entered, each folder once."""
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        identity = os.stat(parent)
        if (identity.st_dev, identity.st_ino) in seen:  # by another way, or a link to a folder above
            folders.clear()
            continue
        seen.add((identity.st_dev, identity.st_ino))
        folders.sort()
        files += [path for path in (Path(parent, name) for name in names) if path.is_file()]
    return sorted(files)
