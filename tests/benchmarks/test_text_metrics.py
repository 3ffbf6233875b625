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

import pytest
from text_metrics import main


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(num_pairs=6, num_samples=20, output=str(tmp_path / "figures.json"))
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["pairs"] == 6 and 100 < figures["words"] < 400
    assert figures["text_seconds"] > 0 and figures["ratio"] > 0 and figures["peak_gigabytes"] > 0
    assert "bootstrap, micro_f1" in capsys.readouterr().out
