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

from __future__ import annotations

from monai_u2._lazy import lazy_attributes

# public name -> module that defines it
_NAMES: dict[str, str] = {
    "AppendFindingKinds": "findings",
    "AppendFindingKindsd": "findings",
    "AttachPromptd": "text",
    "CheckSameGeometryd": "slabs",
    "CheckScope": "scope",
    "CheckScoped": "scope",
    "CorrectHeader": "header",
    "CorrectHeaderd": "header",
    "DecodeReportd": "text",
    "ExtractPlanes": "load",
    "ExtractPlanesd": "load",
    "FindEvidenced": "evidence",
    "FindingsToVector": "findings",
    "FindingsToVectord": "findings",
    "FitToSlabs": "slabs",
    "FitToSlabsd": "slabs",
    "LesionMaskToPatches": "findings",
    "LesionMaskToPatchesd": "findings",
    "LoadCT": "load",
    "LoadCTd": "load",
    "LoadReportd": "load_report",
    "LoadWindowedVolume": "windowed",
    "LoadWindowedVolumed": "windowed",
    "PaperResize": "paper",
    "PaperResized": "paper",
    "ParseFindingsd": "findings",
    "PreferencePromptd": "text",
    "RandSelectConversationsd": "text",
    "RandSimulateThickSlicesd": "slabs",
    "ReportPrompt": "text",
    "ReportPromptd": "text",
    "ReportToLabeld": "report_label",
    "SaveReport": "save_report",
    "SaveReportd": "save_report",
    "ScalePercentilesAndCrop": "paper",
    "ScalePercentilesAndCropd": "paper",
    "TokenizeTextd": "tokenize",
    "describe_ct": "load",
    "finding_kinds": "findings",
    "measure_ct": "scope",
    "resize_volume": "resize",
}

__getattr__, __dir__ = lazy_attributes(__name__, _NAMES)
