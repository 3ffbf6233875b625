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

"""What became of every row of a stage: kept, rejected or failed, and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monai_u2.chat_client import ChatAnswer
from monai_u2.synthesis.rules import Problem
from monai_u2.synthesis.stage import Outcome, Row

USAGE = ("requests", "prompt_tokens", "completion_tokens", "without_usage")
"""What is counted of the answers that a stage uses, whenever they were asked for."""


@dataclass
class Ledger:
    """The rows of one stage.

    Args:
        label: name of the stage.
        input: number of rows that came in.
        added: rows that came out of them beyond one each.
        kept: rows that go on.
        rejected: rows with what is wrong with them.
        failed: rows whose request got no answer, with the reason; the next run asks again.
        usage: :data:`USAGE` of the answers.
    """

    label: str
    input: int = 0
    added: int = 0
    kept: list[Row] = field(default_factory=list)
    rejected: list[tuple[Row, Problem]] = field(default_factory=list)
    failed: list[tuple[Row, str]] = field(default_factory=list)
    usage: Counter[str] = field(default_factory=Counter)

    def take(self, outcome: Outcome) -> None:
        """Enter what became of one row.

        Raises:
            RuntimeError: when nothing became of it.
        """
        if not outcome.kept and not outcome.rejected:
            raise RuntimeError(f"stage {self.label}: a row was neither kept nor rejected; the books don't balance.")
        self.input += 1
        self.added += len(outcome.kept) + len(outcome.rejected) - 1
        self.kept += outcome.kept
        self.rejected += outcome.rejected

    def fail(self, row: Row, reason: str) -> None:
        """Enter a row without an answer."""
        self.input += 1
        self.failed.append((row, reason))

    def count(self, answer: ChatAnswer) -> None:
        """Enter an answer's tokens."""
        self.usage["requests"] += 1
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            self.usage["without_usage"] += 1
        else:
            self.usage["prompt_tokens"] += answer.prompt_tokens
            self.usage["completion_tokens"] += answer.completion_tokens

    def summary(self, num_rows: int) -> dict[str, Any]:
        """Return the counts as JSON values.

        Args:
            num_rows: number of rows that the stage was given.

        Raises:
            RuntimeError: when a row is lost or there twice.
        """
        out = len(self.kept) + len(self.rejected) + len(self.failed)
        names = {row["row"] for row in self.kept}
        if self.input != num_rows or self.input + self.added != out or len(names) != len(self.kept):
            raise RuntimeError(
                f"stage {self.label}: {num_rows} rows given, {self.input} in, {self.added} added, {out} out, "
                f"{len(names)} different of {len(self.kept)} kept; the books don't balance."
            )
        return {
            "input": self.input,
            "added": self.added,
            "kept": len(self.kept),
            "rejected": dict(sorted(Counter(problem.reason for _, problem in self.rejected).items())),
            "failed": len(self.failed),
            **{name: self.usage[name] for name in USAGE},
        }


def add_summaries(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sum of several shares' counts of one stage."""
    total: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, dict):
                total[name] = dict(sorted((Counter(total.get(name, {})) + Counter(value)).items()))
            else:
                total[name] = total.get(name, 0) + value
    return total
