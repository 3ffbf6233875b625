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

"""The text file of a report: question, report, warnings, and who wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence

NOT_FOR_CLINICAL_USE = "not for clinical use"
_WRITTEN_BY = re.compile(rf"^Written by .+: {NOT_FOR_CLINICAL_USE}\.$", re.MULTILINE)


def report_text(report: str, question: str, warnings: Sequence[str], model_name: str, model_version: str) -> str:
    """Return the content of a ``report.txt``.

    Args:
        report: the generated text.
        question: what the model was asked.
        warnings: what a reader has to know.
        model_name: name of the model.
        model_version: version of the model.
    """
    lines = [f"Question: {question}", "", report.strip(), "", *(f"Warning: {text}" for text in warnings)]
    lines.append(f"Written by {model_name} {model_version}: {NOT_FOR_CLINICAL_USE}.")
    return "\n".join(lines) + "\n"


def is_report_text(text: str) -> bool:
    """Tell whether a text is what :func:`report_text` returns, perhaps edited, and not a report alone."""
    return _WRITTEN_BY.search(text) is not None
