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


"""The evidence of a generated report: where in the CT each of its sentences comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor

from monai_u2.evidence.citations import locate
from monai_u2.evidence.maps import HU_WINDOW, TokenGrid, body_mask, fine_maps, voxel_map
from monai_u2.evidence.methods import AnsweredCase, EvidenceMethod, GradientEvidence, image_gains
from monai_u2.evidence.sentences import report_sentences, sentence_tokens, token_offsets
from monai_u2.evidence.verifier import EvidenceVerifier
from monai_u2.networks.u2llm import U2LLM

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# a sentence that the image doesn't make likelier by that (nats) would stand there without it, too
SMALLEST_GAIN = 0.5


@dataclass(frozen=True)
class ReportEvidence:
    """Where a report comes from.

    Attributes:
        sentences: for each sentence a dict of plain JSON types, see docs/evidence.md.
        voxels: evidence of all sentences together on the CT's voxels `(X, Y, Z)`, float32, 0 to 1 in steps of 1/256.
        affine: voxel index to RAS mm `(4, 4)`.
        weights: weight of each visual token for each sentence `(S, T, N)`.
        grid: their places.
    """

    sentences: list[dict[str, Any]]
    voxels: np.ndarray
    affine: np.ndarray
    weights: torch.Tensor
    grid: TokenGrid


class EvidenceFinder:
    """Find the evidence of what a model answered.

    Args:
        network: the model, in evaluation mode.
        tokenizer: its text tokenizer.
        preprocessing: the composed transforms that made the slabs of the CT; those that change its geometry must be
            invertible.
        method: how tokens are weighted; :class:`GradientEvidence` when None.
        image_key: the image's key in the preprocessing.
        hu_window: HU of the slabs' intensities 0 and 1, by which body and lungs are told.
    """

    def __init__(
        self,
        network: U2LLM,
        tokenizer: PreTrainedTokenizerBase,
        preprocessing: Any,
        method: EvidenceMethod | None = None,
        image_key: str = "image",
        hu_window: Sequence[float] = HU_WINDOW,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.method = GradientEvidence() if method is None else method
        self.image_key = image_key
        self.hu_window = hu_window

    def __call__(
        self,
        image: MetaTensor,
        input_ids: torch.Tensor,
        answer_ids: torch.Tensor | Sequence[int],
        question_ids: torch.Tensor | None = None,
    ) -> ReportEvidence:
        """
        Args:
            image: the slabs `(T, D, H, W)` that the preprocessing gave, with its trace.
            input_ids: the prompt `(L,)`, without padding.
            answer_ids: the answer `(A,)`.
            question_ids: the question `(Lq,)`, without padding.

        Raises:
            InputError: when the preprocessing can't be inverted, or the image has lost its geometry.
        """
        grid = TokenGrid.of(image, self.network.model.vision_tower.grid)
        device = self.network.device
        answer = torch.as_tensor(answer_ids, device=device).long()
        question = None if question_ids is None else question_ids.to(device)
        case = AnsweredCase(image.as_tensor().to(device), input_ids.to(device), answer, question)
        text = self.tokenizer.decode(answer.tolist(), skip_special_tokens=True).strip()
        sentences = report_sentences(text)
        spans = sentence_tokens(token_offsets(answer.tolist(), self.tokenizer), sentences)
        body = body_mask(image, grid, self.hu_window)
        gains = image_gains(self.network, case, spans)
        rests = torch.tensor([gain >= SMALLEST_GAIN for gain in gains], dtype=torch.bool)
        weights = torch.zeros(len(sentences), grid.slabs, math.prod(grid.tokens))
        if rests.any():
            found = self.method(self.network, case, [span for span, rest in zip(spans, rests) if rest])
            weights[rests] = found.cpu() * _in_body(body, grid)
        affine = np.asarray(image.meta["original_affine"], dtype=np.float64)
        shape = [int(size) for size in image.meta["spatial_shape"]]
        verify = EvidenceVerifier(image, body, grid, self.hu_window)
        cited = []
        for sentence, fine, gain, rest in zip(sentences, fine_maps(weights, grid).numpy() * body, gains, rests):
            entry = {**asdict(sentence), "image_gain_nats": round(gain, 3), "rests_on_image": bool(rest)}
            entry |= {"place": None, "flags": ["against the image"] if gain <= -SMALLEST_GAIN else []}
            if fine.any():
                place = locate(fine, body, grid, affine, shape)
                entry |= {"place": asdict(place), "flags": verify(sentence.text, fine, place.spread, sentence.region)}
            cited.append(entry)
        shares = weights / weights.amax(dim=(1, 2), keepdim=True).clamp(min=1e-30)
        whole = shares.amax(dim=0) if len(shares) else weights.new_zeros(weights.shape[1:])
        voxels = voxel_map(whole, image, grid, self.preprocessing, self.image_key)
        return ReportEvidence(cited, voxels.numpy(), affine, weights, grid)


def _in_body(body: np.ndarray, grid: TokenGrid) -> torch.Tensor:
    """1 for the tokens `(T, N)` that hold a part of the body, 0 for the others."""
    fine = torch.from_numpy(body).float()[None, None]
    tokens = torch.nn.functional.adaptive_max_pool3d(fine, grid.shape)[0, 0]
    return tokens.unflatten(0, (grid.slabs, -1)).flatten(1)
