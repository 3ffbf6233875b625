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


"""The application's graph."""

from __future__ import annotations

from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application

from monai_u2.apps.deploy.operators import ReportOperator, SeriesSelectorOperator

__all__ = ["Application", "ReportApplication"]


class ReportApplication(Application):
    """From the folder of a DICOM study to the report's documents.

    Args:
        study: the study's folder.
        output: where to write.
        bundle: root of the bundle with the model.
    """

    def __init__(self, study: Path, output: Path, bundle: Path) -> None:
        super().__init__()
        self.name = "u2llm"
        self.study, self.output, self.bundle = study, output, bundle

    def compose(self) -> None:
        """Connect the operators; each runs once."""
        selector = SeriesSelectorOperator(self, CountCondition(self, 1), study=self.study, name="series_selector")
        report = ReportOperator(self, study=self.study, output=self.output, bundle=self.bundle, name="report")
        self.add_flow(selector, report, {("series", "series")})
