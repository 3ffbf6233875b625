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
import re
from pathlib import Path

import pytest

from monai_u2.data.records import (
    HEADER_KEYS,
    QUESTION_KINDS,
    group_by_image,
    iterate_records,
    load_records,
    question_kind,
    write_records,
)
from monai_u2.exceptions import InputError

RECORD = {"image": "images/a.nii.gz", "question": "What is seen?", "answer": "Nothing."}


def write(folder: Path, *lines: str) -> Path:
    path = folder / "records.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_kinds_of_questions(tmp_path: Path) -> None:
    assert QUESTION_KINDS == ("report", "region", "presence", "side", "location", "size")
    write_records(
        tmp_path / "r.jsonl", [*({**RECORD, "kind": k} for k in (*QUESTION_KINDS, "multiple choice")), RECORD]
    )
    kinds = [question_kind(record) for record in load_records(tmp_path / "r.jsonl")]
    assert kinds == [*QUESTION_KINDS, "multiple choice", "report"]


def test_round_trip_resolves_paths_and_keeps_other_keys(tmp_path: Path) -> None:
    record = {**RECORD, "lesion_mask": "m.nii.gz", "truth": "/elsewhere/t.json", "findings": [], "case": 3, "mine": [1]}
    write_records(tmp_path / "new" / "records.jsonl", [record])
    (loaded,) = load_records(tmp_path / "new" / "records.jsonl")
    folder = tmp_path / "new"
    expected = {"image": str(folder / "images/a.nii.gz"), "lesion_mask": str(folder / "m.nii.gz")}
    assert loaded == {**record, **expected}
    assert [path.name for path in folder.iterdir()] == ["records.jsonl"], "a temporary file was left"


def test_relative_path_of_the_file_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, json.dumps(RECORD))
    monkeypatch.chdir(tmp_path)
    assert load_records("records.jsonl")[0]["image"] == str(tmp_path / "images/a.nii.gz")


def test_write_keeps_the_old_file_when_a_record_fails(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(RECORD))
    with pytest.raises(TypeError):
        write_records(path, [{**RECORD, "case": object()}])
    assert load_records(path)[0]["answer"] == "Nothing."
    assert len(list(tmp_path.iterdir())) == 1


def test_blank_lines_are_skipped_and_line_separators_inside_of_text_are_not(tmp_path: Path) -> None:
    path = write(
        tmp_path, json.dumps({**RECORD, "answer": "one\u2028two"}, ensure_ascii=False), "", json.dumps(RECORD), ""
    )
    assert [record["answer"] for record in load_records(path)] == ["one\u2028two", "Nothing."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image": "a"', r"line 2: is not JSON: Expecting ',' delimiter at column 14"),
        ("[1, 2]", r"line 2: is a list \(\[1, 2\]\); expected an object"),
        ("null", r"line 2: is null; expected an object"),
        ('{"question": "q", "answer": "a"}', r"line 2: has no 'image' \(its keys: question, answer\)"),
        ('{"image": "i", "answer": "a"}', r"line 2: has no 'question'"),
        ('{"image": "i", "question": "q"}', r"line 2: has no 'answer'"),
        ('{"image": "i", "question": "q", "answer": " "}', r"line 2: 'answer' is empty"),
        ('{"image": "", "question": "q", "answer": "a"}', r"line 2: 'image' is empty"),
        ('{"image": ["i"], "question": "q", "answer": "a"}', r"line 2: 'image' is a list; expected a string"),
        ('{"image": "i", "question": 4, "answer": "a"}', r"line 2: 'question' is a number \(4\); expected a string"),
        (
            '{"image": "i", "question": "q", "answer": "a", "case": true}',
            r"'case' is a boolean .*; expected an integer",
        ),
        (
            '{"image": "i", "question": "q", "answer": "a", "findings": "x"}',
            r"'findings' is a string; expected a list",
        ),
        (
            '{"image": "i", "question": "q", "answer": "a", "findings": [1]}',
            r"'findings' is a list \(\[1\]\); expected a list of str",
        ),
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, json.dumps(RECORD), line)
    with pytest.raises(InputError, match=message) as caught:
        load_records(path)
    assert str(path) in str(caught.value)


def test_every_line_is_yielded_with_its_record_or_its_error(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps(RECORD), "", "{", "[1]", json.dumps(RECORD | {"answer": ""}), json.dumps(RECORD))
    lines = list(iterate_records(path))
    assert [line.number for line in lines] == [1, 3, 4, 5, 6]
    assert [line.record for line in lines if line.error is None] == load_records(
        write(tmp_path, *[json.dumps(RECORD)] * 2)
    )
    assert [str(line.error).split(": ")[1] for line in lines if line.record is None] == [
        "is not JSON",
        "is a list ([1]); expected an object with 'image', 'question' and 'answer'",
        "'answer' is empty; fill it in or drop the line",
    ]
    assert [line.written for line in lines] == [RECORD, None, [1], RECORD | {"answer": ""}, RECORD]


