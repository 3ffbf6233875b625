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

"""Rows as records to train on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monai_u2.data.records import HEADER_KEYS
from monai_u2.synthesis.report_lines import without_citations
from monai_u2.synthesis.stage import Row

Record = dict[str, Any]

_SHARED = ("image", "case_key", "case", "patient", "findings", "lesion_mask", "truth", "language", *HEADER_KEYS)


def dataset_records(stream: str, rows: list[Row], *, keep_citations: bool) -> list[Record]:
    """Return the records that a stream's rows make, in the shapes of the official prepared files.

    Args:
        stream: one of :data:`~monai_u2.synthesis.stage.STREAMS`.
        rows: kept rows; those without an answer yet make no record.
        keep_citations: leave the line numbers in the texts; the one who is trained sees no lines.
    """
    clean = str if keep_citations else without_citations

    def text(row: Mapping[str, Any], key: str) -> str:
        return clean(row[key])

    records = []
    for row in rows:
        made = _record(stream, row, text)
        if made:
            records.append({"image": row["image"], **made, **{key: row[key] for key in _SHARED if key in row}})
    return records


def _record(stream: str, row: Row, text: Callable[[Row, str], str]) -> Record:
    if "thinking_after" in row:
        thinking = {"thinking_before": text(row, "thinking_before"), "thinking_after": text(row, "thinking_after")}
        report = {"report": row["report"], "question": row["question"], "answer": row["report"]}
        return {**report, **thinking, "kind": "report"}
    if "options" in row:
        return {"question": row["question"], "answer": row["answer"], "kind": "multiple_choice"}
    if "thinking" in row:
        return {**{key: text(row, key) for key in ("question", "thinking", "answer")}, "kind": "vqa"}
    if stream in ("rewritten", "translated") and "question_lines" not in row:
        return {"question": row["question"], "answer": row["report"], "kind": "report"}
    return {}
