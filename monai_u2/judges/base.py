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

"""What every judge gives, and how it is asked."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from monai_u2.exceptions import InputError

SIGNIFICANT_ERRORS: tuple[str, ...] = (
    "false_finding",
    "missing_finding",
    "wrong_location",
    "wrong_severity",
    "unfounded_comparison",
    "omitted_comparison",
)
"""The six kinds of clinically significant errors, (a) to (f) of GREEN (https://arxiv.org/abs/2405.03595)."""

STATUSES: tuple[str, ...] = ("ok", "truncated", "unparsable", "failed")
"""What became of a judgement: it stands; its text broke off; its text can't be read; there is none."""


@dataclass(frozen=True, kw_only=True)
class FindingErrors:
    """A candidate report's findings and errors, counted against a reference report.

    Args:
        matched: findings that both reports have.
        false_finding: (a) findings of the candidate that the reference doesn't have.
        missing_finding: (b) findings of the reference that the candidate doesn't have.
        wrong_location: (c) findings in another place than the reference's.
        wrong_severity: (d) findings of another size or degree.
        unfounded_comparison: (e) comparisons with an earlier examination that aren't in the reference.
        omitted_comparison: (f) comparisons of the reference that the candidate omits.
        insignificant: errors of any kind that change nothing for the patient.
        status: one of :data:`STATUSES`; the counts stand only where it is "ok".
        explanation: the judge's reasons, or why there is no judgement.
        judge: name of the judge.
        judge_version: its version; judgements of one name and version are comparable, others aren't.

    Raises:
        ValueError: for a count that is no integer from 0 on, or an unknown status.
    """

    matched: int = 0
    false_finding: int = 0
    missing_finding: int = 0
    wrong_location: int = 0
    wrong_severity: int = 0
    unfounded_comparison: int = 0
    omitted_comparison: int = 0
    insignificant: int = 0
    status: str = "ok"
    explanation: str = ""
    judge: str = ""
    judge_version: str = ""

    def __post_init__(self) -> None:
        for name in ("matched", *SIGNIFICANT_ERRORS, "insignificant"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} is {value!r}; expected a count, 0 or more.")
        if self.status not in STATUSES:
            raise ValueError(f"status is {self.status!r}; expected one of {', '.join(STATUSES)}.")

    @property
    def significant(self) -> int:
        """Number of significant errors of all six kinds."""
        return sum(getattr(self, name) for name in SIGNIFICANT_ERRORS)

    @property
    def score(self) -> float | None:
        """`matched / (matched + significant)`, 0 to 1, 0 where nothing matched; None without a judgement."""
        if self.status != "ok":
            return None
        return self.matched / (self.matched + self.significant) if self.matched else 0.0


class Judge(ABC):
    """Compares candidate reports with reference reports.

    Attributes:
        name: name of the judge.
        version: version of everything that its judgements depend on.
    """

    name: str
    version: str

    @property
    def cost(self) -> dict[str, int | float]:
        """What judging has used so far, for judges that are paid for."""
        return {}

    def reason_not_to_judge(self, references: Sequence[str]) -> str | None:
        """Why scores against these references, all of a set, would say nothing; None where they say something."""
        return None

    def __call__(self, reference: str, candidate: str) -> FindingErrors:
        """Judge one candidate report against its reference.

        Raises:
            InputError: when the reference is empty, or the judge can't be reached.
        """
        return self.batch([reference], [candidate])[0]

    def batch(self, references: Sequence[str], candidates: Sequence[str]) -> list[FindingErrors]:
        """Judge several candidates, each against the reference of the same place.

        Args:
            references: reference reports.
            candidates: candidate reports, as many.

        Returns:
            one result a candidate, in their order.

        Raises:
            InputError: when a reference is empty, or the judge can't be reached.
            ValueError: when the numbers differ.
        """
        if len(references) != len(candidates):
            raise ValueError(f"{len(references)} references and {len(candidates)} candidates; expected as many.")
        for place, reference in enumerate(references):
            if not reference.strip():
                raise InputError(f"reference report {place} is empty; expected a text to judge against. Drop the case.")
        return [
            dataclasses.replace(errors, judge=self.name, judge_version=self.version)
            for errors in self._judge(list(zip(references, candidates)))
        ]

    @abstractmethod
    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        """Return one result for each (reference, candidate), in order."""
