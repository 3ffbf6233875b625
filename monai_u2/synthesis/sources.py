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
from pathlib import Path

from monai_u2.data.fingerprint import fingerprint
from monai_u2.data.records import load_records, question_kind
from monai_u2.exceptions import InputError
from monai_u2.synthesis.stage import Row

Sources = dict[str, list[Row]]  # stream -> rows


def load_sources(records: str | os.PathLike[str]) -> Sources:
    """Load the reports to start from, or the rows that an earlier stage wrote.

    Args:
        records: a JSON Lines file of records (see :mod:`monai_u2.data.records`): those of the kind "report", whose
            answer is the report, are taken; or a file of a stage, such as `questions.jsonl`.

    Returns:
        the rows by stream. `reports` has each report once: `image`, `report`, `case_key` (hash of both) and `row`, its
        name in files of rejected rows, beside the record's keys.

    Raises:
        InputError: when there is no report, one is there twice, or the file mixes records and a stage's rows.
    """
    folder = Path(records).absolute().parent
    every = load_records(records, require_answer=False)
    made = [record for record in every if "stage" in record]
    if made and len(made) != len(every):
        raise InputError(f"{records}: {len(made)} of {len(every)} lines are rows of a stage; expected all, or none.")
    return _stage_rows(records, made) if made else {"reports": _reports(records, every, folder)}


def _reports(records: str | os.PathLike[str], every: list[Row], folder: Path) -> list[Row]:
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


def _stage_rows(records: str | os.PathLike[str], made: list[Row]) -> Sources:
    streams = {row.pop("stage") for row in made}
    names = {row.get("stream") for row in made}
    needed = {"case_key", "row", "report", "report_question"}
    if len(streams) != 1 or len(names) != 1 or not all(needed <= row.keys() for row in made):
        raise InputError(
            f"{records}: rows of several stages, or without case_key, row, report and report_question; "
            "expected the file of one stage."
        )
    reports: dict[str, Row] = {}
    shared = ("image", "case_key", "report", "report_question", "case", "findings", "lesion_mask", "truth")
    for row in made:
        kept = {key: row[key] for key in shared if key in row}
        reports[row["case_key"]] = {**kept, "row": row["case_key"], "question": row["report_question"]}
    stream = str(made[0]["stream"])
    for row in made:
        del row["stream"]
    return {"reports": list(reports.values()), **({} if stream == "reports" else {stream: made})}
