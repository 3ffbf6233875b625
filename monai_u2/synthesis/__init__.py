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

"""Questions, answers and reasoning with citations, synthesized from reports by a chat model."""

from __future__ import annotations

from monai_u2._lazy import lazy_attributes

# public name -> module that defines it
_NAMES: dict[str, str] = {
    "REASONS": "rules",
    "REGIONS": "report_thinking",
    "STREAMS": "stage",
    "AnswerStage": "answers",
    "AnswerStore": "answer_store",
    "CitationJudgeStage": "citation_judge",
    "CitationRule": "rules",
    "FilterStage": "filtering",
    "MultipleChoiceStage": "multiple_choice",
    "QuestionStage": "questions",
    "RefineStage": "refinement",
    "ReportThinkingStage": "report_thinking",
    "RewriteStage": "rewriting",
    "Stage": "stage",
    "Synthesizer": "synthesizer",
    "TranslationStage": "translation",
    "load_sources": "sources",
    "make_stages": "stages",
    "split_report": "report_lines",
    "split_statements": "report_lines",
}

__getattr__, __dir__ = lazy_attributes(__name__, _NAMES)
