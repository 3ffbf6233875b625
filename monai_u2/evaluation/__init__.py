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

"""Evaluation of generated reports: a model beside its controls, reports of any system, two runs; files and page."""

from __future__ import annotations

from monai_u2._lazy import lazy_attributes

# public name -> module that defines it
_NAMES: dict[str, str] = {
    "Ablation": "ablation",
    "CONTROLS": "controls",
    "Evaluation": "results",
    "FindingLabels": "labels",
    "ReportEvaluator": "evaluator",
    "ReportGenerator": "generation",
    "ReportScorer": "scoring",
    "ReportScores": "scoring",
    "TableLabels": "labels",
    "TextLabels": "labels",
    "check_ablation": "ablation",
    "compare_configs": "ablation_table",
    "compare_reports": "comparison",
    "evaluate_reports": "results",
    "evaluation_cases": "cases",
    "image_data": "cases",
    "most_frequent_reports": "controls",
    "read_predictions": "files",
    "read_references": "files",
    "run_ablation": "ablation",
    "score_reports": "scoring",
    "shuffled_partners": "controls",
    "swapped_questions": "controls",
    "write_html_page": "html_page",
}

__getattr__, __dir__ = lazy_attributes(__name__, _NAMES)
