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

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_u2.evaluation import read_predictions, read_references
from monai_u2.exceptions import InputError


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_predictions_from_a_file_and_from_a_folder(tmp_path: Path) -> None:
    entries = [{"id": "1", "report": "A."}, {"id": 2, "report": "", "more": 1}]
    path = written(tmp_path / "predictions.jsonl", *entries)
    assert read_predictions(path) == read_predictions(tmp_path) == entries


def test_references_of_three_shapes(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.jsonl", {"id": "1", "report": "A."})
    assert read_references(plain) == [{"id": "1", "report": "A."}]
    both = written(tmp_path / "both.jsonl", {"id": "1", "report": "generated", "reference": "A.", "patient": "p"})
    assert read_references(both)[0]["report"] == "A." and read_references(both)[0]["patient"] == "p"
    record = {"image": "images/a.nii.gz", "question": "Report?", "answer": "A."}
    records = written(tmp_path / "records.jsonl", record, record | {"kind": "side"})
    assert [(case["id"], case["report"]) for case in read_references(records)] == [("a", "A.")]


def test_null_is_a_missing_reference(tmp_path: Path) -> None:
    path = written(tmp_path / "r.jsonl", {"id": "1", "report": None}, {"id": "2", "reference": None, "report": "A."})
    assert [entry["report"] for entry in read_references(path)] == ["", ""]
    written(path, {"id": "1", "report": "A."}, {"id": 7, "report": ["A."]})
    with pytest.raises(InputError, match=r"r\.jsonl, id 7: the reference is \['A\.'\]; expected a text, or null"):
        read_references(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "holds nothing"),
        (["{"], "line 1: is not JSON"),
        (["[1]"], "line 1: is no object"),
        ([{"id": "1", "report": "A."}, {"id": "1"}], "line 2: has no 'report'"),
    ],
)
def test_what_is_refused(tmp_path: Path, lines: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_predictions(written(tmp_path / "p.jsonl", *lines))
    with pytest.raises(InputError, match="does not exist"):
        read_predictions(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="expected 'id' and 'reference'"):
        read_references(written(tmp_path / "r.jsonl", {"id": "1"}))
