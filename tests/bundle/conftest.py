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

from monai_u2.data import generate_phantoms, load_records, write_records
from monai_u2.networks import file_sha256


@pytest.fixture(scope="session")
def pairs(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of each case against that of the next."""
    folder = tmp_path_factory.mktemp("pairs")
    files = generate_phantoms(folder / "phantom", 4, 2, 0, questions_per_case=20, num_workers=0, progress=False)
    reports = [record for record in load_records(files["train"]) if record.get("kind") == "report"]
    reports = list({record["image"]: record for record in reports}.values())
    assert len(reports) == 4
    model = file_sha256(bundle / "models" / "model.pt")
    scores = {"chosen_score": 1.0, "rejected_score": 0.0, "judge": "by hand", "model_sha256": model}
    made = [
        {**record, "chosen": record["answer"], "rejected": other["answer"], **scores}
        for record, other in zip(reports, reports[1:] + reports[:1])
    ]
    write_records(folder / "pairs.jsonl", made)
    return folder / "pairs.jsonl"
