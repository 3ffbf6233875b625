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

"""What a text says, by its words alone: content words, numbers, sides, comparisons.

Rules for English and Chinese; in other languages only numbers and words are compared.
"""

from __future__ import annotations

import re
from functools import lru_cache


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# words that carry nothing of what a report says
_EMPTY = _word_set(
    """
    no not without neither nor never absent absence negative excluded denies none free lack ruled
    a about above after again all also although an and any are as at be because been before being below between
    both but by can cannot could did do does due during each else few for from further had has have having he
    her here him his how however i if in into is it its just let like likely may me might more most must my
    now of on one only or other our out over own same she should so some such than that the their them
    then there these they this those through to too under until up us very was we were what when where whether
    which while who whom why will with within without would yes you your answer answers asked asking asks
    careful carefully case clearly conclude conclusion consider considered considering correct describe
    described describes evidence examination exclude finding findings first follows following given gives
    identified image images impression indicate indicates information line lines look looking mention mentioned
    mentions note noted observed overall patient present question questions read reading reason reasoning refers
    report reported reports right-hand say says scan second see seen show showing shown shows state stated
    states statement step suggest suggests supports tells therefore think third thus together
    against argues cm compatible consistent contain contains hold holds include includes lie lies located
    measure measures measuring mm raise raises represent represents visible ct
    """
)
_ENDINGS = """
ifications ification ifying ified ifies ations ation ated ating ings ing ies ied ments ment ally ical ities ity ous eds
ed es al ic ly s e y
"""
_SUFFIXES = tuple(_ENDINGS.split())
_WORD = re.compile(r"[^\W\d_][^\W_]*(?:-[^\W_]+)*")
_POSSESSIVE = re.compile(r"['’]s\b")
CJK = re.compile(r"[\u3400-\u9fff]+")
_LENGTH = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)((?:\s*[x×*]\s*\d+(?:\.\d+)?){0,2})\s*(mm|cm|毫米|厘米)(?!\w)")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)")
_LEFT = re.compile(r"\bleft(?:-sided)?\b|左", re.IGNORECASE)
_RIGHT = re.compile(r"\bright(?:-sided)?\b(?! answer)|右", re.IGNORECASE)
_BOTH = re.compile(
    r"\b(?:bilateral(?:ly)?|both (?:sides|lungs|kidneys|lobes|pleura\w*|hil\w+|adrenal\w*))\b|双侧|两侧|双肺",
    re.IGNORECASE,
)

_COMPARISONS = {
    "en": re.compile(
        r"\b(?:improv(?:ed|ement|ing)|unchanged|worsen(?:ed|ing)|progress(?:ed|ion|ing)|regress(?:ed|ion)|resolved|"
        r"resolution of|previous(?:ly)?|prior|compar(?:ed|ison)|interval|no longer|new since|since the|"
        r"stable|increased (?:since|from|in size)|decreased (?:since|from|in size)|"
        r"(?:has|have) (?:grown|increased|decreased|shrunk|enlarged)|as before)\b",
        re.IGNORECASE,
    ),
    "zh": re.compile(r"较前|与前|对比|前片|复查|好转|进展|未见变化|无变化|稳定"),
}


def finding_words(text: str) -> frozenset[str]:
    """Return the stems of the content words that name no place: what can be stated or denied."""
    return content_words(text) - _PLACES


@lru_cache(maxsize=4096)  # the lines of a report are compared with many statements
def content_words(text: str) -> frozenset[str]:
    """Return the stems of a text's content words; Chinese by pairs of characters."""
    words = {_stem(word) for word in _words(text) if word not in _EMPTY}
    for run in CJK.findall(text):
        words |= {run[i : i + 2] for i in range(max(1, len(run) - 1))}
    return frozenset(words)


def numbers(text: str, *, lengths_only: bool = False) -> set[str]:
    """Return the numbers of a text, lengths in mm: "2 cm" and "20 mm" are the same."""
    found = set()
    for first, more, unit in _LENGTH.findall(text.lower()):
        factor = 10 if unit in ("cm", "厘米") else 1
        found |= {f"{round(float(value) * factor, 3):g} mm" for value in [first, *re.findall(r"\d+(?:\.\d+)?", more)]}
    if lengths_only:
        return found
    return found | {f"{float(value):g}" for value in _NUMBER.findall(_LENGTH.sub(" ", text.lower()))}


def sides(text: str) -> set[str]:
    """Return "left", "right", or both of them."""
    if _BOTH.search(text):
        return {"left", "right"}
    return {name for name, pattern in (("left", _LEFT), ("right", _RIGHT)) if pattern.search(text)}


def comparison(text: str, language: str) -> str | None:
    """Return the first words that compare with an earlier examination, None where there are none."""
    pattern = _COMPARISONS.get(language)
    found = pattern.search(text) if pattern else None
    return found[0] if found else None


def knows_comparisons(language: str) -> bool:
    """Whether comparisons are found in a language."""
    return language in _COMPARISONS


def stems(words: str) -> frozenset[str]:
    """Return the stems of words between spaces."""
    return frozenset(map(_stem, words.split()))


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(_POSSESSIVE.sub("", CJK.sub(" ", text)))]


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 4:
            return word[: -len(suffix)]
    return word


ORGANS = stems(
    """
    abdomen abdominal adrenal airway airways aorta aortic arteries artery atrial bile bladder bone bones bony bowel
    bronchi bronchial bronchus cardiac chest colon coronary costal diaphragm duct ducts esophagus esophageal
    gallbladder gland glands heart hepatic hila hilar hilum kidney kidneys lingula liver lung lungs mediastinal
    mediastinum neck node nodes pancreas pancreatic parenchyma pelvic pelvis pericardial pericardium peritoneal
    peritoneum pleura pleural pulmonary renal rib ribs sacral skeletal spine spleen splenic sternum stomach thoracic
    thorax thyroid trachea tracheal ureter ureters urinary uterus vascular vein veins ventricle vertebra vertebrae
    vertebral vessel vessels
    """
)
# organs, regions and directions; "no lesion in the bones" and "no bone lesion" are the same
_PLACES = ORGANS | stems(
    """
    anterior apex apical basal base distal inferior lateral left lobe lobes lower lumbar main medial middle posterior
    proximal region right segment segmental segments side soft structure structures superior tissue tissues upper wall
    zone
    """
)
