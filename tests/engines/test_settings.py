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

from typing import Any

import pytest

from monai_u2.engines import check_switches
from monai_u2.exceptions import InputError


def test_true_and_false_pass() -> None:
    check_switches(resume=True, image_blind=False)


@pytest.mark.parametrize(("value", "shown"), [("false", "'false'"), ("True", "'True'"), (1, "1"), (None, "None")])
def test_anything_else_is_refused(value: Any, shown: str) -> None:
    with pytest.raises(InputError) as caught:
        check_switches(resume=True, image_blind=value)
    assert str(caught.value) == (
        f"image_blind is {shown}; expected True or False (on the command line with a capital letter: --image_blind "
        "False; in a JSON file without quotes: false)."
    )
