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

import pytest

from monai_u2.data import MicroBatches
from monai_u2.exceptions import InputError


def total(cases: list[dict[str, int]]) -> dict[str, int]:
    return {"sum": sum(case["x"] for case in cases)}


def test_a_batch_is_cut_up_and_collated_in_parts() -> None:
    cases = [{"x": x} for x in (1, 2, 4, 8, 16)]
    assert MicroBatches(total, 2)(cases) == [{"sum": 3}, {"sum": 12}, {"sum": 16}]
    assert MicroBatches(total)(cases) == [{"sum": 31}]


@pytest.mark.parametrize("size", [0, 1.5, "two"])
def test_sizes_that_are_none_are_refused(size: object) -> None:
    with pytest.raises(InputError, match="micro_batch_size is .*expected a whole number"):
        MicroBatches(total, size)
