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

"""Report generation as a MONAI inferer."""

from __future__ import annotations

import json
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_tensor

from monai_u2.exceptions import InputError
from monai_u2.networks.parallel import unwrapped
from monai_u2.transforms.text import PROMPT_KEY

_NETWORK_KEY = "network"


class ReportInferer(Inferer):
    """Generate the answer's tokens for each prompt.

    Apps such as MONAI Label give the image alone. The prompt is then the one that
    :class:`monai_u2.transforms.AttachPromptd` has laid beside it, and the ids remember the network that wrote them
    (:func:`writer_of`): apps have their own copy of it, which what follows can't get at otherwise.

    Processes don't wait for each other: a model that is sharded over them needs
    :class:`monai_u2.handlers.WholeWeights`.

    Args:
        generation: options of `transformers` generation, such as `max_new_tokens` or `do_sample`.
    """

    def __init__(self, **generation: Any) -> None:
        self.generation = generation

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """
        Args:
            inputs: images `(B, T, D, H, W)`.
            network: a :class:`monai_u2.networks.U2LLM`, or one wrapped for distributed training.
            kwargs: prompts and masks, see :meth:`monai_u2.networks.U2LLM.generate`; without `input_ids` it is one image
                with its prompt attached.

        Returns:
            New token ids `(R, new)`, without the prompts.

        Raises:
            InputError: when there is neither `input_ids` nor an attached prompt.
        """
        model = unwrapped(network)
        alone = "input_ids" not in kwargs
        if alone:
            kwargs |= _attached_prompt(inputs)
        inputs = convert_to_tensor(inputs, track_meta=False)
        ids = model.generate(inputs, *args, synced_gpus=False, **kwargs, **self.generation)
        ids = ids[:, kwargs["input_ids"].shape[1] :]
        return MetaTensor(ids, meta={_NETWORK_KEY: _Reference(model)}) if alone else ids


def writer_of(ids: Any) -> Any | None:
    """The network that wrote the ids for an image alone, see :class:`ReportInferer`; None for other ids."""
    reference = ids.meta.get(_NETWORK_KEY) if isinstance(ids, MetaTensor) else None
    return None if reference is None else reference.network


class _Reference:
    """MONAI copies metadata deeply with each operation; the network isn't to be copied."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __deepcopy__(self, memo: dict[int, Any]) -> _Reference:
        return self


def _attached_prompt(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    text = inputs.meta.get(PROMPT_KEY) if isinstance(inputs, MetaTensor) else None
    if text is None or len(inputs) != 1:
        raise InputError(
            f"{len(inputs)} images came without input_ids; expected prompts, or one image with its prompt attached. "
            "Put AttachPromptd at the end of the preprocessing."
        )
    return {name: torch.tensor([ids], device=inputs.device) for name, ids in json.loads(text).items()}
