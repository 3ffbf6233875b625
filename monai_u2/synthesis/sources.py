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

"""The rows that a synthesis starts from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from monai_u2.data.fingerprint import fingerprint
from monai_u2.data.records import HEADER_KEYS, load_records, question_kind
from monai_u2.exceptions import InputError
from monai_u2.synthesis.stage import Row

Sources = dict[str, list[Row]]  # stream -> rows

_REPORT_KEYS = ("image", "case_key", "report", "report_question", "case", "patient", "findings", "lesion_mask", "truth")
_REPORT_KEYS += HEADER_KEYS


def load_sources(records: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> Sources:
    """Load the reports to start from, and the rows that an earlier stage wrote.

    Args:
        records: JSON Lines files. Of records (see :mod:`monai_u2.data.records`) those of the kind "report", whose
            answer is the report, are taken; of a stage's file, such as `stages/questions.jsonl`, all rows. Where there
            are only a stage's files, the reports are those that have a row in them.

    Returns:
        the rows by stream. `reports` has each report once: `image`, `report`, `case_key` (hash of both) and `row`, its
        name in files of rejected rows, beside the record's keys.

    Raises:
        InputError: when no file is given or one is missing, there is no report, one is there twice, a file mixes
            records and a stage's rows, two files are of one stream, or rows belong to other reports than those given.
    """
    paths = [records] if isinstance(records, (str, os.PathLike)) else list(records or [])
    missing = [str(path) for path in paths if not Path(path).exists()]
    if missing or not paths:
        found = f"{missing[0]} does not exist" if missing else "there are none"
        raise InputError(f"records: {found}; give the JSON Lines file with the reports, --records FILE.")
    sources: Sources = {}
    derived: dict[str, Row] = {}
    for path in paths:
        every = load_records(path, require_answer=False)
        made = [record for record in every if "stage" in record]
        if made and len(made) != len(every):
            raise InputError(f"{path}: {len(made)} of {len(every)} lines are rows of a stage; expected all, or none.")
        stream, rows = _stage_rows(path, made) if made else ("reports", _reports(path, every))
        if stream in sources:
            raise InputError(f"{path}: the second file with {stream}; expected one.")
        sources[stream] = rows
        derived |= {} if stream == "reports" else {row["case_key"]: _report_of(row) for row in rows}
    known = {row["case_key"] for row in sources.setdefault("reports", list(derived.values()))}
    odd = derived.keys() - known
    if odd:
        raise InputError(f"{paths[-1]}: rows of {len(odd)} reports that aren't in the records; give those they are of.")
    return sources


def _reports(records: str | os.PathLike[str], every: list[Row]) -> list[Row]:
    folder = Path(records).absolute().parent
    rows: dict[str, Row] = {}
    for record in every:
        if question_kind(record) != "report" or "answer" not in record:
            continue
        image = Path(os.path.relpath(record["image"], folder)).as_posix()
        key = fingerprint(image, record["answer"])[:32]
        if key in rows:
            raise InputError(f"{records}: {image} has the same report twice; drop one of these lines.")
        kept = {name: value for name, value in record.items() if name not in ("answer", "kind")}
        rows[key] = {
            **kept,
            "case_key": key,
            "row": key,
            "report": record["answer"],
            "report_question": record["question"],
        }
    if not rows:
        kinds = ", ".join(sorted({question_kind(record) for record in every}))
        raise InputError(f"{records}: no record of the kind 'report' with an answer; its kinds are: {kinds}.")
    return list(rows.values())


def _stage_rows(records: str | os.PathLike[str], made: list[Row]) -> tuple[str, list[Row]]:
    """Return the stream of a stage's rows, and the rows as they were."""
    needed = {"case_key", "row", "report", "report_question", "stream"}
    if len({row["stage"] for row in made}) != 1 or not all(needed <= row.keys() for row in made):
        raise InputError(
            f"{records}: rows of several stages, or without {', '.join(sorted(needed))}; expected one stage's."
        )
    return made[0]["stream"], [{k: v for k, v in row.items() if k not in ("stage", "stream")} for row in made]


def _report_of(row: Row) -> Row:
    """Return the row of a report that another row is made of."""
    kept = {key: row[key] for key in _REPORT_KEYS if key in row}
    return {**kept, "row": row["case_key"], "question": row["report_question"]}
