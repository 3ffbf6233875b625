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

"""Checking records before a training: their lines, their texts, and the images they name."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_u2.data.cases import is_missing
from monai_u2.data.check_images import check_image
from monai_u2.data.image_processes import map_in_processes
from monai_u2.data.language import LANGUAGES, count_words, detect_language
from monai_u2.data.records import HEADER_KEYS, PATH_KEYS, iterate_records, question_kind
from monai_u2.data.shards import parse_shard
from monai_u2.exceptions import InputError

FINDINGS: dict[str, str] = {
    "broken_line": "a line that is no record",
    "empty_answer": "a record without an answer, or with an empty one",
    "placeholder_answer": "an answer such as 'Not given.' in place of a text",
    "short_answer": "a report of too few words",
    "long_answer": "an answer of too many words",
    "other_language": "an answer in another language",
    "repeated_record": "the same image, question and answer again",
    "repeated_answer": "the same report for many images",
    "disagreeing_records": "records of one image that contradict each other",
    "missing_file": "a file that isn't there",
    "unreadable": "an image that can't be read",
    "constant": "an image of one value",
    "geometry": "voxel size, extent or axes that no CT has",
    "header": "a header that leaves orientation or slices in doubt",
    "hu_offset": "values about 1000 too high: the intercept was not applied",
    "hu_rescaled_twice": "values about 1000 too low: the rescale was applied twice",
    "hu_windowed": "8-bit or scaled values in place of HU",
    "hu_cut": "values cut to a window",
    "hu_implausible": "values that are not those of a CT",
    "repeated_image": "the same image under several names",
}
"""Names of findings and what they mean."""

_SAME_IN_AN_IMAGE = ("case", "patient", "findings", "lesion_mask", "truth", *HEADER_KEYS)
# a report that more than this share of the images has is a template, or was copied
_REPEATED_SHARE = 0.02
_REPEATED_AT_LEAST = 3


def check_records(
    path: str | Path,
    *,
    workers: int = 1,
    shard: str | None = None,
    language: str | None = "en",
    min_words: int = 5,
    max_words: int = 1000,
    progress: bool = False,
) -> dict[str, Any]:
    """Check every record of a file and read every image once.

    What is found is listed in the result, never raised. Texts are compared over the whole file also where a shard of
    the images is read, so that :func:`join_checks` of all shards gives what one check of everything gives.

    Args:
        path: a JSON Lines file of records.
        workers: processes that read images; 0 or 1 for this process alone.
        shard: the share of the images to read, such as "3/16", with the findings of their records.
        language: what the answers are expected to be in, one of :data:`~monai_u2.data.language.LANGUAGES`; None for
            any.
        min_words: fewest words of a report.
        max_words: most words of an answer.
        progress: show a progress bar.

    Returns:
        JSON values: ``records_sha256``, ``shard``, ``settings``, ``num_records``, ``num_images``; ``counts`` (name of a
        finding -> number); ``findings``, dicts of ``finding`` (see :data:`FINDINGS`), ``lines``, ``image`` (as written
        in the records, None for a broken line) and ``detail``; ``images``, what was measured of each readable one (see
        :func:`~monai_u2.data.check_images.check_image`) with its ``image`` and first ``line``. No text of a report is
        in it.

    Raises:
        InputError: for a file that is missing, empty or no text, a shard that is none, an unknown language, or numbers
            of words that exclude everything.
    """
    if language is not None and language not in LANGUAGES:
        raise InputError(f"language is {language!r}; expected one of {', '.join(LANGUAGES)}.")
    if not 0 <= min_words <= max_words:
        raise InputError(f"min_words is {min_words} and max_words {max_words}; expected 0 <= min_words <= max_words.")
    index, count = parse_shard(shard)
    path = Path(path)
    groups: dict[str, list[_Line]] = defaultdict(list)
    broken = []
    for line in iterate_records(path):
        if line.record is None:
            broken.append(_broken(line.number, line.written, str(line.error)))
        else:
            groups[line.record["image"]].append(_Line(line.number, line.written["image"], line.record))
    mine = list(groups)[index - 1 :: count]
    findings = broken if index == 1 else []  # broken lines belong to no image: the first shard lists them
    num_broken = len(findings)
    for image in mine:
        findings += _check_texts(groups[image], language, min_words, max_words)
        findings += _check_agreement(groups[image]) + _check_files(groups[image])
    of_shard = set(mine)
    findings += [finding for image, finding in _repeated_answers(groups) if image in of_shard]
    images = _read_images([groups[image] for image in mine], workers, progress)
    findings += [finding for entry in images for finding in entry.pop("findings")]
    return _result(
        {
            "records_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "shard": shard,
            "settings": {"language": language, "min_words": min_words, "max_words": max_words},
            "num_records": num_broken + sum(len(groups[image]) for image in mine),
            "num_images": len(mine),
        },
        findings,
        [entry for entry in images if "series" in entry],
    )


def join_checks(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join what :func:`check_records` found in all shards of one file.

    Returns:
        what it would have found without shards.

    Raises:
        InputError: when the checks are of different files or settings, or a shard is missing or there twice.
    """
    if not checks:
        raise InputError("no checks to join; expected those of all shards.")
    for key, what in (("records_sha256", "records files"), ("settings", "settings")):
        if any(check[key] != checks[0][key] for check in checks):
            raise InputError(f"the checks are of different {what}; expected shards of one. Run them again.")
    shards = sorted(parse_shard(check["shard"]) for check in checks)
    count = shards[0][1]
    if shards != [(index, count) for index in range(1, count + 1)]:
        given = ", ".join(f"{index}/{of}" for index, of in shards)
        raise InputError(f"the checks are of the shards {given}; expected each share of one division once.")
    return _result(
        {
            **{key: checks[0][key] for key in ("records_sha256", "settings")},
            "shard": None,
            **{key: sum(check[key] for check in checks) for key in ("num_records", "num_images")},
        },
        [finding for check in checks for finding in check["findings"] if finding["finding"] != "repeated_image"],
        [image for check in checks for image in check["images"]],
    )


