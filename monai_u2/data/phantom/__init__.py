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

"""The phantom: synthetic enhanced chest-abdomen CT with findings, reports, questions and the truth behind them.

It is a test bed and the embedded example, never a claim about patients. Each case follows from its number alone.
"""

from __future__ import annotations

from monai_u2._lazy import lazy_attributes

# public name -> module that defines it
_NAMES: dict[str, str] = {
    "DIFFICULTIES": "difficulty",
    "Difficulty": "difficulty",
    "FINDING_KINDS": "findings",
    "FINDING_LABELS": "findings",
    "PHANTOM_VERSION": "dataset",
    "REPORT_QUESTIONS": "report",
    "SPLIT_RANGES": "findings",
    "PhantomCase": "findings",
    "PhantomFinding": "findings",
    "PhantomReport": "report",
    "ask_questions": "report",
    "difficulty_settings": "difficulty",
    "draw_case": "cases",
    "generate_phantoms": "dataset",
    "grammar_texts": "report",
    "parse_findings": "parsing",
    "render_case": "anatomy",
    "write_dicom_series": "dicom_series",
    "write_report": "report",
}

__getattr__, __dir__ = lazy_attributes(__name__, _NAMES)
