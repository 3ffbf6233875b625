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

"""A report as MONAI Label sends it: beside a label volume."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_u2.evidence.files import LEVELS, evidence_levels
from monai_u2.inferers.report import writer_of
from monai_u2.transforms.save_report import CUT_OFF, NOT_FOR_CLINICAL_USE


class ReportToLabeld(MapTransform):
    """Turn generated ids into a label volume with the levels of the report's evidence, and put the report where MONAI
    Label looks for results that aren't volumes.

    Ids that don't remember the network that wrote them (:func:`monai_u2.inferers.writer_of`) aren't of such an app:
    the case stays as it is.

    Args:
        keys: key of the ids; `(1, X, Y, Z)` afterwards, uint8, 0 and the values of
            :data:`monai_u2.evidence.LEVELS`, on the voxels of the CT as it was loaded.
        model_name: name of the model.
        model_version: version of the model.
        result_key: where to put the report with its question, sentences and warnings, plain JSON types.
    """

    def __init__(self, keys: KeysCollection, model_name: str, model_version: str, result_key: str = "result") -> None:
        super().__init__(keys)
        self.model = {"name": model_name, "version": model_version, "use": NOT_FOR_CLINICAL_USE}
        self.result_key = result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Args:
            data: the case, with what `DecodeReportd`, `FindEvidenced` and `LoadCTd` have put there: `report`,
                `report_whole`, `evidence` and `info`.
        """
        d = dict(data)
        key = self.first_key(d)
        if writer_of(d[key]) is None:
            return d
        evidence = d["evidence"]
        d[key] = MetaTensor(
            torch.from_numpy(evidence_levels(evidence.voxels))[None], affine=torch.from_numpy(evidence.affine)
        )
        d[self.result_key] = {
            "report": d["report"],
            "question": d["question"],
            "sentences": evidence.sentences,
            "evidence_levels": list(LEVELS),
            "warnings": [*d["info"]["warnings"], *([] if d["report_whole"] else [CUT_OFF])],
            "model": self.model,
        }
        return d
