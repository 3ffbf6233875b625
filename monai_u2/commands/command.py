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

"""What the commands share: when they run, how their arguments are checked, and where the bundle is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_u2.exceptions import InputError

__all__ = ["Command", "check_whole_number", "check_writable", "find_bundle"]

DEFAULT_BUNDLE = Path("bundles") / "u2llm"
_WAYS_OUT = {
    "configs/inference.json": "Give the bundle's root folder with --bundle DIR.",
    "configs/sft.json": "Give the training config with --config FILE.",
    "models/model.pt": "Train it (see the bundle's README), or give a bundle with a model with --bundle DIR.",
}


class Command:
    """A command whose arguments were all understood: fire runs a function before it complains of an unknown flag."""

    def __init__(self, function: Callable[..., int | None], **arguments: Any) -> None:
        self._function = function
        self._arguments = arguments

    # a public method would be one of fire's commands
    def _run(self) -> int:
        """Run it and return the exit code."""
        return self._function(**self._arguments) or 0


def check_whole_number(name: str, number: Any, lowest: int) -> None:
    """Refuse what is no whole number of at least ``lowest``."""
    if not isinstance(number, int) or isinstance(number, bool) or number < lowest:
        raise InputError(f"--{name} is {number!r}; expected a whole number of at least {lowest}.")


def check_writable(folder: Path) -> None:
    """Check the folder, or the nearest one above it that is there, before something is computed in vain."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    if not place.is_dir():
        raise InputError(f"{place}: is a file; expected a folder for --output. Give another name.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"{place}: --output can't be written there; expected a folder that you may write to.")


def find_bundle(bundle: str | None, *needed: str) -> Path:
    """Return the root of the bundle asked for, or of the default one; it has the needed files."""
    if bundle is not None:
        candidates = [Path(bundle).expanduser()]
    else:
        candidates = [Path.cwd() / DEFAULT_BUNDLE, Path(__file__).resolve().parents[2] / DEFAULT_BUNDLE]
    root = next((path.resolve() for path in candidates if path.is_dir()), None)
    if root is None:
        searched = " or ".join(str(path) for path in candidates)
        raise InputError(
            f"no bundle at {searched}; expected a bundle's folder. The repository of monai_u2 has one, bundles/u2llm: "
            "work in a clone of it, or pass the place of one (report: --bundle DIR, train: --config FILE)."
        )
    for name in needed:
        if not (root / name).is_file():
            raise InputError(f"{root}: no {name} in it; expected a bundle with configs and model. {_WAYS_OUT[name]}")
    return root
