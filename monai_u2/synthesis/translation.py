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

"""Translation of rows, from any language into any other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai_u2.exceptions import InputError
from monai_u2.synthesis.answers import cited_lines
from monai_u2.synthesis.language import language_name
from monai_u2.synthesis.report_lines import without_citations
from monai_u2.synthesis.rules import Problem, check_language
from monai_u2.synthesis.stage import STREAMS, Outcome, Row, Stage, tagged
from monai_u2.synthesis.structured import TEXT, object_schema
from monai_u2.synthesis.wording import numbers, sides

TRANSLATED_KEYS = ("report", "question", "answer", "thinking", "thinking_before", "thinking_after")


class TranslationStage(Stage):
    """Asks for translations; numbers and citations must stay, and each text must be in the other language.

    Args:
        language: what is translated into.
        source_language: what is translated from.
        stream: the rows that are translated, one of :data:`~monai_u2.synthesis.stage.STREAMS`.

    Raises:
        InputError: for equal languages or an unknown stream.
    """

    name, writes = "translation", "translated"

    def __init__(self, language: str, source_language: str = "en", stream: str = "reports") -> None:
        super().__init__(language)
        if language == source_language:
            raise InputError(f"language and source_language are both {language!r}; expected two.")
        if stream not in STREAMS or stream == "translated":
            raise InputError(f"stream is {stream!r}; expected one of {', '.join(STREAMS)} without 'translated'.")
        self.source_language = source_language
        self.reads = stream

    def prompt_values(self) -> dict[str, Any]:
        return {**super().prompt_values(), "source": language_name(self.source_language)}

    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return object_schema(**{key: TEXT for key in _texts(row)})

    def material(self, row: Mapping[str, Any]) -> str:
        return tagged(**_texts(row))

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        outcome = Outcome()
        texts = {key: answer[key].strip() for key in _texts(row)}
        problems = (self._check(row[key], text) for key, text in texts.items())
        made = {**row, **texts, "row": f"{row['row']}-{self.language}", "language": self.language}
        outcome.add(made, next(filter(None, problems), None))
        return outcome

    def _check(self, source: str, text: str) -> Problem | None:
        if not text:
            return Problem("empty")
        problem = check_language(text, self.language)
        if problem:
            return problem
        if cited_lines(source) != cited_lines(text):
            return Problem("changed_citations")
        odd = numbers(without_citations(source)) ^ numbers(without_citations(text))
        if odd:
            return Problem("changed_numbers", ", ".join(sorted(odd)))
        known = {self.language, self.source_language} <= {"en", "zh"}  # whose words for sides are known
        return Problem("changed_sides") if known and sides(source) != sides(text) else None

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        return [row], "".join(_texts(row).values())


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: row[key] for key in TRANSLATED_KEYS if row.get(key)}
