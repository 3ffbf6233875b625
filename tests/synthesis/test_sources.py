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

"""What a synthesis starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from monai_u2.data.records import write_records
from monai_u2.exceptions import InputError
from monai_u2.synthesis import load_sources

REPORT = {"image": "a.nii.gz", "question": "Describe this CT.", "answer": "A nodule.", "center": "x"}
ROW = {"image": "a.nii.gz", "case_key": "k", "row": "k-00", "report": "A nodule.", "report_question": "Describe."}
ROW |= {"question": "Is there a nodule?", "stage": "questions", "stream": "questions"}


def written(path: Path, *records: dict[str, Any]) -> Path:
    write_records(path, records)
    return path


def test_reports_of_records(phantom_records: Path, tmp_path: Path) -> None:
    reports = load_sources(phantom_records)["reports"]
    assert len(reports) == 50 == len({row["case_key"] for row in reports})  # each phantom has another question too
    path = written(tmp_path / "r.jsonl", REPORT, {**REPORT, "kind": "presence"}, {**REPORT, "answer": "B."})
    first, second = load_sources(path)["reports"]
    assert (first["report"], first["question"], first["center"]) == ("A nodule.", "Describe this CT.", "x")
    assert first["row"] == first["case_key"] != second["case_key"] and "answer" not in first
    moved = written(tmp_path / "elsewhere" / "r.jsonl", REPORT)
    assert load_sources(moved)["reports"][0]["case_key"] == first["case_key"]


def test_rows_of_a_stage_bring_their_reports(tmp_path: Path) -> None:
    path = written(tmp_path / "questions.jsonl", ROW, {**ROW, "row": "k-01"})
    sources = load_sources(path)
    assert [row["row"] for row in sources["questions"]] == ["k-00", "k-01"]
    assert [(row["row"], row["question"]) for row in sources["reports"]] == [("k", "Describe.")]
    assert "stage" not in sources["questions"][0]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([REPORT, REPORT], "same report twice"),
        ([{**REPORT, "kind": "presence"}], "its kinds are: presence"),
        ([REPORT, ROW], "1 of 2 lines are rows of a stage"),
        ([ROW, {**ROW, "stage": "answers"}], "expected one stage's"),
        ([{key: value for key, value in ROW.items() if key != "row"}], "expected one stage's"),
    ],
)
def test_what_is_refused(records: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_sources(written(tmp_path / "r.jsonl", *records))


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    reports, rows = written(tmp_path / "r.jsonl", REPORT), written(tmp_path / "q.jsonl", ROW)
    with pytest.raises(InputError, match="rows of 1 reports that aren't in the records"):
        load_sources([reports, rows])
    with pytest.raises(InputError, match="the second file with questions"):
        load_sources([rows, rows])


@pytest.mark.parametrize("records", [None, [], "nowhere.jsonl", ["nowhere.jsonl"]])
def test_without_records_the_message_says_what_to_give(records: Any) -> None:
    with pytest.raises(InputError, match="--records FILE"):
        load_sources(records)
