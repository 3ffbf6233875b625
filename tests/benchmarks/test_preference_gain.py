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
from typing import Any

import preference_gain
import pytest

from monai_u2.exceptions import InputError


def test_table_of_the_real_model_on_real_phantoms(tiny_bundle: Path, phantoms: dict[str, Path], tmp_path: Path) -> None:
    same, output = tiny_bundle / "models" / "model.pt", tmp_path / "gain.json"
    preference_gain.benchmark(str(phantoms["test"]), str(same), bundle=str(tiny_bundle), output=str(output))
    figures = json.loads(output.read_text())
    references, before, again, difference = figures["rows"].values()
    assert figures["cases"] == 2 and before == again
    assert references["judge score"]["value"] == references["finding F1"]["value"] == 1.0
    assert all(value["value"] == value["low"] == value["high"] == 0 for value in difference.values())


def test_what_changes(phantoms: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text for all cases before, the references after."""

    def reports(bundle: str, checkpoint: str | None, records: list[dict[str, Any]]) -> list[str]:
        return [record["answer"] if checkpoint else "No abnormality." for record in records]

    monkeypatch.setattr(preference_gain, "reports_of", reports)
    for name in ("after.pt", "again.pt"):
        (tmp_path / name).write_bytes(b"")
    output = tmp_path / "gain.json"
    models = [str(tmp_path / "after.pt"), str(tmp_path / "again.pt")]
    preference_gain.benchmark(str(phantoms["test"]), models, output=str(output))
    rows = json.loads(output.read_text())["rows"]
    before, after, difference = (
        rows[f"{name}"] for name in ("before, shipped model", f"after, {models[0]}", f"difference, {models[0]}")
    )
    assert before["distinct"] == 0.5 and after["distinct"] == rows["references"]["distinct"] == 1.0
    assert before["words"]["value"] == 2.0 and after["judge score"]["value"] == 1.0
    assert difference["words"]["value"] == after["words"]["value"] - 2.0 and difference["judge score"]["value"] > 0
    assert difference["distinct"]["value"] == 0.5
    assert rows["mean difference"] == difference == rows[f"difference, {models[1]}"]  # two that are alike


def test_each_model_has_its_own_before(phantoms: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="before names 2 models, after 1"):
        preference_gain.benchmark(str(phantoms["test"]), "a.pt", before=["b.pt", "c.pt"])


def test_texts_that_disappear_are_counted_over_halves_of_the_cases() -> None:
    before, after = [str(case) for case in range(100)], [str(case % 50) for case in range(100)]
    found = preference_gain.distinct_difference([(before, after), (before, before)])
    assert found["value"] == -0.25  # half of the texts of one of two runs
    assert found["low"] < found["high"] < 0 and found == preference_gain.distinct_difference(
        [(before, after), (before, before)]
    )


def test_scores_by_hand() -> None:
    records = [{"answer": "There is a pleural effusion on the right.", "findings": ["pleural effusion, right"]}]
    reference = records[0]["answer"]
    good = preference_gain.measured([reference], records)
    assert good["score"].tolist() == [1.0] and good["length"].tolist() == [8]


def test_a_model_that_is_not_there(phantoms: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.pt: there is no such file"):
        preference_gain.benchmark(str(phantoms["test"]), str(tmp_path / "none.pt"))
