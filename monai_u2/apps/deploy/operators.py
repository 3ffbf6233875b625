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


"""The application's operators: monai_u2's own functions between the SDK's ports.

They are two. Reading, preprocessing, network and documents are the bundle's inference workflow, which writes all files
or none; cut into operators, it would be another workflow than the one that was evaluated.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import ExecutionContext, Fragment, InputContext, Operator, OperatorSpec, OutputContext

from monai_u2.commands.inference import DOCUMENTS, write_report
from monai_u2.data.dicom_study import select_ct_series

__all__ = ["ReportOperator", "SeriesSelectorOperator"]


class SeriesSelectorOperator(Operator):
    """Emit the :class:`monai_u2.data.SeriesInfo` of a study's only CT series on port ``series``.

    Args:
        fragment: the application.
        study: the study's folder.
    """

    def __init__(self, fragment: Fragment, *args: Any, study: Path, **kwargs: Any) -> None:
        self.study = study
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("series")

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Choose the series.

        Raises:
            InputError: see :func:`monai_u2.data.select_ct_series`.
        """
        op_output.emit(select_ct_series(self.study), "series")


class ReportOperator(Operator):
    """Write the report of the series on port ``series`` with all its documents, by the bundle's inference workflow.

    Args:
        fragment: the application.
        study: the study's folder.
        output: where to write.
        bundle: root of the bundle.
    """

    def __init__(self, fragment: Fragment, *args: Any, study: Path, output: Path, bundle: Path, **kwargs: Any) -> None:
        self.study, self.output, self.bundle = study, output, bundle
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("series")

    def compute(self, op_input: InputContext, op_output: OutputContext, context: ExecutionContext) -> None:
        """Read the series, run the model, write.

        Raises:
            InputError: see :func:`monai_u2.commands.inference.write_report`.
        """
        series = op_input.receive("series")
        write_report(self.bundle, self.study, self.output, documents=DOCUMENTS, series_uid=series.uid)
