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

from pathlib import Path
from typing import Any

import pytest

from monai_u2.data import write_records
from monai_u2.exceptions import InputError
from monai_u2.preferences import select_cases
from monai_u2.preferences.cases import case_seed


def record(number: int, kind: str | None = "report", **more: Any) -> dict[str, Any]:
    fields = {"image": f"images/{number}.nii.gz", "question": "What is seen?", "answer": "A cyst.", **more}
    return fields if kind is None else {**fields, "kind": kind}


def test_reports_alone_are_taken_with_all_their_keys(tmp_path: Path) -> None:
    records = [record(0), record(1, "side"), record(2, None, findings=["cyst"], mine=3)]
    write_records(tmp_path / "train.jsonl", records)
    cases = select_cases(tmp_path / "train.jsonl")
    assert [Path(case["image"]).name for case in cases] == ["0.nii.gz", "2.nii.gz"]
    assert cases[1]["findings"] == ["cyst"] and cases[1]["mine"] == 3
    assert len({case["case_key"] for case in cases}) == 2
    assert [case["kind"] for case in select_cases(tmp_path / "train.jsonl", ["side"])] == ["side"]


def test_keys_do_not_depend_on_folder_or_order(tmp_path: Path) -> None:
    records = [record(0), record(1), record(1, question="Describe it."), record(1, answer="A stone.")]
    write_records(tmp_path / "a" / "train.jsonl", records)
    write_records(tmp_path / "b" / "other.jsonl", records[::-1])
    first, second = select_cases(tmp_path / "a" / "train.jsonl"), select_cases(tmp_path / "b" / "other.jsonl")
    assert [case["case_key"] for case in first] == [case["case_key"] for case in second][::-1]
    assert len({case["case_key"] for case in first}) == 4


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(0, "side"), record(1, "region")], "no record of the kinds report; its kinds are: region, side"),
        ([record(0), record(0)], "images/0.nii.gz has the same question and answer twice"),
        ([record(0, chosen="a", rejected="b")], "has 'chosen', which only a preference pair has"),
        ([record(0, case_key="a")], "has 'case_key'"),
    ],
)
def test_what_cannot_be_sampled(tmp_path: Path, records: list[dict[str, Any]], message: str) -> None:
    write_records(tmp_path / "train.jsonl", records)
    with pytest.raises(InputError, match=message):
        select_cases(tmp_path / "train.jsonl")


def test_seeds_differ_by_case_and_run() -> None:
    assert len({case_seed(seed, key) for seed in range(3) for key in ("a", "b", "c")}) == 9
    assert case_seed(1, "a") == case_seed(1, "a") < 2**63
