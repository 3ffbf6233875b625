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

"""What every stage is: rows to requests, answers to rows."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from string import Template
from typing import Any

from monai_u2.chat_client import ChatAnswer, Messages
from monai_u2.exceptions import InputError
from monai_u2.synthesis.language import language_name
from monai_u2.synthesis.report_lines import ReportLine, numbered_text, split_report
from monai_u2.synthesis.rules import CitationRule, Problem, check_comparison, check_language
from monai_u2.synthesis.structured import parse_answer

Row = dict[str, Any]

STREAMS = ("reports", "questions", "multiple_choice", "rewritten", "translated", "report_thinking")
"""Kinds of rows: the source reports, questions with their answers, and what else stages make of reports."""

_SCHEMA_HINT = "\nAnswer with one JSON object of this JSON schema, and nothing else:\n"


@dataclass
class Outcome:
    """What became of one row: rows that are kept, and those rejected, each with what is wrong with it."""

    kept: list[Row] = field(default_factory=list)
    rejected: list[tuple[Row, Problem]] = field(default_factory=list)

    def add(self, row: Row, problem: Problem | None) -> None:
        """Keep a row without a problem, reject another."""
        if problem is None:
            self.kept.append(row)
        else:
            self.rejected.append((row, problem))


class Stage(ABC):
    """One step of the synthesis: pure functions of a row and of the model's answer to it.

    Attributes:
        name: name of the stage, of its prompt `prompts/<name>.txt` and of its schema.
        reads: one of :data:`STREAMS`, the rows that it asks about.
        writes: one of :data:`STREAMS`, the rows that it makes.
        needs: keys that a row must have beside those of its stream.
        gives: keys that it adds.
        label: name of the stage in files and summaries.

    Args:
        language: language of what is written, such as "en".
        min_overlap: see :class:`~monai_u2.synthesis.rules.CitationRule`.

    Raises:
        InputError: for an empty language or a share that isn't from 0 to 1.
    """

    name: str
    reads: str
    writes: str
    needs: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()

    def __init__(self, language: str = "en", min_overlap: float = 0.6) -> None:
        if not isinstance(language, str) or not language.strip():
            raise InputError(f"language is {language!r}; expected a name such as 'en'.")
        if isinstance(min_overlap, bool) or not 0 <= min_overlap <= 1:
            raise InputError(f"min_overlap is {min_overlap!r}; expected a share from 0 to 1.")
        self.language = language
        self.rule = CitationRule(min_overlap)
        self.label = self.name

    @property
    def settings(self) -> dict[str, Any]:
        """All that its rows depend on beside the records: plain JSON values."""
        values = {"language": self.language, "min_overlap": self.rule.min_overlap, **self.prompt_values()}
        return {"stage": self.name, **values, "prompt": self.prompt}

    @cached_property
    def prompt(self) -> str:
        """Text of the prompt; `$name` stands for what :meth:`prompt_values` gives."""
        return resources.files("monai_u2.synthesis").joinpath(f"prompts/{self.name}.txt").read_text(encoding="utf-8")

    def prompt_values(self) -> dict[str, Any]:
        """Return what is filled into the prompt."""
        return {"language": language_name(self.language)}

    @abstractmethod
    def schema(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON schema of the answer."""

    @abstractmethod
    def material(self, row: Mapping[str, Any]) -> str:
        """Return what is asked about."""

    @abstractmethod
    def read(self, row: Row, answer: Mapping[str, Any]) -> Outcome:
        """Return the rows that an answer of the right schema gives."""

    @abstractmethod
    def placeholder(self, row: Row) -> tuple[list[Row], str]:
        """Return rows and a text as long as what an answer usually gives, to estimate what comes."""

    def messages(self, row: Mapping[str, Any], *, with_schema: bool = False) -> Messages:
        """Return the messages that ask about a row.

        Args:
            row: one row of the stream :attr:`reads`.
            with_schema: put the schema into the text, for a server that doesn't enforce it.
        """
        instructions = Template(self.prompt).substitute(self.prompt_values())
        if with_schema:
            instructions += _SCHEMA_HINT + json.dumps(self.schema(row), ensure_ascii=False) + "\n"
        return [{"role": "system", "content": instructions}, {"role": "user", "content": self.material(row)}]

    def outcome(self, row: Row, answer: ChatAnswer) -> Outcome:
        """Return what an answer makes of a row; one of the wrong form is a rejected row."""
        content, problem = parse_answer(answer, self.schema(row))
        return Outcome(rejected=[(row, problem)]) if problem else self.read(row, content)

    def check_wording(self, text: str, row: Mapping[str, Any]) -> Problem | None:
        """Check that a text isn't empty, is in the language, and compares only where the report does."""
        if not text.strip():
            return Problem("empty")
        return check_language(text, self.language) or check_comparison(text, row["report"], self.language)


def lines_of(row: Mapping[str, Any]) -> list[ReportLine]:
    """Return the numbered lines of a row's report."""
    return split_report(row["report"])


def tagged(**texts: str) -> str:
    """Return texts between tags of their names, as prompts show them."""
    return "\n\n".join(f"<{name}>\n{text}\n</{name}>" for name, text in texts.items())


def numbered_report(row: Mapping[str, Any]) -> str:
    """Return a row's report in numbered lines."""
    return numbered_text(lines_of(row))


def first_problem(*checks: Problem | None) -> Problem | None:
    """Return the first problem of several checks."""
    return next(filter(None, checks), None)
