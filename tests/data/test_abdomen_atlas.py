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

import pytest

from monai_u2.data import load_records, prepare_dataset
from monai_u2.exceptions import InputError

Replica = Callable[..., Path]


def cases(output: Path, split: str) -> list[int]:
    return [int(Path(record["image"]).parent.name[-2:]) for record in load_records(output / f"{split}.jsonl")]


def test_splits_and_what_is_left_out(abdomen_atlas: Replica, tmp_path: Path) -> None:
    summary = prepare_dataset("abdomen_atlas", abdomen_atlas(), tmp_path / "out", validation_share=0.4)
    train, validation = cases(tmp_path / "out", "train"), cases(tmp_path / "out", "validation")
    assert sorted(train + validation) == [1, 6, 7, 8] and train and validation
    assert cases(tmp_path / "out", "test") == [2, 5]  # 5 is in both split files, and held out
    reasons = {line["case"][-1]: line["reason"] for line in map(json.loads, (tmp_path / "out/dropped.jsonl").open())}
    assert reasons == {
        "3": "no report",
        "4": "no image file",
        "5": "in the split files of training and test",
        "9": "image without a report",
    }
    assert summary["cases"]["test"] == 2


def test_the_validation_follows_from_the_names(abdomen_atlas: Replica, tmp_path: Path) -> None:
    source = abdomen_atlas()
    for output in ("a", "b"):
        prepare_dataset("abdomen_atlas", source, tmp_path / output, validation_share=0.4)
    assert cases(tmp_path / "a", "validation") == cases(tmp_path / "b", "validation")


@pytest.mark.parametrize(
    ("options", "split", "expected", "text"),
    [
        ({"report": "structured"}, "train", [1, 3, 6, 7, 8], "Liver: case 1."),
        ({"report": "fusion_narrative"}, "train", [1], "Liver fused."),
        ({"split": "OOD"}, "test", [7, 8], "FINDINGS:"),
    ],
)
def test_options(
    abdomen_atlas: Replica, tmp_path: Path, options: dict[str, Any], split: str, expected: list[int], text: str
) -> None:
    prepare_dataset("abdomen_atlas", abdomen_atlas(), tmp_path / "out", validation_share=0.0, **options)
    assert cases(tmp_path / "out", split) == expected
    assert load_records(tmp_path / f"out/{split}.jsonl")[0]["answer"].startswith(text)


def test_a_row_given_twice_is_told_of(abdomen_atlas: Replica, tmp_path: Path) -> None:
    source = abdomen_atlas()
    table = source / "AbdomenAtlas3.0MiniWithMeta.csv"
    header, rest = table.read_text().split("\n", 1)
    table.write_text(f"{header}\n{rest}{rest}")
    summary = prepare_dataset("abdomen_atlas", source, tmp_path / "out", validation_share=0.0)
    assert summary["dropped"]["test"] == {"given twice": 2}
    assert summary["dropped"]["train"]["given twice"] == 6


def test_bad_tables_are_named(abdomen_atlas: Replica, tmp_path: Path) -> None:
    source = abdomen_atlas()
    table = source / "AbdomenAtlas3.0MiniWithMeta.csv"
    text = table.read_text()
    table.write_text(text.replace("narrative report", "report", 1))
    with pytest.raises(InputError, match=r"no column 'narrative report' \(close to it: .*its columns are: BDMAP"):
        prepare_dataset("abdomen_atlas", source, tmp_path / "out")
    table.write_bytes(text.encode("utf-16"))
    with pytest.raises(InputError, match="is not UTF-8 text .* it may be UTF-16"):
        prepare_dataset("abdomen_atlas", source, tmp_path / "out")
    table.write_bytes((text + "BDMAP_00000011").replace("portal", "portalé").encode("cp1252"))
    with pytest.raises(InputError, match="is not UTF-8 text .* it may be Windows-1252"):
        prepare_dataset("abdomen_atlas", source, tmp_path / "out")
    (source / "TrainTestIDS/IID_train.csv").unlink()
    with pytest.raises(InputError, match="no split file; expected TrainTestIDS/IID_train.csv"):
        prepare_dataset("abdomen_atlas", source, tmp_path / "out")
