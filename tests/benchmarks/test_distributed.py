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

import distributed
import pytest

from monai_u2.exceptions import InputError


def test_two_processes_against_one(tiny_bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    distributed.benchmark(str(output), str(tiny_bundle), cases=1, slabs=1, questions=2, answer=3, steps=1, rounds=1)
    figures = json.loads(output.read_text())
    (one,), (two,) = (figures["tokens per second"][number] for number in ("1", "2"))
    assert figures["ratio"] == pytest.approx(two / one) and one > 0


def test_one_process_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(InputError, match="processes must be at least 2"):
        distributed.benchmark(processes=1)