def format_check(check: Mapping[str, Any], allowed: Iterable[str] = ()) -> str:
    """Write a check as a table: one line a kind of finding, with the first place where it is."""
    counts, allowed = check["counts"], set(allowed)
    lines = [f"{check['num_records']} records, {check['num_images']} images"]
    lines[0] += f", shard {check['shard']}" if check["shard"] else ""
    if not counts:
        return f"{lines[0]}: all is well"
    lines.append(f"{'finding':<20}{'number':>7}  {'first':<11} what it is")
    for name, number in counts.items():
        first = next(finding for finding in check["findings"] if finding["finding"] == name)
        note = " (allowed)" if name in allowed else ""
        lines.append(f"{name:<20}{number:>7}  {'line ' + str(first['lines'][0]):<11} {FINDINGS[name]}{note}")
    return "\n".join(lines)


class _Line:
    """A record that is as it should be, with the number of its line and its image as written."""

    def __init__(self, number: int, image: str, record: dict[str, Any]) -> None:
        self.number, self.image, self.record = number, image, record

    def finding(self, name: str, detail: str, lines: Sequence[int] = ()) -> dict[str, Any]:
        return {"finding": name, "lines": list(lines) or [self.number], "image": self.image, "detail": detail}


def _broken(number: int, written: Any, error: str) -> dict[str, Any]:
    empty = isinstance(written, dict) and isinstance(written.get("image"), str)
    empty = empty and (written.get("answer") is None or str(written["answer"]).strip() == "")
    # the message begins with the file's place on this machine
    detail = "no answer" if empty else error.split(f", line {number}: ", 1)[-1]
    return {
        "finding": "empty_answer" if empty else "broken_line",
        "lines": [number],
        "image": written["image"] if empty else None,
        "detail": detail,
    }


def _check_texts(
    lines: Sequence[_Line], language: str | None, min_words: int, max_words: int
) -> Iterable[dict[str, Any]]:
    seen: dict[tuple[str, str], int] = {}
    for line in lines:
        answer, report = line.record["answer"], question_kind(line.record) == "report"
        words = count_words(answer)
        if is_missing(answer):
            yield line.finding("placeholder_answer", "the answer stands for a missing one")
        elif report and words < min_words:
            yield line.finding("short_answer", f"{words} words; expected at least {min_words} in a report")
        if words > max_words:
            yield line.finding("long_answer", f"{words} words; expected at most {max_words}")
        found = detect_language(answer) if language else None
        if found not in (None, language):
            yield line.finding("other_language", f"the answer seems to be in {found}; expected {language}")
        first = seen.setdefault((line.record["question"], answer), line.number)
        if first != line.number:
            yield line.finding("repeated_record", f"the same as line {first}", [first, line.number])


