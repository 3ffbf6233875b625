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

from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor

from monai_u2.networks.parallel import unwrapped


class ReportInferer(Inferer):
    """Generate the answer's tokens for each prompt.

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
            kwargs: prompts and masks, see :meth:`monai_u2.networks.U2LLM.generate`.

        Returns:
            New token ids `(R, new)`, without the prompts.
        """
        model = unwrapped(network)
        inputs = convert_to_tensor(inputs, track_meta=False)
        ids = model.generate(inputs, *args, synced_gpus=False, **kwargs, **self.generation)
        return ids[:, kwargs["input_ids"].shape[1] :]
