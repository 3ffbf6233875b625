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

"""AMOS-MM 2024 (https://era-ai-biomed.github.io/amos): abdominal CT with reports by region and multiple-choice
questions, from the folder as downloaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_u2.data.cases import (
    IMAGE_WITHOUT_REPORT,
    NO_IMAGE,
    NO_REPORT,
    REPORT_QUESTION,
    DatasetCase,
    DroppedCase,
    Note,
    is_missing,
)
from monai_u2.data.tables import find_path, list_files, read_json
from monai_u2.exceptions import InputError

TASKS = ("report", "vqa", "both")
REGIONS = ("chest", "abdomen", "pelvis")
MERGED_FILE = "dataset.json"
REPORT_FILE = "report_generation_train_val.json"
VQA_FILE = "vqa_train_val.json"
# split -> its name in the JSON files, and its folder
_SPLITS = {"validation": ("validation", "imagesVa"), "train": ("training", "imagesTr")}


def read_cases(
    source: str | Path,
    *,
    task: str = "report",
    regions: Sequence[str] = REGIONS,
    by_region: bool = False,
    impression: bool = True,
    question: str = REPORT_QUESTION,
) -> Iterator[DatasetCase | DroppedCase | Note]:
    """Read AMOS-MM. Of a 4-D file the first volume is meant; the records say so (`volume_index`).

    Args:
        source: the downloaded folder.
        task: "report", "vqa" (multiple-choice questions), or "both".
        regions: regions of the findings; a region without text is absent from the volume and from the report.
        by_region: beside the report one question about each region.
        impression: whether the answer has the impression after the findings.
        question: asks for the report.

    Raises:
        InputError: for an unknown task or region, missing files, and files of another structure.
    """
    root = Path(source)
    regions = [name.strip() for name in regions.split(",")] if isinstance(regions, str) else list(regions)
    if task not in TASKS:
        raise InputError(f"task is {task!r}; expected one of {', '.join(TASKS)}")
    unknown = [region for region in regions if region not in REGIONS]
    if unknown or not regions:
        raise InputError(f"regions are {regions}; expected some of {', '.join(REGIONS)}")
    parts = {"report": ("report",), "vqa": ("qa",), "both": ("report", "qa")}[task]
    names = {"report": REPORT_FILE, "qa": VQA_FILE}
    merged = root / MERGED_FILE
    paths = [merged] if merged.is_file() else [find_path(root, [names[part]], names[part]) for part in parts]
    contents = {path: read_json(path) for path in paths}
    for split, (key, folder) in _SPLITS.items():
        files = list_files(root / folder, ".nii.gz") if (root / folder).is_dir() else {}
        volumes: dict[str, dict[str, Any]] = {}
        for path, content in contents.items():
            for name, labels in _volumes(path, content, key):
                known = volumes.setdefault(name, {})
                if known.keys() & labels.keys():
                    yield DroppedCase(split, name, _patient(name), "given twice")
                    continue
                known.update(labels)
        for name, labels in volumes.items():
            image = files.pop(name, None)
            if image is None:
                yield DroppedCase(split, name, _patient(name), NO_IMAGE)
                continue
            records: list[dict[str, Any]] = []
            if "report" in parts:
                records += _report_records(name, labels.get("report"), regions, by_region, impression, question)
            if "qa" in parts:
                asked, unusable = _choice_records(name, labels.get("qa"))
                records += asked
                for reason in unusable:
                    yield DroppedCase(split, name, _patient(name), reason)
            if not records:
                yield DroppedCase(split, name, _patient(name), NO_REPORT)
                continue
            shared = {"image": image, "volume_index": 0}
            yield DatasetCase(split, name, _patient(name), [shared | record for record in records])
        for name in files:
            yield DroppedCase(split, name, _patient(name), IMAGE_WITHOUT_REPORT)


def _patient(name: str) -> str:
    return name.removesuffix(".nii.gz")


def _volumes(path: Path, content: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield file name and labels of each volume of a split."""
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: has no list {key!r} (found: {found}); expected training and validation")
    for number, entry in enumerate(content[key]):
        fits = isinstance(entry, dict) and isinstance(entry.get("image"), str) and isinstance(entry.get("labels"), dict)
        if not fits:
            found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
            raise InputError(f"{path}, {key}[{number}]: has {found}; expected image (a path) and labels (an object)")
        yield entry["image"].rsplit("/", 1)[-1], entry["labels"]


def _report_records(
    name: str, report: Any, regions: Sequence[str], by_region: bool, impression: bool, question: str
) -> list[dict[str, Any]]:
    """Return the records of a report; none where no region has a text."""
    if report is None:
        return []
    if not isinstance(report, dict) or not isinstance(report.get("findings"), dict):
        raise InputError(f"{name}: its report has no findings by region; expected findings with {', '.join(REGIONS)}")
    findings = report["findings"]
    while isinstance(findings.get("findings"), dict):
        findings = findings["findings"]
    texts = {region: _text(name, region, findings.get(region)) for region in regions}
    texts = {region: text for region, text in texts.items() if text}
    if not texts:
        return []
    lines = ["FINDINGS:", *(f"{region.capitalize()}: {text}" for region, text in texts.items())]
    conclusion = _text(name, "impression", report.get("impression")) if impression else ""
    lines += ["IMPRESSION:", conclusion] if conclusion else []
    records = [{"question": question, "answer": "\n".join(lines), "kind": "report"}]
    if by_region:
        records += [
            {"question": f"What is seen in the {region}?", "answer": text, "kind": "region"}
            for region, text in texts.items()
        ]
    return records


def _text(name: str, region: str, value: Any) -> str:
    """Return a text of the report, which may lie one object deeper; "" where it is empty or missing."""
    if isinstance(value, dict):
        value = value.get("findings", value.get(region))
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name}: {region!r} of its report is a {type(value).__name__}; expected a text")
    return "" if value is None or is_missing(value) else value.strip()


def _choice_records(name: str, entries: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records of multiple-choice questions, and why others can't be used."""
    if entries is None:
        return [], []
    if not isinstance(entries, list):
        raise InputError(f"{name}: its labels.qa is a {type(entries).__name__}; expected a list of questions")
    records: list[dict[str, Any]] = []
    unusable: list[str] = []
    asked: set[str] = set()
    for entry in entries:
        options = entry.get("options") if isinstance(entry, dict) else None
        text, letter = (entry.get(key) for key in ("question", "answer")) if isinstance(entry, dict) else (None, None)
        if not isinstance(options, dict) or not isinstance(text, str) or not text.strip() or letter not in options:
            unusable.append("a question without text, options or an answer among them")
            continue
        choices = "\n".join(f"{option}. {choice}" for option, choice in options.items())
        record = {"question": f"{text.strip()}\n{choices}", "answer": f"{letter}. {options[letter]}"}
        if record["question"] in asked:
            unusable.append("a question given twice")
            continue
        asked.add(record["question"])
        kind = {"question_type": entry["type"]} if isinstance(entry.get("type"), str) else {}
        records.append({**record, "kind": "multiple_choice", **kind})
    return records, unusable
