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

"""From a collated batch to the arguments of network and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.utils import convert_to_tensor

NETWORK_KEYS = ("input_ids", "attention_mask", "question_ids", "question_mask", "slab_mask", "image_index")
TARGET_KEYS = ("labels", "findings", "patch_findings", "slab_mask", "image_index")


class PrepareReportBatch(PrepareBatch):
    """Split a batch of :func:`monai_u2.data.collate_reports` into image, targets and the network's other arguments.

    Args:
        network_keys: keys of the network's other arguments.
        track_meta: keep the image's geometry and the trace of its transforms, for what is done after the network. By
            default tensors are plain: each operation of the network would look after them.
    """

    def __init__(self, network_keys: Sequence[str] = NETWORK_KEYS, track_meta: bool = False) -> None:
        self.network_keys = tuple(network_keys)
        self.track_meta = track_meta

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], tuple, dict[str, torch.Tensor]]:
        """
        Args:
            batchdata: the batch.
            device: where its tensors go.
            non_blocking: whether the copy may be asynchronous.
            kwargs: further arguments of `torch.Tensor.to`.

        Returns:
            Image `(B, T, D, H, W)`; targets (`labels`, `findings`, `patch_findings`, `slab_mask`, `image_index`, where
            the batch has them); no positional arguments; the network's keyword arguments.
        """
        moved = {
            key: (value if self.track_meta else convert_to_tensor(value, track_meta=False)).to(
                device=device, non_blocking=non_blocking, **kwargs
            )
            for key, value in batchdata.items()
            if isinstance(value, torch.Tensor)
        }
        targets = {key: moved[key] for key in TARGET_KEYS if key in moved}
        return moved["image"], targets, (), {key: moved[key] for key in self.network_keys if key in moved}
