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

"""Finding labels of both sides of a comparison: read from the texts, or from tables that another program wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_u2.metrics.cases import MatchedCases
from monai_u2.metrics.labels import Labeller, label_reports, read_label_table


@dataclass(frozen=True)
class FindingLabels:
    """Which findings are named and which are there.

    Args:
        names: the labels.
        named: by the reports, boolean `(cases, labels)`.
        there: by the references, boolean `(cases, labels)`.
    """

    names: tuple[str, ...]
    named: np.ndarray
    there: np.ndarray


class TextLabels:
    """Reads the labels of reports and references with one labeller.

    Args:
        parser: from a text to the labels that it states, such as :func:`monai_u2.data.phantom.parse_findings`.
        names: all labels.
    """

    def __init__(self, parser: Labeller, names: Sequence[str]) -> None:
        self.parser = parser
        self.names = tuple(names)
        self.source = getattr(parser, "__qualname__", type(parser).__qualname__)

    def __call__(self, cases: MatchedCases) -> FindingLabels:
        """Read the labels of cases."""
        named, there = (label_reports(texts, self.parser, self.names) for texts in (cases.reports, cases.references))
        return FindingLabels(self.names, named, there)


class TableLabels:
    """Takes the labels from two CSV files, those of the reports and those of the references, by the cases' ids.

    Args:
        reports: labels of the reports, see :func:`monai_u2.metrics.read_label_table`.
        references: labels of the references.
    """

    def __init__(self, reports: str | Path, references: str | Path) -> None:
        self.reports, self.references = Path(reports), Path(references)
        self.source = f"{self.reports.name} and {self.references.name}"
        self.names = tuple(read_label_table(self.references, [])[1])

    def __call__(self, cases: MatchedCases) -> FindingLabels:
        """Look up the labels of cases.

        Raises:
            InputError: when a file or a case in it is missing, or the reports' table lacks a label of the references'.
        """
        there, names = read_label_table(self.references, cases.ids)
        named, _ = read_label_table(self.reports, cases.ids, labels=names)
        return FindingLabels(tuple(names), named, there)
