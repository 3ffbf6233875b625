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

import check_data
import pytest

from monai_u2.exceptions import InputError


def test_all_ways_read_everything(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, output = tmp_path / "volumes", tmp_path / "out.json"
    small = {"num_cases": 1, "names": 2, "size": (64, 64, 48), "workers": 1, "rounds": 1}
    check_data.benchmark(str(folder), str(output), str(bundle), **small)
    figures = json.loads(output.read_text())
    assert figures["volumes"] == 2 and [*figures["seconds"]] == ["reading alone", "check", "filling the cache"]
    assert figures["ratios"]["check"] == figures["seconds"]["reading alone"][0] / figures["seconds"]["check"][0]
    shown = capsys.readouterr().out
    for name in ("check", "filling the cache"):
        assert f"{name}: {figures['ratios'][name]:.2f} of the throughput" in shown
    assert not folder.exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        check_data.benchmark(str(tmp_path))
    assert tmp_path.is_dir()
