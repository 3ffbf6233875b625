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

"""Which language a text is in, as far as letters and function words tell."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

LANGUAGE_NAMES = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "nl": "Dutch",
    "pt": "Portuguese",
    "ru": "Russian",
    "tr": "Turkish",
    "zh": "Chinese",
}
"""Languages that can be checked; any other name is passed on to the model, and what comes isn't checked for it."""

_SCRIPTS = {"ar": ("ARABIC",), "ja": ("CJK", "HIRAGANA", "KATAKANA"), "ko": ("HANGUL",), "ru": ("CYRILLIC",)}
_SCRIPTS |= {"zh": ("CJK",)}
_FUNCTION_WORDS = {
    "de": "der die das und ist nicht ein eine im mit den von kein keine es sich wird auf zu bei",
    "en": "the and is no of in a with there are are on this to not seen that it was as",
    "es": "el la los las y es no de en un una con se que del por hay sin al",
    "fr": "le la les et est pas de un une dans avec il des du au sans à sur ce",
    "it": "il la le e è non di un una nel con si del della che sono gli al senza",
    "nl": "de het en is niet een van in met er geen op te zijn aan dat wordt bij",
    "pt": "o a os as e é não de um uma no na com se do da há em sem",
    "tr": "ve bir bu ile için olan yok var da de ki izlendi saptanmadı",
}
_WORDS = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
_LEAST_SHARE = {True: 0.9, False: 0.5}  # of the language's letters: units and names are Latin in any language


def is_other_language(text: str, language: str) -> bool:
    """Whether a text is in another language than asked for. Texts too short to tell, and languages that aren't in
    :data:`LANGUAGE_NAMES`, pass."""
    if language not in LANGUAGE_NAMES:
        return False
    letters = Counter(unicodedata.name(letter, "?").split(" ")[0] for letter in text if letter.isalpha())
    scripts = _SCRIPTS.get(language, ("LATIN",))
    number = letters.total()
    if number and sum(letters[script] for script in scripts) / number < _LEAST_SHARE["LATIN" in scripts]:
        return True
    if language not in _WORDS:
        return language == "zh" and letters["HIRAGANA"] + letters["KATAKANA"] > 0
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {name: sum(word in known for word in words) for name, known in _WORDS.items()}
    other = max((count, name) for name, count in counts.items() if name != language)
    return other[0] >= 3 and other[0] > 1.5 * counts[language]


def language_name(language: str) -> str:
    """Return a language's name as a prompt calls it."""
    return LANGUAGE_NAMES.get(language, language)