def test_answers_are_optional_on_request_but_never_empty(tmp_path: Path) -> None:
    path = write(tmp_path, '{"image": "i", "question": "q"}')
    assert "answer" not in load_records(path, require_answer=False)[0]
    path = write(tmp_path, '{"image": "i", "question": "q", "answer": ""}')
    with pytest.raises(InputError, match="'answer' is empty"):
        load_records(path, require_answer=False)


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'none.jsonl'}: does not exist")):
        load_records(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        load_records(tmp_path)
    with pytest.raises(InputError, match="holds no records"):
        load_records(write(tmp_path, "", " "))
    binary = tmp_path / "volume.jsonl"
    binary.write_bytes(b"\x1f\x8b\xff\x00")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_records(binary)


@pytest.mark.parametrize(
    ("key", "first", "second"),
    [
        ("case", 2, 3),
        ("findings", ["f"], []),
        ("lesion_mask", "m.nii.gz", "n.nii.gz"),
        ("truth", "t.json", "u.json"),
        ("spacing", [1, 1, 1], [1, 1, 2]),
    ],
)
def test_records_of_an_image_that_disagree_are_refused(key: str, first: object, second: object) -> None:
    records = [{**RECORD, key: first}, {**RECORD, "image": "b", key: second}, RECORD]
    assert len(group_by_image(records)) == 2
    with pytest.raises(InputError) as caught:
        group_by_image([*records, {**RECORD, key: second}])
    assert str(caught.value).startswith(
        f"images/a.nii.gz: its records disagree on '{key}' ({first!r} and {second!r}); expected the same"
    )


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        {**RECORD, "chosen": "Nothing.", "rejected": "A nodule."},
        {**RECORD, "thinking": "Line 1 says so."},
    ],
)
def test_prepared_files_of_the_official_code_load_unchanged(tmp_path: Path, record: dict[str, str]) -> None:
    (loaded,) = load_records(write(tmp_path, json.dumps(record)))
    assert loaded == {**record, "image": str(tmp_path / "images/a.nii.gz")}


def test_prepared_thinking_over_reports_loads_unchanged(tmp_path: Path) -> None:
    record = {"image": "/a.nii.gz", "report": "R.", "question": "Q?", "thinking_before": "T.", "thinking_after": "U."}
    assert load_records(write(tmp_path, json.dumps(record))) == [{**record, "answer": "R."}]


def test_no_text_of_a_record_is_in_a_message(tmp_path: Path) -> None:
    for changed in ({"answer": ["A lung cancer."]}, {"findings": ["A lung cancer.", 1]}, {"spacing": "A lung cancer."}):
        with pytest.raises(InputError) as caught:
            load_records(write(tmp_path, json.dumps({**RECORD, **changed})))
        assert "cancer" not in str(caught.value)


def test_header_keys_are_kept(tmp_path: Path) -> None:
    header = {"spacing": [0.7, 0.7, 1], "image_orientation": [1, 0, 0, 0, 1, 0], "rescale_slope": 2}
    header |= {"rescale_intercept": -1024.0, "volume_index": 0}
    assert header.keys() == set(HEADER_KEYS)
    (loaded,) = load_records(write(tmp_path, json.dumps({**RECORD, **header})))
    assert {key: loaded[key] for key in HEADER_KEYS} == header


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"spacing": [0.7, 0.7]}, r"'spacing' is a list \(\[0.7, 0.7\]\); expected three numbers above 0 \(mm\)"),
        ({"spacing": [0.7, 0.7, 0.0]}, "expected three numbers above 0"),
        ({"spacing": [0.7, 0.7, float("nan")]}, "expected three numbers above 0"),
        ({"spacing": [0.7, 0.7, True]}, "expected three numbers above 0"),
        ({"spacing": "[0.7, 0.7, 1]"}, "'spacing' is a string"),
        ({"image_orientation": [1, 0, 0, 1, 0, 0]}, "expected two unit vectors at right angles, six numbers"),
        ({"image_orientation": [2, 0, 0, 0, 1, 0]}, "expected two unit vectors"),
        ({"image_orientation": [1, 0, 0]}, "expected two unit vectors"),
        ({"rescale_slope": 0}, "expected a number other than 0"),
        ({"rescale_intercept": None}, "'rescale_intercept' is null; expected a number"),
        ({"volume_index": -1}, "expected an integer, 0 or more"),
        ({"volume_index": 0.0}, "expected an integer, 0 or more"),
    ],
)
def test_header_keys_are_checked(tmp_path: Path, header: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_records(write(tmp_path, json.dumps({**RECORD, **header})))


def test_group_by_image() -> None:
    records = [
        {"image": "b", "question": "1", "answer": "x", "kind": "report", "case": 2, "findings": ["f"], "truth": "t"},
        {"image": "a", "question": "2", "answer": "y"},
        {"image": "b", "question": "3", "answer": "z", "kind": "region", "case": 2, "findings": ["f"], "truth": "t"},
    ]
    assert group_by_image(records) == [
        {
            "image": "b",
            "conversations": [
                {"question": "1", "answer": "x", "kind": "report"},
                {"question": "3", "answer": "z", "kind": "region"},
            ],
            "case": 2,
            "findings": ["f"],
            "truth": "t",
        },
        {"image": "a", "conversations": [{"question": "2", "answer": "y"}]},
    ]
