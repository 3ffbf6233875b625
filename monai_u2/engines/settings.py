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

"""Checks of a training's settings before it starts."""

from __future__ import annotations

from typing import Any

from monai_u2.exceptions import InputError


def check_switches(**switches: Any) -> None:
    """Check that settings which are on or off are true or false.

    The command line of `monai.bundle` gives `--image_blind false` as the text "false", which Python takes for true.

    Args:
        switches: value of each setting by its name.

    Raises:
        InputError: at the first value that is neither True nor False.

    Example::

        "initialize": ["$monai_u2.engines.check_switches(resume=@resume)"]
    """
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InputError(
                f"{name} is {value!r}; expected True or False (on the command line with a capital letter: --{name} "
                f"False; in a JSON file without quotes: false)."
            )
