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

"""Which language a text is in."""

from __future__ import annotations

import pytest

from monai_u2.data.phantom import draw_case, write_report
from monai_u2.synthesis.language import is_other_language

TEXTS = {
    "en": "There is a nodule in the right upper lobe, and the heart is not enlarged.",
    "de": "Es ist ein Rundherd im rechten Oberlappen, und das Herz ist nicht vergrößert.",
    "fr": "Il y a un nodule dans le lobe supérieur droit, et le coeur est de taille normale.",
    "es": "Hay un nódulo en el lóbulo superior de la derecha, y el corazón no es grande.",
    "zh": "右肺上叶见结节，大小约 20 mm，心脏未见增大。",
    "ru": "В верхней доле правого лёгкого определяется узел.",
    "ja": "右肺上葉に結節を認める。",
}


@pytest.mark.parametrize("asked", TEXTS)
@pytest.mark.parametrize("written", TEXTS)
def test_each_language_is_told_from_the_others(asked: str, written: str) -> None:
    if (asked, written) != ("ja", "zh"):  # Chinese letters are Japanese ones too
        assert is_other_language(TEXTS[written], asked) is (asked != written)


def test_short_texts_and_unknown_languages_pass() -> None:
    assert not is_other_language("Hydronephrosis.", "de") and not is_other_language("", "en")
    assert not is_other_language(TEXTS["de"], "Klingon")


def test_phantom_reports_are_english() -> None:
    assert not any(is_other_language(write_report(draw_case(number)).text, "en") for number in range(20))
