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

import time
from typing import Any

import pytest

from monai_u2.data.phantom import draw_case, write_report
from monai_u2.exceptions import InputError
from monai_u2.preferences import SampleFilter


def samples(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "whole": True} for text in texts]


def test_degenerate_texts() -> None:
    cut = {"text": "There is a", "whole": False}
    found = SampleFilter()([*samples("", " \n", "A cyst."), cut, *samples("No no no no no no no no cyst.")])
    assert found == ["empty", "empty", None, "cut_off", "repetition"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A cyst. A cyst. A cyst.", None),
        ("A cyst. A cyst. A cyst. A cyst. ", None),  # the last one lacks its space
        ("A cyst. A cyst. A cyst. A cyst. A cyst.", "repetition"),
        ("The liver, the\nliver, the  liver, THE liver, the liver,", "repetition"),
        ("Seen on ____________________ and -------------------- 0000000000000000.", None),
        ("1 2 3 4 1 2 3 4 1 2 3 4 1 2 3 4 1 2 3 4", None),
        ("肺部清晰。肺部清晰。肺部清晰。肺部清晰。", "repetition"),
    ],
)
def test_loops(text: str, reason: str | None) -> None:
    assert SampleFilter()(samples(text)) == [reason]


def test_more_repeats_may_be_allowed() -> None:
    text = "A cyst, " * 5 + "a stone."
    assert SampleFilter(max_repeats=3)(samples(text)) == ["repetition"]
    assert SampleFilter(max_repeats=5)(samples(text)) == [None]


def test_no_phantom_report_is_degenerate() -> None:
    reports = sorted({write_report(draw_case(number)).text for number in range(200)})
    assert set(SampleFilter()(samples(*reports))) == {None}


def test_the_first_of_equal_texts_is_kept() -> None:
    found = SampleFilter()(samples("A cyst.", "a  CYST.\n", "A cyst on the left.", "A cyst."))
    assert found == [None, "near_duplicate", None, "near_duplicate"]


def test_alike_texts_by_a_threshold() -> None:
    texts = samples("A cyst in the right kidney.", "A cyst in the right kidney!", "A stone in the left kidney.")
    assert SampleFilter()(texts) == [None, None, None]
    assert SampleFilter(similarity_threshold=0.95)(texts) == [None, "near_duplicate", None]
    assert SampleFilter(similarity_threshold=0.5)(texts) == [None, "near_duplicate", "near_duplicate"]


def test_a_dropped_text_hides_no_other() -> None:
    cut = {"text": "A cyst.", "whole": False}
    assert SampleFilter()([cut, *samples("A cyst.")]) == ["cut_off", None]


def test_long_texts_take_no_time() -> None:
    start = time.monotonic()
    SampleFilter()(samples(" ".join(f"word{number} {number * number}" for number in range(2000))))
    assert time.monotonic() - start < 5.0


@pytest.mark.parametrize("options", [{"similarity_threshold": 0}, {"similarity_threshold": 1.1}, {"max_repeats": 0}])
def test_settings_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        SampleFilter(**options)
