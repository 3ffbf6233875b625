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

import math
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


# least value; whole numbers first
_WHOLE = {"batch_size": 1, "validation_batch_size": 1, "max_epochs": 1, "val_interval": 1, "questions_per_image": 1}
_WHOLE |= {"seed": 0}
_REAL = {"learning_rate": 0, "vision_learning_rate": 0, "tokenizer_learning_rate": 0, "weight_decay": 0}


def check_numbers(**numbers: Any) -> None:
    """Check the numbers with which a training would fail late, or go on with nonsense.

    Args:
        numbers: value of each setting by its name: whole numbers of cases, epochs and questions of at least 1, a seed
            and rates of at least 0, `max_gradient_norm` above 0.

    Raises:
        InputError: at the first value that is none of these.
    """
    for name, value in numbers.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if name in _WHOLE:
            fits, expected = number and isinstance(value, int) and value >= _WHOLE[name], f"of {_WHOLE[name]} or more"
            expected = f"a whole number {expected}"
        elif name in _REAL:
            fits, expected = number and value >= _REAL[name], f"a number of {_REAL[name]} or more"
        else:
            fits, expected = number and value > 0, "a number above 0"
        if not fits:
            raise InputError(f"{name} is {value!r}; expected {expected}. Change --{name}.")


def check_reference(reference: str, reference_checkpoint: str, checkpoint: str) -> None:
    """Check that the reference of preference optimization is one, and the one that was asked for.

    Args:
        reference: see :class:`monai_u2.inferers.PreferenceInferer`.
        reference_checkpoint: its weights.
        checkpoint: the weights that the policy starts from.

    Raises:
        InputError: when the reference would be the policy itself, or another model that isn't used.
    """
    if reference == "policy":
        raise InputError("reference is 'policy', which holds nothing; expected 'adapter', 'precomputed' or 'model'.")
    if reference == "adapter" and str(reference_checkpoint) != str(checkpoint):
        raise InputError(
            f"reference_checkpoint is {reference_checkpoint}, but reference is 'adapter', the model of checkpoint "
            f"({checkpoint}) without its adapters. Give --reference model or precomputed, or leave it out."
        )
