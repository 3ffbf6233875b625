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

"""Stages by name, as a configuration lists them."""

from __future__ import annotations

from collections.abc import Sequence

from monai_u2.exceptions import InputError
from monai_u2.synthesis.answers import AnswerStage
from monai_u2.synthesis.citation_judge import CitationJudgeStage
from monai_u2.synthesis.filtering import FilterStage
from monai_u2.synthesis.multiple_choice import MultipleChoiceStage
from monai_u2.synthesis.questions import QuestionStage
from monai_u2.synthesis.refinement import RefineStage
from monai_u2.synthesis.report_thinking import ReportThinkingStage
from monai_u2.synthesis.rewriting import RewriteStage
from monai_u2.synthesis.stage import Stage
from monai_u2.synthesis.translation import TranslationStage

STAGES = ("questions", "answers", "filter", "refine", "report_thinking", "rewriting", "multiple_choice", "translation")
"""Names of the stages."""

CITATION_CHECKS = ("lexical", "judge", "both")
"""What checks that a line supports a statement: its words, a request to the model, or both."""

_JUDGED = {"answers": "questions", "refine": "questions", "report_thinking": "report_thinking"}


def make_stages(
    names: Sequence[str],
    *,
    language: str = "en",
    source_language: str = "en",
    num_questions: int = 5,
    num_rewritings: int = 3,
    num_choices: int = 3,
    translate: str = "reports",
    citation_check: str = "lexical",
    min_overlap: float = 0.6,
) -> list[Stage]:
    """Return the stages of a run.

    Args:
        names: of :data:`STAGES`, in the order in which they run.
        language: language of what is written; of a translation, what is translated into.
        source_language: what a translation is made from.
        num_questions: questions for each report.
        num_rewritings: rewritings of each report.
        num_choices: multiple-choice questions for each report.
        translate: stream of rows that are translated.
        citation_check: one of :data:`CITATION_CHECKS`. With "judge" and "both", a judging stage follows each stage
            that cites; numbers, sides and denials are compared in any case.
        min_overlap: least share of a statement's content words in the lines that it cites, for "lexical" and "both".

    Raises:
        InputError: for no name, an unknown one or one that is there twice, or values out of range.
    """
    if not names or isinstance(names, str) or set(names) - set(STAGES) or len(set(names)) != len(names):
        raise InputError(f"stages are {names!r}; expected a list of some of {', '.join(STAGES)}, each once.")
    if citation_check not in CITATION_CHECKS:
        raise InputError(f"citation_check is {citation_check!r}; expected one of {', '.join(CITATION_CHECKS)}.")
    overlap = 0.0 if citation_check == "judge" else min_overlap
    stages: list[Stage] = []
    for name in names:
        if name == "questions":
            stages.append(QuestionStage(num_questions, language, overlap))
        elif name == "rewriting":
            stages.append(RewriteStage(num_rewritings, language, overlap))
        elif name == "multiple_choice":
            stages.append(MultipleChoiceStage(num_choices, language, overlap))
        elif name == "translation":
            stages.append(TranslationStage(language, source_language, translate))
        else:
            classes = {"answers": AnswerStage, "filter": FilterStage, "refine": RefineStage}
            stages.append(classes.get(name, ReportThinkingStage)(language, overlap))
        if citation_check != "lexical" and name in _JUDGED:
            stages.append(CitationJudgeStage(name, _JUDGED[name]))
    return stages
