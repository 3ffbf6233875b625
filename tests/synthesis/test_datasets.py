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

"""Records to train on."""

from __future__ import annotations

from monai_u2.data import HEADER_KEYS
from monai_u2.synthesis import sources
from monai_u2.synthesis.datasets import dataset_records

ROW = {"image": "a", "case_key": "c", "row": "c", "report": "R.", "report_question": "D.", "question": "D."}


def test_what_corrects_a_header_stays_with_the_image() -> None:
    header = dict.fromkeys(HEADER_KEYS, 1)
    thought = {"thinking_before": "T.", "thinking_after": "F."}
    for made in ({"thinking": "T."} | ROW | {"answer": "A."}, ROW | thought, ROW | {"options": [], "answer": "A"}, ROW):
        (record,) = dataset_records("rewritten", [{**made, **header, "patient": "p"}], keep_citations=False)
        assert record.items() >= {**header, "patient": "p"}.items()
    assert set(HEADER_KEYS) < set(sources._REPORT_KEYS)


def test_shapes() -> None:
    asked = {**ROW, "question": "Q?", "question_lines": [1]}
    answered = {**asked, "thinking": "T [1].", "answer": "A [1]."}
    assert dataset_records("questions", [asked], keep_citations=False) == []  # no answer yet
    record = {"image": "a", "question": "Q?", "thinking": "T.", "answer": "A.", "kind": "vqa", "case_key": "c"}
    assert dataset_records("questions", [answered], keep_citations=False) == [record]
    assert dataset_records("questions", [answered], keep_citations=True)[0]["answer"] == "A [1]."
    thought = {**ROW, "thinking_before": "T [1].", "thinking_after": "Findings:\nF [1]."}
    record = dataset_records("report_thinking", [thought], keep_citations=False)[0]
    assert (record["thinking_before"], record["thinking_after"]) == ("T.", "Findings:\nF.")
    assert record["report"] == record["answer"] == "R." and record["kind"] == "report"
    chosen = {**ROW, "question": "Q?\nA. x\nB. y", "options": ["x", "y"], "answer": "A. x"}
    assert dataset_records("multiple_choice", [chosen], keep_citations=False)[0]["kind"] == "multiple_choice"


def test_rewritten_and_translated_reports() -> None:
    rewritten = {**ROW, "report": "S.", "source_report": "R."}
    record = dataset_records("rewritten", [rewritten], keep_citations=False)[0]
    assert (record["question"], record["answer"], record["kind"]) == ("D.", "S.", "report")
    translated = {**ROW, "language": "zh", "question": "Q?", "thinking": "T [1].", "answer": "A [1]."}
    record = dataset_records("translated", [translated], keep_citations=False)[0]
    assert (record["language"], record["thinking"]) == ("zh", "T.")
