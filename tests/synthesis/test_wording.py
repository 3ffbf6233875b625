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

"""What a text says by its words."""

from __future__ import annotations

import pytest

from monai_u2.synthesis.wording import comparison, content_words, numbers, sides


def test_stems_of_content_words() -> None:
    assert content_words("There are calcified nodules in the lungs.") == content_words("A lung nodule, calcifying")
    assert content_words("calcifications") == content_words("calcified")
    assert content_words("Let me consider the report's finding") == set()
    assert content_words("右肺结节") == {"右肺", "肺结", "结节"}


def test_numbers_with_their_units() -> None:
    assert numbers("2 cm, 1.5 x 2.0 cm, 3 lesions at L5, 4.5") == {"20 mm", "15 mm", "3", "4.5"}
    assert numbers("15 x 20 mm") == numbers("1.5 x 2 cm")
    assert numbers("20 mm and 3 months", lengths_only=True) == {"20 mm"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in the left upper lobe", {"left"}),
        ("right-sided effusion", {"right"}),
        ("bilateral effusions", {"left", "right"}),
        ("both kidneys", {"left", "right"}),
        ("upright", set()),
        ("双侧胸腔积液", {"left", "right"}),
    ],
)
def test_sides(text: str, expected: set[str]) -> None:
    assert sides(text) == expected


@pytest.mark.parametrize("text", ["It has improved.", "unchanged", "No longer seen.", "as compared with the prior CT"])
def test_comparisons(text: str) -> None:
    assert comparison(text, "en")


@pytest.mark.parametrize("text", ["increased density", "A large lesion.", "Follow-up is needed."])
def test_no_comparisons(text: str) -> None:
    assert comparison(text, "en") is None
