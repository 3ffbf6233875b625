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

import prepare
import pytest

from monai_u2.exceptions import InputError


def test_every_case_becomes_a_record(tmp_path: Path) -> None:
    prepare.benchmark(str(tmp_path / "folder"), 7, str(tmp_path / "out.json"))
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["prepare"]["records"] == 7 and figures["read"]["records"] == 21  # three tables
    assert figures["ratio"] > 0 and not (tmp_path / "folder").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is there already"):
        prepare.benchmark(str(tmp_path))
    assert tmp_path.is_dir()
