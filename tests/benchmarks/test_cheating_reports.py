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

from cheating_reports import cheating_reports

from monai_u2.data import load_records
from monai_u2.data.phantom import parse_findings


def test_every_finding_is_named_in_other_words(phantoms: dict[str, Path], tmp_path: Path) -> None:
    cheating_reports(str(phantoms["test"]), str(tmp_path / "reports.jsonl"))
    predictions = [json.loads(line) for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    records = [record for record in load_records(phantoms["test"]) if record["kind"] == "report"]
    assert [set(parse_findings(entry["report"])) for entry in predictions] == [set(r["findings"]) for r in records]
    assert [entry["id"] for entry in predictions] == ["case_200000", "case_200001"]
    assert not {entry["report"] for entry in predictions} & {record["answer"] for record in records}
