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

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.utils import eval_mode
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from monai_u2.evidence.finder import EvidenceFinder
from monai_u2.evidence.maps import HU_WINDOW
from monai_u2.inferers.report import writer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from monai_u2.evidence.methods import EvidenceMethod
    from monai_u2.networks.u2llm import U2LLM


class FindEvidenced(MapTransform):
    """Find where in the CT the sentences of a generated answer come from, see
    :class:`monai_u2.evidence.EvidenceFinder`.

    Takes a case of a decollated batch: the image with its trace, the prompt, the question, and their masks. Or, in apps
    such as MONAI Label, a case as preprocessed, with ids that remember the network that wrote them.

    Args:
        keys: key of the generated ids `(A,)`.
        network: see :class:`monai_u2.evidence.EvidenceFinder`, as the next three; None passes over all ids but those
            that remember their network (:func:`monai_u2.inferers.writer_of`), which is taken for these in any case.
        tokenizer: its text tokenizer.
        preprocessing: the composed transforms that made the slabs.
        method: how tokens are weighted.
        image_key: key of the slabs.
        evidence_key: where to put the :class:`monai_u2.evidence.ReportEvidence`.
        hu_window: HU of the slabs' intensities 0 and 1.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: U2LLM | None,
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Any,
        method: EvidenceMethod | None = None,
        image_key: str = "image",
        evidence_key: str = "evidence",
        hu_window: Sequence[float] = HU_WINDOW,
    ) -> None:
        super().__init__(keys)
        self.network = network
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.method = method
        self.image_key = image_key
        self.evidence_key = evidence_key
        self.hu_window = hu_window

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        ids = d[self.first_key(d)]
        writer = writer_of(ids)
        network = self.network if writer is None else writer
        if network is None:
            return d
        image = d[self.image_key]
        if writer is not None:
            image, prompt, question = image.cpu(), d["input_ids"][0], d["question_ids"][0]
            ids = convert_to_tensor(ids, track_meta=False)
        else:
            image = self._without_padding(image, d["slab_mask"])
            prompt = d["input_ids"][d["attention_mask"].bool()]
            question = d["question_ids"][d["question_mask"].bool()]
        find = EvidenceFinder(network, self.tokenizer, self.preprocessing, self.method, self.image_key, self.hu_window)
        with eval_mode(network):  # MONAI's engines set it around the inferer alone
            d[self.evidence_key] = find(image, prompt, ids, question)
        return d

    @staticmethod
    def _without_padding(image: torch.Tensor, slab_mask: torch.Tensor) -> torch.Tensor:
        if isinstance(image, MetaTensor):
            there = torch.as_tensor(slab_mask).cpu().bool()
            image = MetaTensor(
                image.as_tensor().cpu()[there], meta=image.meta, applied_operations=image.applied_operations
            )
        return image
