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

"""Which language a text is in, by its script and its most frequent words.

It tells written languages apart that differ in script or in articles, pronouns and prepositions. It can't tell apart
languages of one script other than those of :data:`LANGUAGES` (Danish, say, or Ukrainian from Russian), says nothing
about texts of a few words or in telegram style, and sees only what most of a text is in.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_WORDS = {
    "en": "the of and is are with there was were within no not has been which this from to for seen both in as",
    "de": "der die das und ist sind mit kein keine keinen im den dem des nicht ein eine von zu auf beidseits nach",
    "fr": "le la les des et est sont avec une dans pas du au aux sur sans il ni ce cette par",
    "es": "el los las y es con una del se sin hay que por su al ambos en son está lo",
    "it": "il gli di e è sono con una del della dei delle nel non si alla che ed nella sul",
    "pt": "o os as e é são com uma do da dos das no na não se em ao sem há",
    "nl": "de het een en zijn met van geen niet in op er aan te bij naar wordt dat ook links",
    "tr": "ve bir bu ile için olarak olan izlenmektedir izlendi izlenmedi saptanmadı her iki mevcuttur görülmektedir "
    "normal düzeyde içinde sağ sol",
}
_STOP_WORDS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_SCRIPTS = {
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "CJK": "zh",
    "CYRILLIC": "Cyrl",
    "ARABIC": "Arab",
    "GREEK": "Grek",
    "HEBREW": "Hebr",
    "THAI": "Thai",
    "DEVANAGARI": "Deva",
}
LANGUAGES: tuple[str, ...] = (*_STOP_WORDS, *dict.fromkeys(_SCRIPTS.values()))
"""What :func:`detect_language` tells apart: codes of languages (ISO 639) or of scripts (ISO 15924)."""

_MIN_WORDS = 3
# "normal" three times is Turkish, German or English in telegram style
_MIN_DIFFERENT_WORDS = 2
# Chinese and Japanese have no spaces between words: each character counts as one
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
# a report in Chinese may hold more Latin letters, in names and units, than characters of its own
_SCRIPT_SHARE = 0.25


def detect_language(text: str) -> str | None:
    """Return one of :data:`LANGUAGES`, or None where the text doesn't say.

    Example::

        >>> detect_language("There is no pleural effusion and the heart is normal.")
        'en'
        >>> detect_language("Yes.") is None
        True
    """
    if not text.isascii():
        letters = [unicodedata.name(letter, "").split(" ")[0].split("-")[0] for letter in text if letter.isalpha()]
        scripts = Counter(_SCRIPTS[script] for script in letters if script in _SCRIPTS)
        if sum(scripts.values()) > _SCRIPT_SHARE * len(letters):
            # Japanese and Korean texts use Chinese characters too
            return next((script for script in ("ja", "ko") if scripts[script]), scripts.most_common(1)[0][0])
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    hits = {language: sum(words[word] for word in stops) for language, stops in _STOP_WORDS.items()}
    first, second = sorted(hits, key=lambda language: -hits[language])[:2]
    if hits[first] < _MIN_WORDS or len(words.keys() & _STOP_WORDS[first]) < _MIN_DIFFERENT_WORDS:
        return None
    return first if hits[first] > hits[second] else None


def count_words(text: str) -> int:
    """Count what spaces separate; in Chinese and Japanese, the characters."""
    return len(_WORD.findall(text))
