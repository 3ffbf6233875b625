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

import json
import re
from collections.abc import Mapping
from typing import Any

from monai_u2.exceptions import InputError
from monai_u2.synthesis.answers import cited_lines
from monai_u2.synthesis.language import language_name
from monai_u2.synthesis.multiple_choice import LETTERS, check_options, choices_of, with_choices
from monai_u2.synthesis.report_lines import without_citations
from monai_u2.synthesis.rules import Problem, check_language
from monai_u2.synthesis.stage import STREAMS, Outcome, Row, Stage, first_problem, tagged
from monai_u2.synthesis.structured import TEXT, array_schema, object_schema
from monai_u2.synthesis.wording import numbers, sides

TRANSLATED_KEYS = ("report", "question", "answer", "thinking", "thinking_before", "thinking_after")

_WORD = re.compile(r"[^\W\d_]{4}")
_LETTERED = re.compile(rf"[{LETTERS}{LETTERS.lower()}]\s*[.):、．）]")


class TranslationStage(Stage):
    """Asks for translations; numbers and citations must stay, and each text must be in the other language.

    The options of a multiple-choice question are translated along with it, and keep their letters.

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
        options = {"options": array_schema(TEXT)} if "options" in row else {}
        return object_schema(**{key: TEXT for key in _texts(row)}, **options)

    def material(self, row: Mapping[str, Any]) -> str:
        options = {"options": json.dumps(row["options"], ensure_ascii=False)} if "options" in row else {}
        return tagged(**_texts(row), **options)

    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        outcome = Outcome()
        sources, texts = _texts(row), {key: answer[key].strip() for key in _texts(row)}
        problem = first_problem(*(self._check(sources[key], text) for key, text in texts.items()))
        made = {**row, **texts, "row": f"{row['row']}-{self.language}", "language": self.language}
        if "options" in row:
            options = [option.strip() for option in answer["options"]]
            problem = problem or self._check_options(row["options"], options)
            right = choices_of(row["options"]).index(row["answer"])
            made |= {"question": with_choices(texts["question"], options), "options": options}
            made |= {} if problem else {"answer": choices_of(options)[right]}
        outcome.add(made, problem)
        return outcome

    def _check_options(self, sources: list[str], options: list[str]) -> Problem | None:
        problem = check_options(options)
        if problem is None and all(map(_LETTERED.match, options)):
            problem = Problem("bad_options", f"with letters: {'; '.join(options)}")
        if options == sources and _WORD.search(" ".join(sources)):  # "L1" and "5 mm" stay, too short to tell otherwise
            problem = Problem("other_language", "options as they were")
        return problem or first_problem(
            check_language(" ".join(options), self.language), *map(self._compare, sources, options)
        )

    def _check(self, source: str, text: str) -> Problem | None:
        if not text:
            return Problem("empty")
        return check_language(text, self.language) or self._compare(source, text)

    def _compare(self, source: str, text: str) -> Problem | None:
        if cited_lines(source) != cited_lines(text):
            return Problem("changed_citations")
        odd = numbers(without_citations(source)) ^ numbers(without_citations(text))
        if odd:
            return Problem("changed_numbers", ", ".join(sorted(odd)))
        known = {self.language, self.source_language} <= {"en", "zh"}  # whose words for sides are known
        return Problem("changed_sides") if known and sides(source) != sides(text) else None

    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        return [row], "".join([*_texts(row).values(), *row.get("options", [])])


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts to translate; of a multiple-choice question without its options and the answer among them."""
    texts = {key: row[key] for key in TRANSLATED_KEYS if row.get(key)}
    if "options" in row:
        del texts["answer"]
        texts["question"] = row["question"].removesuffix(with_choices("", row["options"]))
    return texts
