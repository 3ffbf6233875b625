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

import os
import signal

import pytest

from monai_u2.data.image_processes import map_in_processes
from monai_u2.exceptions import InputError


def double(number: int) -> int:
    return 2 * number


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_item_is_mapped_once(workers: int) -> None:
    mapped = sorted(map_in_processes(double, range(20), workers))
    assert mapped == [(index, 2 * index) for index in range(20)]


def test_a_killed_process_is_told() -> None:
    with pytest.raises(InputError, match="one of 2 processes that read images was killed.*--workers"):
        list(map_in_processes(die, range(4), 2))
