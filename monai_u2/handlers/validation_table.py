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

"""The validation table and example reports."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from monai_u2.metrics.findings import finding_table, micro_f1
from monai_u2.processes import gather_from_processes, process_index


class ValidationTable:
    """After each validation: findings named against findings there, by kind, and some reports beside their references.

    The table is logged; table and reports are written to `validation.json` in `output_dir` (replaced each time).
    Reports stay out of the log, as they may hold names. With several processes, each has to have the handler: the
    first one writes the table of all cases.

    Args:
        labels: finding labels in the vectors' order; without any, findings aren't looked at.
        output_dir: folder of `validation.json`.
        num_examples: number of reports to write.
        report_key: key of the generated report; None where findings are predicted without a report.
        answer_key: key of the reference report.
        predicted_key: key of the finding vector of the generated report.
        reference_key: key of the true finding vector.
    """

    def __init__(
        self,
        labels: Sequence[str],
        output_dir: str | os.PathLike[str],
        num_examples: int = 3,
        report_key: str | None = "report",
        answer_key: str = "answer",
        predicted_key: str = "report_findings",
        reference_key: str = "reference_findings",
    ) -> None:
        self.labels = list(labels)
        self.output_dir = Path(output_dir)
        self.num_examples = num_examples
        self.report_key = report_key
        self.answer_key = answer_key
        self.predicted_key = predicted_key
        self.reference_key = reference_key
        self.logger = logging.getLogger(__name__)
        self._reset()

    def _reset(self, engine: Engine | None = None) -> None:
        self._cases = 0
        self._predicted: list[np.ndarray] = []
        self._reference: list[np.ndarray] = []
        self._examples: list[dict[str, str]] = []
        self._reports: set[str] = set()
        self._cut_off = 0

    def attach(self, engine: Engine) -> None:
        """
        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _collect(self, engine: Engine) -> None:
        for case, output in zip(engine.state.batch, engine.state.output):
            self._cases += 1
            if self.labels:
                self._predicted.append(np.asarray(output[self.predicted_key].cpu()) > 0.5)
                self._reference.append(np.asarray(output[self.reference_key].cpu()) > 0.5)
            if self.report_key is None:
                continue
            self._reports.add(output[self.report_key])
            self._cut_off += not output[f"{self.report_key}_whole"]
            if len(self._examples) < self.num_examples:
                self._examples.append({"reference": case[self.answer_key], "report": output[self.report_key]})

    def _report(self, engine: Engine) -> None:
        collected = (self._predicted, self._reference, self._examples, self._reports, self._cut_off, self._cases)
        of_processes = list(zip(*gather_from_processes(collected)))
        if process_index():
            return
        examples = [example for part in of_processes[2] for example in part][: self.num_examples]
        num_reports, cut_off = len(set().union(*of_processes[3])), sum(of_processes[4])
        cases = sum(of_processes[5])
        summary: dict[str, Any] = {"epoch": engine.state.epoch, "cases": cases}
        lines: list[str] = []
        if self.labels:
            predicted, reference = (np.stack([case for part in parts for case in part]) for parts in of_processes[:2])
            rows = finding_table(predicted, reference, self.labels)
            summary |= {"micro_f1": micro_f1(predicted, reference), "findings": rows}
            lines = [f"{'finding':<24}{'present':>9}{'named':>7}{'precision':>11}{'recall':>8}{'F1':>7}"]
            lines += [
                f"{r['finding']:<24}{r['present']:>9}{r['named']:>7}{r['precision']:>11.2f}{r['recall']:>8.2f}"
                f"{r['f1']:>7.2f}"
                for r in rows
            ]
        title = f"validation of {cases} cases at epoch {engine.state.epoch}"
        if self.report_key is not None:
            title += f", {num_reports} distinct reports, {cut_off} cut off"
            summary |= {
                "distinct_reports": num_reports,
                "cut_off_reports": cut_off,
                "examples": examples,
            }
        self.logger.info("%s\n%s", title, "\n".join(lines))
        self.output_dir.mkdir(parents=True, exist_ok=True)
        temporary = self.output_dir / f"validation.json.{os.getpid()}"
        temporary.write_text(json.dumps(summary, indent=4))
        os.replace(temporary, self.output_dir / "validation.json")
