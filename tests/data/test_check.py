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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_u2.data import check_records, generate_phantoms, join_checks, load_records
from monai_u2.data.check import FINDINGS, format_check
from monai_u2.exceptions import InputError

Records = list[dict[str, Any]]
GERMAN = "Es zeigt sich kein Pleuraerguss. Die Leber ist unauffällig und nicht vergrößert."


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of four cases, a report and two questions each."""
    return generate_phantoms(tmp_path_factory.mktemp("phantoms"), 4, 0, 0, 2, num_workers=1, progress=False)["train"]


def write(file: Path, records: Records) -> Path:
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return file


def found(check: dict[str, Any]) -> list[tuple[str, list[int]]]:
    return [(finding["finding"], finding["lines"]) for finding in check["findings"]]


def test_phantoms_are_well(phantoms: Path) -> None:
    check = check_records(phantoms)
    assert (check["num_records"], check["num_images"], check["findings"], check["counts"]) == (12, 4, [], {})
    assert [image["image"] for image in check["images"]] == [f"images/case_00000{number}.nii.gz" for number in range(4)]
    assert [image["line"] for image in check["images"]] == [1, 4, 7, 10]
    assert json.loads(json.dumps(check)) == check
    assert format_check(check) == "12 records, 4 images: all is well"


def test_no_text_and_no_place_on_this_machine_is_in_a_check(tmp_path: Path, phantoms: Path) -> None:
    records = load_records(phantoms)
    secret = "Mister Roe has a mass"
    records[0] |= {"answer": secret, "image": "none.nii.gz"}
    lines = [json.dumps(record) for record in records] + [f'{{"answer": "{secret}"', json.dumps({"answer": secret})]
    lines.append(json.dumps({"image": secret, "question": secret, "answer": 5, secret: 1}))
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    check = check_records(tmp_path / "records.jsonl")
    assert len(check["findings"]) >= 4
    text = json.dumps(check["findings"]) + format_check(check)
    assert "Roe" not in text and str(tmp_path) not in text


def same_report(records: Records, **more: Any) -> None:
    """Leave the reports alone, and make all of them that of the first image."""
    records[:] = [record | {"answer": records[0]["answer"], **more} for record in records if record["kind"] == "report"]


CHANGES: dict[str, tuple[Callable[[Records], None], list[tuple[str, list[int]]]]] = {
    "missing image": (lambda r: [x.update(image="none.nii.gz") for x in r[3:6]], [("missing_file", [4, 5, 6])]),
    "missing mask": (lambda r: [x.update(lesion_mask="none.nii.gz") for x in r[:3]], [("missing_file", [1, 2, 3])]),
    "no answer": (lambda r: r[1].pop("answer"), [("empty_answer", [2])]),
    "null": (lambda r: r[1].update(answer=None), [("empty_answer", [2])]),
    "blank": (lambda r: r[1].update(answer=" \n"), [("empty_answer", [2])]),
    "no question": (lambda r: r[1].pop("question"), [("broken_line", [2])]),
    "number": (lambda r: r[1].update(answer=5), [("broken_line", [2])]),
    "several": (lambda r: [x.pop("image") for x in (r[1], r[5])], [("broken_line", [2]), ("broken_line", [6])]),
    "Not given.": (lambda r: r[0].update(answer="Not given."), [("placeholder_answer", [1])]),
    "n/a": (lambda r: r[1].update(answer=" N/A"), [("placeholder_answer", [2])]),
    "short": (lambda r: r[0].update(answer="Heart normal."), [("short_answer", [1])]),
    "short, but no report": (lambda r: r[1].update(answer="Yes."), []),
    "long": (lambda r: r[0].update(answer="The heart is normal. " * 251), [("long_answer", [1])]),
    "German": (lambda r: r[0].update(answer=GERMAN), [("other_language", [1])]),
    "Chinese": (lambda r: r[1].update(answer="双肺未见明显异常。"), [("other_language", [2])]),
    "again": (lambda r: r.append(dict(r[2])), [("repeated_record", [3, 13])]),
    "paraphrase": (lambda r: r.append(r[0] | {"answer": "The heart is of normal size."}), []),
    "copied": (
        lambda r: same_report(r, findings=["mass"]),
        [("repeated_answer", [1, 2, 3, 4])],
    ),
    "normal": (lambda r: same_report(r, findings=[]), []),
    "one patient": (lambda r: same_report(r, findings=["mass"], patient="7"), []),
    "contradiction": (lambda r: r[4].update(findings=["mass"]), [("disagreeing_records", [4, 5])]),
    "rescale of one record": (
        lambda r: [r[0].update(rescale_intercept=0), r[2].update(rescale_intercept=-1024)],
        [("disagreeing_records", [1, 3])],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_records_are_found(tmp_path: Path, phantoms: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_u2.data.check.check_image", lambda task: {"findings": [], "series": Path(task[0]).name})
    records = load_records(phantoms)
    do, expected = CHANGES[change]
    do(records)
    assert found(check_records(write(tmp_path / "records.jsonl", records))) == expected


def test_lines_that_are_no_json_are_listed_and_the_rest_is_checked(tmp_path: Path, phantoms: Path) -> None:
    lines = [json.dumps(record) for record in load_records(phantoms)]
    lines[1:1] = ['{"image": ', "", "[1, 2]", "text"]
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    check = check_records(tmp_path / "records.jsonl")
    assert found(check) == [("broken_line", [2]), ("broken_line", [4]), ("broken_line", [5])]
    assert check["findings"][0]["detail"].startswith("is not JSON") and check["num_records"] == 15
    assert len(check["images"]) == 4


@pytest.fixture
def spoiled(tmp_path: Path, phantoms: Path) -> Path:
    """Records of phantoms of which some are broken, one as often as another is there."""
    records = load_records(phantoms)
    image = nib.load(records[0]["image"])
    hu = np.asarray(image.dataobj, dtype=np.int16)
    for name, values in {"offset": hu + 1024, "twice": hu - 1024, "constant": 0 * hu}.items():
        nib.save(nib.Nifti1Image(values, image.affine), tmp_path / f"{name}.nii.gz")
    content = Path(records[3]["image"]).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    (tmp_path / "copy.nii.gz").write_bytes(content)
    names = ("offset", "twice", "constant", "cut", "copy", "missing")
    records += [
        {"image": f"{name}.nii.gz", "question": question, "answer": f"The {name} is there."}
        for name in names
        for question in ("What?", "Where?")
    ]
    file = write(tmp_path / "records.jsonl", records)
    file.write_text(file.read_text() + "{\n")
    return file


def test_each_image_is_read_once_and_each_fault_found(spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import monai_u2.data.check as module

    read, check_image = [], module.check_image
    monkeypatch.setattr(module, "check_image", lambda task: [read.append(task[0]), check_image(task)][1])
    check = check_records(spoiled, min_words=4)
    assert len(read) == len(set(read)) == 9
    assert found(check) == [
        ("repeated_image", [4, 21]),
        ("hu_offset", [13, 14]),
        ("hu_rescaled_twice", [15, 16]),
        ("constant", [17, 18]),
        ("unreadable", [19, 20]),
        ("missing_file", [23, 24]),
        ("broken_line", [25]),
    ]
    assert (check["num_records"], check["num_images"], len(check["images"])) == (25, 10, 7)
    table = format_check(check, ["constant"]).splitlines()
    assert table[0] == "25 records, 10 images" and len(table) == 9
    assert [line.split()[0] for line in table[2:]] == list(check["counts"])
    assert any(line.startswith("constant") and line.endswith("(allowed)") for line in table)


def test_two_workers_find_what_one_finds(spoiled: Path) -> None:
    assert check_records(spoiled, workers=2) == check_records(spoiled, workers=1)


@pytest.mark.parametrize("count", [2, 3, 12])
def test_joined_shards_equal_the_whole(spoiled: Path, count: int) -> None:
    shards = [check_records(spoiled, shard=f"{index}/{count}") for index in range(1, count + 1)]
    assert all(shard["shard"] for shard in shards) and sum(len(shard["images"]) for shard in shards) == 7
    assert join_checks(list(reversed(shards))) == check_records(spoiled)


def test_shards_that_do_not_fit_are_refused(spoiled: Path, phantoms: Path) -> None:
    first, second = (check_records(spoiled, shard=f"{index}/2") for index in (1, 2))
    for shards, message in (
        ([], "no checks to join"),
        ([first], "of the shards 1/2; expected each share of one division once"),
        ([first, first, second], "of the shards 1/2, 1/2, 2/2"),
        ([first, check_records(spoiled, shard="2/3")], "of the shards 1/2, 2/3"),
        ([first, check_records(phantoms, shard="2/2")], "different records files"),
        ([first, check_records(spoiled, shard="2/2", min_words=9)], "different settings"),
    ):
        with pytest.raises(InputError, match=message):
            join_checks(shards)


def test_another_language_can_be_expected(tmp_path: Path, phantoms: Path) -> None:
    records = [load_records(phantoms)[0] | {"answer": GERMAN}]
    file = write(tmp_path / "records.jsonl", records)
    assert found(check_records(file, language="de")) == found(check_records(file, language=None)) == []
    assert check_records(file)["findings"][0]["detail"] == "the answer seems to be in de; expected en"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"language": "English"}, "language is 'English'; expected one of en, de"),
        ({"min_words": -1}, "min_words is -1"),
        ({"min_words": 9, "max_words": 8}, "max_words 8"),
        *(({"shard": text}, f"shard is '{text}'; expected") for text in ("", "3", "0/4", "5/4", "1/0", "-1/4", "a/b")),
    ],
)
def test_wrong_arguments_are_refused(phantoms: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_records(phantoms, **arguments)


def test_a_file_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("empty.jsonl", "none.jsonl", "."):
        with pytest.raises(InputError, match="expected"):
            check_records(tmp_path / name)


def test_every_finding_is_explained_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    assert [name for name in FINDINGS if f"`{name}`" not in page] == []
