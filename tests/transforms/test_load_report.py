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

import pytest

from monai_u2.data.report_text import report_text
from monai_u2.exceptions import InputError
from monai_u2.transforms import LoadReportd

QUESTION = "Describe the findings of this CT."


def test_a_report_becomes_what_a_record_holds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffLesion ≥ 5 mm — left.\n", encoding="utf-8")
    load = LoadReportd("label", QUESTION, parser=lambda text: ["lesion"] if "Lesion" in text else [])
    case = load({"image": "a.nii.gz", "label": str(tmp_path / "a.txt")})
    assert (case["question"], case["answer"]) == (QUESTION, "Lesion ≥ 5 mm — left.")
    assert case["conversations"] == [{"question": QUESTION, "answer": case["answer"]}]
    assert case["findings"] == ["lesion"]
    assert "findings" not in LoadReportd("label", QUESTION)({"label": str(tmp_path / "a.txt")})


@pytest.mark.parametrize("case", [{"question": "?"}, {"conversations": [], "label": "a.txt"}, {"image": "a.nii.gz"}])
def test_other_cases_stay_as_they_are(case: dict[str, object]) -> None:
    assert LoadReportd("label", QUESTION, allow_missing_keys=True)(case) == case


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.nii.gz", b"", "no text file"),
        ("a.txt", b" \n", "is empty"),
        ("a.txt", b"\xff", "isn't UTF-8"),
        ("a.txt", None, "can't be read"),
        ("a.txt", report_text("Clear.", "Describe.", [], "u2llm", "1").encode(), "expected the report alone"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        LoadReportd("label", QUESTION)({"label": str(tmp_path / name)})
