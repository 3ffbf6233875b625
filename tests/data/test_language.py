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

from monai_u2.data import LANGUAGES, count_words, detect_language
from monai_u2.data.phantom.dataset import case_records

TEXTS = {
    "en": "There is a nodule in the right upper lobe. No pleural effusion.",
    "de": "Es zeigt sich kein Pleuraerguss. Die Leber ist unauffällig und nicht vergrößert.",
    "fr": "Il n'y a pas d'épanchement pleural. Le foie est de taille normale et sans lésion dans les segments.",
    "es": "No hay derrame pleural. El hígado es de tamaño normal y los riñones están sin lesiones.",
    "it": "Non si osserva versamento pleurico. Il fegato è nella norma e non ci sono lesioni dei reni.",
    "pt": "Não há derrame pleural. O fígado é normal e os rins estão sem lesões em ambos os lados.",
    "nl": "Er is geen pleuravocht. De lever is niet vergroot en het hart is normaal van grootte.",
    "tr": "Plevral efüzyon saptanmadı. Karaciğer normal boyutlarda olarak izlendi ve her iki böbrek normaldir.",
    "zh": "双肺未见明显异常。肝脏大小正常，右肾见一囊肿，大小约 12 mm × 10 mm (CT)。",
    "ja": "両肺に異常はありません。肝臓は正常です。",
    "ko": "양측 폐에 이상 소견이 없습니다. 간은 정상입니다.",
    "Cyrl": "Очаговых изменений в лёгких не выявлено.",
    "Arab": "لا يوجد انصباب جنبي.",
    "Grek": "Δεν υπάρχει πλευριτική συλλογή.",
    "Hebr": "אין תפליט פלאורלי.",
    "Thai": "ไม่พบน้ำในช่องเยื่อหุ้มปอด",
    "Deva": "फुफ्फुस बहाव नहीं है।",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_are_told_apart(language: str) -> None:
    assert detect_language(TEXTS[language]) == language


@pytest.mark.parametrize("text", ["", "Yes.", "12 mm", "Pneumothorax. Cardiomegaly.", "Lungs clear. Heart normal."])
def test_short_texts_are_left_undecided(text: str) -> None:
    assert detect_language(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Nodule in right lower lobe. Cyst in liver. Stone in left kidney.",
        "Liver normal. Spleen normal. Kidneys normal.",
        "No effusion. No nodule. Heart size as before. No change as before.",
    ],
)
def test_telegram_style_is_in_no_other_language(text: str) -> None:
    assert detect_language(text) in ("en", None)


def test_reports_of_phantoms_are_english() -> None:
    reports = [case_records(number, 0)[0]["answer"] for number in range(100)]
    assert {detect_language(report) for report in reports} == {"en"}


def test_a_few_foreign_characters_decide_nothing() -> None:
    assert detect_language("The µ-value of the lesion is 40 HU in the 肝 and it is α-shaped.") == "en"


@pytest.mark.parametrize(("text", "number"), [("", 0), ("No  effusion.\n", 2), ("右肾见一囊肿", 6), ("约 12 mm", 3)])
def test_words_are_counted(text: str, number: int) -> None:
    assert count_words(text) == number
