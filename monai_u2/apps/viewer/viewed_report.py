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


"""A report's folder, read for the viewer: its text, its sentences, and what there is to say of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import nibabel as nib

from monai_u2.data.report_text import report_text
from monai_u2.evidence.files import EVIDENCE_FILES
from monai_u2.evidence.sentences import report_sentences
from monai_u2.exceptions import InputError

SENTENCE_MAPS = EVIDENCE_FILES[2]
FLAG_WORDS = {
    "diffuse": "evidence spread over the whole body",
    "other side": "evidence lies on the other side than the one named",
    "other height": "evidence lies at another height than the one named",
    "against the image": "the image speaks against it",
}
_AGAIN = "Run monai-u2 report again with --evidence."
# what the page takes from report.json: a type, an object by its keys (those with ? may be missing), a list of entries
# of one kind or so many of them, (kind,) for a kind or null
_PLACE = {
    "peak_lps_mm": [float, float, float],
    "peak_voxel": [int, int, int],
    "slices": {"axis": int, "first": int, "last": int},
    "concentration": float,
    "confidence": float,
}
_SENTENCE = {
    "text": str,
    "start": int,
    "end": int,
    "section": (str,),
    "place": (_PLACE,),
    "flags": [str],
    "rests_on_image": bool,
}
_REPORT = {
    "report": str,
    "question": str,
    "warnings": [str],
    "model": {"name": str, "version": str},
    "geometry?": {"series?": str, "shape?": [int, int, int]},  # a MONAI Label server's reports have none
    "sentences?": [_SENTENCE],
}
_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class ViewedReport:
    """What the viewer shows of a report.

    Attributes:
        content: ``report.json``.
        segments: the report's text in pieces, each with the index of its sentence, None between sentences.
        sentences: those of ``report.json``, with ``marks``: what is to be said of each in words.
        notices: what is to be known of the files, such as missing evidence.
        maps: the file with a map for each sentence, None where there is none that fits.
    """

    content: dict[str, Any]
    segments: list[tuple[str, int | None]]
    sentences: list[dict[str, Any]]
    notices: list[str]
    maps: Path | None

    @classmethod
    def read(cls, folder: Path) -> ViewedReport:
        """Read the folder that ``monai-u2 report`` wrote.

        Raises:
            InputError: without a ``report.json``, or where a field of it isn't what ``monai-u2 report`` writes.
        """
        content = _content(folder / "report.json")
        report, sentences = content["report"], content.get("sentences")
        notices = _differing_text(folder / "report.txt", content)
        if sentences is None:
            notices.append(f"This report has no evidence: its sentences have no places. {_AGAIN}")
            return cls(content, [(report, None)], [], notices, None)
        segments, changed = _segments(report, sentences)
        if changed:
            lost = set(range(len(sentences))) - {index for _, index in segments}
            texts = " ".join(sentences[index]["text"] for index in sorted(lost))
            gone = f" No longer where it stood: {texts}" if lost else ""
            notices.append(
                f"The report was changed after its evidence was made: what is changed has no evidence.{gone} {_AGAIN}"
            )
        maps: Path | None = folder / SENTENCE_MAPS
        problem = _problem(folder / SENTENCE_MAPS, len(sentences))
        if problem is not None and sentences:
            notices.append(f"{SENTENCE_MAPS} {problem}: places are shown without their maps. {_AGAIN}")
        if problem is not None or not sentences:
            maps = None
        return cls(content, segments, [{**one, "marks": _marks(one)} for one in sentences], notices, maps)


def _content(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected the output folder of monai-u2 report. Check the folder.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: is no JSON ({error}); expected what monai-u2 report writes. {_AGAIN}") from error
    if (problem := _mismatch(content, _REPORT)) is not None:
        raise InputError(f"{file}: {problem}; expected what monai-u2 report writes. {_AGAIN}")
    return content


def _mismatch(value: Any, kind: Any, name: str = "") -> str | None:
    """The first field that isn't of its kind, in words."""
    if isinstance(kind, tuple):
        return None if value is None else _mismatch(value, kind[0], name)
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return f"{name or 'it'} is no object"
        if lacking := [key for key in kind if not key.endswith("?") and key not in value]:
            return f"{name or 'it'} lacks {', '.join(lacking)}"
        kinds = {key.removesuffix("?"): entry for key, entry in kind.items()}
        parts = [(value[key], kinds[key], f"{name}.{key}".lstrip(".")) for key in kinds if key in value]
    elif isinstance(kind, list):
        if not isinstance(value, list) or len(value) != len(kind) > 1:
            return f"{name} is no list" + (f" of {len(kind)}" if len(kind) > 1 else "")
        parts = [(entry, kind[0], f"{name}[{index}]") for index, entry in enumerate(value)]
    else:
        is_right = isinstance(value, (int, float) if kind is float else kind)
        return None if is_right and (kind is bool) == isinstance(value, bool) else f"{name} isn't {_KINDS[kind]}"
    return next((problem for part in parts if (problem := _mismatch(*part)) is not None), None)


def _differing_text(file: Path, content: dict[str, Any]) -> list[str]:
    """What is to be said where the text beside ``report.json`` isn't its report's; breaks of lines don't count."""
    if not file.is_file():
        return []
    model = content["model"]
    text = report_text(content["report"], content["question"], content["warnings"], model["name"], model["version"])
    if file.read_text(encoding="utf-8-sig", errors="replace").split() == text.split():
        return []
    return [f"{file.name} says something else than report.json. What is shown here is the report of report.json."]


def _segments(report: str, sentences: Sequence[dict[str, Any]]) -> tuple[list[tuple[str, int | None]], bool]:
    """The report's text in pieces, and whether it isn't the one that the sentences are of."""
    found = report_sentences(report)
    # findings and impression may say the same, each with a place of its own
    now, before = [(one.section, one.text) for one in found], [(one["section"], one["text"]) for one in sentences]
    segments: list[tuple[str, int | None]] = []
    position, changed = 0, len(now) != len(before)
    for new, old, size in SequenceMatcher(None, now, before, autojunk=False).get_matching_blocks():
        for sentence, index in zip(found[new : new + size], range(old, old + size)):
            segments += [(report[position : sentence.start], None), (sentence.text, index)]
            position = sentence.end
            changed |= sentence.start != sentences[index]["start"]
    segments.append((report[position:], None))
    changed |= sum(index is not None for _, index in segments) < len(before)
    return [segment for segment in segments if segment[0]], changed


def _problem(maps: Path, count: int) -> str | None:
    """What keeps the sentences' maps from being shown."""
    if not maps.is_file():
        return "is missing"
    try:
        shape = nib.load(maps).shape
    except (nib.filebasedimages.ImageFileError, OSError, ValueError, EOFError):
        return "can't be read"
    found = shape[3] if len(shape) == 4 else 1
    return None if found == count else f"holds {found} maps for {count} sentences"


def _marks(sentence: dict[str, Any]) -> list[dict[str, str]]:
    marks = [{"kind": "flag", "text": FLAG_WORDS.get(flag, flag)} for flag in sentence["flags"]]
    if not sentence["rests_on_image"]:
        marks.append({"kind": "none", "text": "not from the image"})
    elif sentence["place"] is None:
        marks.append({"kind": "none", "text": "no place in the body"})
    return marks
