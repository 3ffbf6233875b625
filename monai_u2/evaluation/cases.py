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

"""Which cases are evaluated, and what they are called."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_u2.data.records import HEADER_KEYS, group_by_image, load_records, question_kind, without_image_suffix
from monai_u2.exceptions import InputError
from monai_u2.metrics.cases import listed_ids, name_or_default


def evaluation_cases(
    records: str | os.PathLike[str], kinds: Sequence[str] = ("report",), max_cases: int | None = None
) -> list[dict[str, Any]]:
    """Load the records to evaluate on.

    Args:
        records: a JSON Lines file, see :mod:`monai_u2.data.records`.
        kinds: kinds of questions; records of other kinds are left out.
        max_cases: how many of them, from the first on; all without.

    Returns:
        the records in their order, each with `id` (its own, else the image's name without suffix, followed by a hash of
        its path below the images' common folder where two of the file have one name: folders often name patients; the
        second record of an image ends with "#2" and so on), `patient` (its own, else that name), `kind` and
        `reference`, its answer.

    Raises:
        InputError: when there is no record of these kinds, an id is there twice, an id or patient is neither string nor
            number, or `max_cases` is no number from 1 on.
    """
    if max_cases is not None and (not isinstance(max_cases, int) or isinstance(max_cases, bool) or max_cases < 1):
        raise InputError(f"max_cases is {max_cases!r}; expected a whole number from 1 on, or null for all.")
    every = load_records(records)
    names = _names([record["image"] for record in every])
    counts: Counter[str] = Counter()
    cases = []
    for record in every:
        name = names[record["image"]]
        counts[name] += 1
        if question_kind(record) in kinds:
            number = f"#{counts[name]}" if counts[name] > 1 else ""
            told = {
                key: name_or_default(record, key, default, f"{records}, a record of {name}")
                for key, default in (("id", name + number), ("patient", name))
            }
            cases.append({**record, **told, "kind": question_kind(record), "reference": record["answer"]})
    if not cases:
        present = ", ".join(sorted({question_kind(record) for record in every}))
        raise InputError(
            f"{records}: no record of the kinds {', '.join(kinds)}; its kinds are: {present}. Give others as "
            "question_kinds, or other records."
        )
    ids = Counter(case["id"] for case in cases)
    if twice := [case for case, count in ids.items() if count > 1]:
        raise InputError(f"{records}: ids that are there more than once: {listed_ids(twice)}. Keep one record of each.")
    return cases[:max_cases]


def _names(images: Sequence[str]) -> dict[str, str]:
    """Image -> its file's name without suffix, and a hash of its path below their common folder where two are alike."""
    images = list(dict.fromkeys(images))
    names = [without_image_suffix(Path(image).name) for image in images]
    if len(set(names)) < len(images):
        folder = os.path.commonpath([os.path.dirname(image) for image in images])
        places = [Path(os.path.relpath(image, folder)).as_posix() for image in images]
        names = [f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:8]}" for name, place in zip(names, places)]
    return dict(zip(images, names))


def image_data(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The images of the cases, each once, in the order of their first case, with what corrects their headers.

    Raises:
        InputError: when the cases of an image disagree on it.
    """
    keys = ("image", *HEADER_KEYS)
    return [{key: group[key] for key in keys if key in group} for group in group_by_image(cases)]