def _check_agreement(lines: Sequence[_Line]) -> list[dict[str, Any]]:
    """Find keys that describe the image and differ between its records; a record without the key contradicts none."""
    findings = []
    for key in _SAME_IN_AN_IMAGE:
        having = [line for line in lines if key in line.record]
        other = next((line for line in having if line.record[key] != having[0].record[key]), None)
        if other is not None:
            places = [having[0].number, other.number]
            findings.append(other.finding("disagreeing_records", f"{key!r} is not the same in all records", places))
    return findings


def _check_files(lines: Sequence[_Line]) -> list[dict[str, Any]]:
    findings = []
    for key in PATH_KEYS:
        having = [line for line in lines if key in line.record]
        for value in dict.fromkeys(line.record[key] for line in having):
            if not os.path.exists(value):
                places = [line.number for line in having if line.record[key] == value]
                findings.append(having[0].finding("missing_file", f"{key!r}: no such file", places))
    return findings


def _repeated_answers(groups: Mapping[str, Sequence[_Line]]) -> list[tuple[str, dict[str, Any]]]:
    """Find reports that many images have, each with the first image that has it.

    Images of one patient may share a report, and those that are said to be normal all may.
    """
    having: dict[str, list[tuple[str, _Line]]] = defaultdict(list)
    for image, lines in groups.items():
        for line in lines:
            if question_kind(line.record) == "report" and line.record.get("findings") != []:
                having[line.record["answer"].strip()].append((image, line))
    most = max(_REPEATED_AT_LEAST - 1, _REPEATED_SHARE * len(groups))
    findings = []
    for places in having.values():
        told = ((image, line.record.get("patient")) for image, line in places)
        patients = {str(image if patient in (None, "") else patient) for image, patient in told}
        if len(patients) > most:
            image, first = places[0]
            numbers = [line.number for _, line in places]
            detail = f"{len({image for image, _ in places})} of {len(groups)} images have the same report"
            findings.append((image, first.finding("repeated_answer", detail, numbers)))
    return findings


def _read_images(groups: Sequence[Sequence[_Line]], workers: int, progress: bool) -> list[dict[str, Any]]:
    """Read the images of groups of records; missing ones are passed over, they are found without."""
    from tqdm import tqdm

    there = [lines for lines in groups if os.path.exists(lines[0].record["image"])]
    tasks = [(lines[0].record["image"], _corrections(lines)) for lines in there]
    entries: list[dict[str, Any]] = [{}] * len(there)
    with tqdm(total=len(tasks), desc="check", unit="image", disable=not progress) as bar:
        for index, measured in map_in_processes(check_image, tasks, workers):
            first, numbers = there[index][0], [line.number for line in there[index]]
            found = [first.finding(name, detail, numbers) for name, detail in measured.pop("findings")]
            entries[index] = {"image": first.image, "line": first.number, **measured, "findings": found}
            bar.update()
    return entries


def _corrections(lines: Sequence[_Line]) -> dict[str, Any]:
    """Return the first value of each key that corrects the header."""
    return {key: line.record[key] for line in reversed(lines) for key in HEADER_KEYS if key in line.record}


def _repeated_images(images: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    same = defaultdict(list)
    for image in images:
        same[image["series"]].append(image)
    for first, *others in same.values():
        if others:
            names = ", ".join(other["image"] for other in others)
            lines = [first["line"], *(other["line"] for other in others)]
            detail = f"the same content as {names}"
            yield {"finding": "repeated_image", "lines": lines, "image": first["image"], "detail": detail}


def _result(
    head: Mapping[str, Any], findings: Iterable[dict[str, Any]], images: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Put a check's parts together, in the order of the file whatever the order in which they were found."""
    images = sorted(images, key=lambda image: image["line"])
    findings = [*findings, *_repeated_images(images)]
    order = list(FINDINGS)
    findings.sort(key=lambda finding: (finding["lines"][0], order.index(finding["finding"]), json.dumps(finding)))
    numbers = Counter(finding["finding"] for finding in findings)
    counts = {name: numbers[name] for name in order if name in numbers}
    return {**head, "counts": counts, "findings": findings, "images": images}
