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

"""M3D-Cap (https://arxiv.org/abs/2404.00578): radiological pictures of CT with texts, from the folder as downloaded.

The volumes are pictures of a display window, without HU and voxel size: train on them with
``configs/data/m3d_cap.json``, and not together with CT in HU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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
from monai_u2.data.tables import find_path, read_json
from monai_u2.exceptions import InputError

FORMATS = ("auto", "pictures", "npy")
PLANES = ("axial", "all")
INDEX = "M3D_Cap.json"
_FOLDERS = {"pictures": "M3D_Cap", "npy": "M3D_Cap_npy"}
_ENDINGS = {"pictures": "", "npy": ".npy"}
_OTHER_PLANES = ("coronal", "sagittal")


def read_cases(
    source: str | Path,
    *,
    format: str = "auto",
    planes: str = "axial",
    question: str = REPORT_QUESTION,
) -> Iterator[DatasetCase | DroppedCase | Note]:
    """Read M3D-Cap: a folder of 8-bit pictures, one a slice, or a prepared `.npy`, for each series.

    Args:
        source: the downloaded folder, or the folder with the index in it.
        format: "pictures", "npy", or "auto" for pictures where there are some.
        planes: "axial" leaves out series whose names say coronal or sagittal; "all" keeps them.
        question: asks for the report.

    Raises:
        InputError: for unknown options, a missing index, and an index of another structure.
    """
    root = Path(source)
    if format not in FORMATS:
        raise InputError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    if planes not in PLANES:
        raise InputError(f"planes is {planes!r}; expected one of {', '.join(PLANES)}")
    candidates = [INDEX, *(f"{folder}/{INDEX}" for folder in _FOLDERS.values())]
    path = find_path(root, candidates, "index")
    content = read_json(path)
    if not isinstance(content, dict) or "train" not in content:
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: has no list 'train' (found: {found}); expected train, validation and test")
    tests = [name for name in content if name.startswith("test")]
    roots = _roots(root, path)
    if format == "auto":
        format = _format(roots, _entries(path, content, ["train", "validation", *tests]))
        yield Note(f"format: {format}")
    places = roots[format]
    known: set[str] = set()
    for split, names in (("test", tests), ("validation", ["validation"]), ("train", ["train"])):
        for entry in _entries(path, content, names):
            image, text = (_relative(entry[key]) for key in ("image", "text"))
            image = image.removesuffix(".npy")
            patient = image.split("/")[1] if image.startswith("ct_case/") and image.count("/") > 1 else image
            reason = None
            found = _found(places, image + _ENDINGS[format])
            if image in known:
                reason = "given twice"
            elif planes == "axial" and any(plane in image.rsplit("/", 1)[-1].lower() for plane in _OTHER_PLANES):
                reason = "not axial"
            elif found is None:
                reason = NO_IMAGE
            known.add(image)
            answer = _report(places, entry["text"], text) if reason is None else ""
            if reason is not None or is_missing(answer):
                yield DroppedCase(split, image, patient, reason or NO_REPORT)
                continue
            record = {"image": str(found), "question": question, "answer": answer, "kind": "report"}
            yield DatasetCase(split, image, patient, [record])
    for image in _present(places, format):
        if image not in known:
            yield DroppedCase("train", image, image.split("/")[1], IMAGE_WITHOUT_REPORT)


def _roots(root: Path, index: Path) -> dict[str, list[Path]]:
    """Return for each format the folders that `ct_case` may lie in."""
    parents = [root, index.parent, index.parent.parent]
    return {
        name: list(dict.fromkeys(path for parent in parents for path in (parent / folder, parent) if path.is_dir()))
        for name, folder in _FOLDERS.items()
    }


def _format(roots: dict[str, list[Path]], entries: Iterator[dict[str, str]]) -> str:
    """Return the format of the first series that is there."""
    for entry in entries:
        image = _relative(entry["image"]).removesuffix(".npy")
        for name in _FOLDERS:
            if _found(roots[name], image + _ENDINGS[name]) is not None:
                return name
    return "pictures"


def _entries(path: Path, content: dict[str, Any], names: list[str]) -> Iterator[dict[str, str]]:
    for name in names:
        entries = content.get(name, [])
        if not isinstance(entries, list):
            raise InputError(f"{path}: {name!r} is a {type(entries).__name__}; expected a list")
        for number, entry in enumerate(entries):
            fits = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("image", "text"))
            if not fits:
                found = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
                raise InputError(f"{path}, {name}[{number}]: has {found}; expected image and text, two strings")
            yield entry


def _relative(path: str) -> str:
    """Return a path of the index without the data set's folder."""
    parts = path.replace("\\", "/").split("/")
    return "/".join(parts[parts.index("ct_case") :]) if "ct_case" in parts else path


def _found(places: list[Path], relative: str) -> Path | None:
    return next(((place / relative).absolute() for place in places if (place / relative).exists()), None)


def _report(places: list[Path], given: str, relative: str) -> str:
    """Return the text, which the index gives as it is or as the path of a file; "" where that is missing or empty."""
    if not relative.endswith(".txt") or "\n" in given:
        return given.strip()
    path = _found(places, relative)
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error


def _present(places: list[Path], format: str) -> Iterator[str]:
    """Yield the series that are there, `ct_case/<id>/<series>`; their slices aren't looked at."""
    for place in places:
        if not (place / "ct_case").is_dir():
            continue
        for case in sorted(os.scandir(place / "ct_case"), key=lambda entry: entry.name):
            if not case.is_dir():
                continue
            for series in sorted(os.scandir(case.path), key=lambda entry: entry.name):
                if series.is_dir() if format == "pictures" else series.name.endswith(".npy"):
                    yield f"ct_case/{case.name}/{series.name.removesuffix('.npy')}"
