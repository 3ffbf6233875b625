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

"""Truth of phantoms and annotated data as targets of the vision tower."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_tensor

from monai_u2.exceptions import InputError

UNCERTAIN = 255  # a finding only grazes the patch: neither positive nor negative


class LesionMaskToPatches(Transform):
    """Which findings touch which patch: a mask of slabs to a target per patch token.

    Args:
        patch_size: size of one patch `(d, h, w)` in voxels.
        num_findings: number of findings F; mask value i + 1 is finding i, 0 is none.
    """

    def __init__(self, patch_size: Sequence[int], num_findings: int) -> None:
        self.patch_size = tuple(patch_size)
        self.num_findings = num_findings

    def __call__(self, mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            mask: `(T, D, H, W)`, integer values.

        Returns:
            uint8 `(T, N, F)`, patches in raster order: 1 where a finding fills the patch at least half as much as the
            patch that it fills most, :data:`UNCERTAIN` where it fills it less, 0 where it isn't.

        Raises:
            InputError: when a mask value is above the number of findings.
        """
        labels = convert_to_tensor(mask, track_meta=False).round().to(torch.int64)
        values = [int(value) for value in labels.unique() if value > 0]
        if values and values[-1] > self.num_findings:
            raise InputError(f"lesion mask holds the value {values[-1]}, but there are {self.num_findings} findings.")
        slabs, *size = labels.shape
        num_patches = 1
        for edge, patch in zip(size, self.patch_size):
            num_patches *= edge // patch
        target = torch.zeros(slabs, num_patches, self.num_findings, dtype=torch.uint8)
        for value in values:
            filled = F.avg_pool3d((labels == value).float()[:, None], self.patch_size).flatten(1)
            target[:, :, value - 1] = torch.where(filled > 0, UNCERTAIN, 0)
            target[:, :, value - 1][filled >= filled.max() / 2] = 1
        return target


class LesionMaskToPatchesd(MapTransform):
    """Dictionary version of :class:`LesionMaskToPatches`.

    Args:
        keys: keys of the masks.
        patch_size: see :class:`LesionMaskToPatches`.
        num_findings: see :class:`LesionMaskToPatches`.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(
        self, keys: KeysCollection, patch_size: Sequence[int], num_findings: int, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.to_patches = LesionMaskToPatches(patch_size, num_findings)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.to_patches(d[key])
        return d


class FindingsToVector(Transform):
    """Finding labels to a multi-hot vector.

    Args:
        labels: all finding labels, in the vector's order.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.index = {label: i for i, label in enumerate(labels)}

    def __call__(self, findings: Sequence[str]) -> torch.Tensor:
        """
        Args:
            findings: labels that are present.

        Returns:
            float `(F,)`.

        Raises:
            InputError: when a label isn't in the list.
        """
        vector = torch.zeros(len(self.index))
        for finding in findings:
            if finding not in self.index:
                raise InputError(f"finding {finding!r} is not in the list of {len(self.index)} finding labels.")
            vector[self.index[finding]] = 1.0
        return vector


class FindingsToVectord(MapTransform):
    """Dictionary version of :class:`FindingsToVector`.

    Args:
        keys: keys of the label lists.
        labels: see :class:`FindingsToVector`.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(self, keys: KeysCollection, labels: Sequence[str], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.to_vector = FindingsToVector(labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.to_vector(d[key])
        return d


class ParseFindingsd(MapTransform):
    """Report text to the multi-hot vector of the findings that it names.

    Args:
        keys: keys of the texts.
        parser: from text to finding labels.
        labels: see :class:`FindingsToVector`.
        postfix: the vector's key is the text's key, an underscore and this.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(
        self,
        keys: KeysCollection,
        parser: Callable[[str], Sequence[str]],
        labels: Sequence[str],
        postfix: str = "findings",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.parser = parser
        self.to_vector = FindingsToVector(labels)
        self.postfix = postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[f"{key}_{self.postfix}"] = self.to_vector(self.parser(d[key]))
        return d


def finding_kinds(labels: Sequence[str]) -> list[str]:
    """Kinds of finding labels `"kind"` or `"kind, location"`, each once, in the labels' order."""
    return list(dict.fromkeys(label.split(",")[0] for label in labels))


class AppendFindingKinds(Transform):
    """Beside each finding in its place, the kind of finding in any place: places of one kind learn from each other.

    Args:
        labels: finding labels, `"kind"` or `"kind, location"`.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        kinds = finding_kinds(labels)
        self.kind_of_label = [kinds.index(label.split(",")[0]) for label in labels]
        self.num_kinds = len(kinds)

    def __call__(self, target: torch.Tensor) -> torch.Tensor:
        """
        Args:
            target: `(…, F)`, 1 where a finding is, 0 where not, :data:`UNCERTAIN` where a patch is only grazed.

        Returns:
            `(…, F + kinds)`; a kind is 1 where one of its findings is, else uncertain where one of them is uncertain.

        Raises:
            ValueError: when the last axis doesn't fit the labels.
        """
        if target.shape[-1] != len(self.kind_of_label):
            raise ValueError(
                f"target {tuple(target.shape)} must have {len(self.kind_of_label)} findings in its last axis."
            )
        kinds = target.new_zeros(*target.shape[:-1], self.num_kinds)
        for finding, kind in enumerate(self.kind_of_label):
            here, so_far = target[..., finding], kinds[..., kind]
            sure = (here == 1) | (so_far == 1)
            kinds[..., kind] = torch.where(sure, torch.ones_like(here), torch.maximum(here, so_far))
        return torch.cat([target, kinds], dim=-1)


class AppendFindingKindsd(MapTransform):
    """Dictionary version of :class:`AppendFindingKinds`.

    Args:
        keys: keys of the targets.
        labels: see :class:`AppendFindingKinds`.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(self, keys: KeysCollection, labels: Sequence[str], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.append = AppendFindingKinds(labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.append(d[key])
        return d
