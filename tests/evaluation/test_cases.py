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
from typing import Any

import pytest

from monai_u2.evaluation import evaluation_cases, image_data
from monai_u2.exceptions import InputError


def written(folder: Path, *records: dict[str, Any]) -> Path:
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps({"question": "Report?", "answer": "Normal."} | r) + "\n" for r in records))
    return path


def test_ids_and_patients_follow_from_the_image(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"image": "images/a.nii.gz"},
        {"image": "images/a.nii.gz", "question": "Cyst?", "kind": "presence"},
        {"image": "images/b.nrrd", "patient": 7},
        {"image": "images/b.nrrd", "id": "own", "kind": "presence"},
    )
    cases = evaluation_cases(path, ["report", "presence"])
    assert [case["id"] for case in cases] == ["a", "a#2", "b", "own"]
    assert [case["patient"] for case in cases] == ["a", "a", "7", "b"]
    assert [case["kind"] for case in cases] == ["report", "presence", "report", "presence"]
    assert {case["reference"] for case in cases} == {"Normal."}
    assert [case["id"] for case in evaluation_cases(path, ["presence"])] == ["a#2", "own"]
    assert [case["id"] for case in evaluation_cases(path, max_cases=1)] == ["a"]


def test_images_of_one_name_are_told_apart_without_their_folders(tmp_path: Path) -> None:
    path = written(tmp_path, {"image": "doe_john/ct.nii.gz"}, {"image": "roe_jane/ct.nii.gz"})
    ids = [case["id"] for case in evaluation_cases(path)]
    assert len(set(ids)) == 2 and all(re.fullmatch("ct-[0-9a-f]{8}", name) for name in ids)
    assert [case["id"] for case in evaluation_cases(path)] == ids


def test_what_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"image": "a.nii", "id": "x"}, {"image": "b.nii", "id": "x"})
    with pytest.raises(InputError, match=r"more than once: 1 \(x\)"):
        evaluation_cases(path)
    with pytest.raises(InputError, match="no record of the kinds side; its kinds are: report"):
        evaluation_cases(path, ["side"])
    for number in (0, "2", True):
        with pytest.raises(InputError, match="max_cases is"):
            evaluation_cases(path, max_cases=number)


def test_each_image_once_with_its_header() -> None:
    cases = [{"image": image, "question": "?", "spacing": [1, 1, 2], "id": str(n)} for n, image in enumerate("aab")]
    assert image_data(cases) == [{"image": "a", "spacing": [1, 1, 2]}, {"image": "b", "spacing": [1, 1, 2]}]


def test_names_that_are_null_follow_from_the_image(tmp_path: Path) -> None:
    path = written(tmp_path, *({"image": f"{name}.nii", "id": None, "patient": None} for name in "ab"))
    assert [(case["id"], case["patient"]) for case in evaluation_cases(path)] == [("a", "a"), ("b", "b")]
    path = written(tmp_path, {"image": "a.nii", "patient": {"name": "Doe"}})
    with pytest.raises(InputError, match="a record of a: 'patient' is dict; expected a number or a string"):
        evaluation_cases(path)
