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


"""The evidence of a generated report, as a step of postprocessing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_u2.evidence.finder import EvidenceFinder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from monai_u2.evidence.methods import EvidenceMethod
    from monai_u2.networks.u2llm import U2LLM


class FindEvidenced(MapTransform):
    """Find where in the CT the sentences of a generated answer come from, see
    :class:`monai_u2.evidence.EvidenceFinder`.

    Takes a case of a decollated batch: the image with its trace, the prompt, the question, and their masks.

    Args:
        keys: key of the generated ids `(A,)`.
        network: see :class:`monai_u2.evidence.EvidenceFinder`, as the next three.
        tokenizer: its text tokenizer.
        preprocessing: the composed transforms that made the slabs.
        method: how tokens are weighted.
        image_key: key of the slabs.
        evidence_key: where to put the :class:`monai_u2.evidence.ReportEvidence`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: U2LLM,
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Any,
        method: EvidenceMethod | None = None,
        image_key: str = "image",
        evidence_key: str = "evidence",
    ) -> None:
        super().__init__(keys)
        self.image_key = image_key
        self.evidence_key = evidence_key
        self.find = EvidenceFinder(network, tokenizer, preprocessing, method, image_key)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image = d[self.image_key]
        if isinstance(image, MetaTensor):
            there = torch.as_tensor(d["slab_mask"]).cpu().bool()
            image = MetaTensor(
                image.as_tensor().cpu()[there], meta=image.meta, applied_operations=image.applied_operations
            )
        d[self.evidence_key] = self.find(
            image,
            d["input_ids"][d["attention_mask"].bool()],
            d[self.first_key(d)],
            d["question_ids"][d["question_mask"].bool()],
        )
        return d
