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

import evidence_cost as benchmark
import pytest

from monai_u2.data.phantom import generate_phantoms
from monai_u2.exceptions import InputError


def test_a_row_for_each_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate_phantoms(tmp_path, 0, 0, 1, questions_per_case=0, num_workers=0, progress=False)
    image = tmp_path / "images" / "case_200000.nii.gz"
    benchmark.evidence_cost(str(image), output=str(tmp_path / "cost.json"), rounds=1)
    content = json.loads((tmp_path / "cost.json").read_text())
    (without,), (much,) = content["rounds"].values()
    assert min(without + much) > 0 and content["ratios"] == [b / a for a, b in zip(without, much)]
    printed = capsys.readouterr().out
    assert all(f"| {figure} | " in printed for figure in content["figures"])


def test_a_missing_ct_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a CT that is there"):
        benchmark.evidence_cost(str(tmp_path / "none.nii.gz"))


def test_a_command_that_fails_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "none.nii.gz").write_bytes(b"")
    with pytest.raises(RuntimeError, match="ended with exit code 2"):
        benchmark.evidence_cost(str(tmp_path / "none.nii.gz"), rounds=1)
