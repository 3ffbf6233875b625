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

"""Names of languages, and whether a text is in the one that is asked for."""

from __future__ import annotations

from monai_u2.data.language import detect_language

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

_WRITTEN = {"ar": "Arab", "ru": "Cyrl"}  # told by their script alone


def is_other_language(text: str, language: str) -> bool:
    """Whether a text is in another language than asked for. Texts too short to tell, and languages that aren't in
    :data:`LANGUAGE_NAMES`, pass."""
    found = detect_language(text)
    return language in LANGUAGE_NAMES and found is not None and found != _WRITTEN.get(language, language)


def language_name(language: str) -> str:
    """Return a language's name as a prompt calls it."""
    return LANGUAGE_NAMES.get(language, language)
