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

from monai_u2.evaluation import TableLabels, TextLabels
from monai_u2.exceptions import InputError
from monai_u2.judges import FindingList
from monai_u2.metrics import match_cases

CASES = match_cases(
    [{"id": "1", "report": "A cyst."}, {"id": "2", "report": "A stone and a cyst."}],
    [{"id": "1", "report": "A stone."}, {"id": "2", "report": "A stone."}],
)


def test_labels_from_the_texts() -> None:
    labels = TextLabels(FindingList(["cyst", "stone"]), ["cyst", "stone"])
    found = labels(CASES)
    assert found.named.tolist() == [[True, False], [True, True]]
    assert found.there.tolist() == [[False, True], [False, True]]
    assert found.names == ("cyst", "stone") and labels.source == "FindingList"


def test_labels_from_tables(tmp_path: Path) -> None:
    (tmp_path / "reports.csv").write_text("id,stone,cyst\n2,1,1\n1,0,1\n")
    (tmp_path / "references.csv").write_text("id,cyst,stone\n1,0,1\n2,0,1\n3,1,1\n")
    labels = TableLabels(tmp_path / "reports.csv", tmp_path / "references.csv")
    found, read = labels(CASES), TextLabels(FindingList(["cyst", "stone"]), ["cyst", "stone"])(CASES)
    assert labels.names == found.names == ("cyst", "stone")
    assert found.named.tolist() == read.named.tolist() and found.there.tolist() == read.there.tolist()


def test_a_table_without_a_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reports.csv").write_text("id,stone\n1,0\n2,0\n")
    (tmp_path / "references.csv").write_text("id,cyst,stone\n1,0,1\n2,0,1\n")
    with pytest.raises(InputError, match="has no column"):
        TableLabels(tmp_path / "reports.csv", tmp_path / "references.csv")(CASES)
