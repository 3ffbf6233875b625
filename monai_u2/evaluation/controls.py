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

"""Reports that a model without eyes could write: what a model that reads the image must be better than."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from monai_u2.exceptions import InputError
from monai_u2.metrics.cases import is_missing

MODEL = "model"
"""The run with each case's own image."""

IMAGE_CONTROLS: tuple[str, ...] = ("zeroed_images", "shuffled_images")
"""Controls that the model generates again: images set to zero; each case with another patient's image."""

CONTROLS: tuple[str, ...] = (*IMAGE_CONTROLS, "swapped_questions", "most_frequent_report")
"""All controls. `swapped_questions` takes the answer to another question about the same image, and
`most_frequent_report` one text for all."""


def check_controls(controls: Sequence[str]) -> tuple[str, ...]:
    """Return the controls in the order of :data:`CONTROLS`.

    Raises:
        InputError: for an unknown one.
    """
    if isinstance(controls, str) or (unknown := [name for name in controls if name not in CONTROLS]):
        named = controls if isinstance(controls, str) else ", ".join(map(str, unknown))
        raise InputError(f"controls: {named!r} is none; expected a list of some of {', '.join(CONTROLS)}.")
    return tuple(name for name in CONTROLS if name in controls)


def shuffled_partners(patients: Sequence[str], seed: int) -> tuple[list[int], int] | None:
    """An order of the images in which each one's partner, another patient's image, stands a fixed distance ahead.

    Images of one patient stand together, patients in an order drawn by the seed, and the distance is the largest number
    of images of a patient. The partner of place `p` is at `(p + distance) % len(order)`: no image is its own partner,
    and each is a partner once. It depends on images and seed alone.

    Args:
        patients: the patient of each image.
        seed: seed of the order.

    Returns:
        order and distance; None where a patient has more than half of the images, so that there is no such order.
    """
    images: dict[str, list[int]] = defaultdict(list)
    for image, patient in enumerate(patients):
        images[patient].append(image)
    names = list(images)
    distance = max(map(len, images.values()))
    if 2 * distance > len(patients):
        return None
    drawn = np.random.default_rng([seed, 2]).permutation(len(names))
    return [image for place in drawn for image in images[names[place]]], distance


def swapped_questions(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each question other than for a report, another one about the same image, of the same kind where there is one.

    Args:
        cases: see :func:`monai_u2.evaluation.evaluation_cases`.

    Returns:
        id -> id of the other question; cases without another question are left out.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for case in cases:
        if case["kind"] != "report":
            groups[case["image"], case["kind"]].append(case)
            groups[case["image"],].append(case)
    partners = {}
    for case in cases:
        if case["kind"] == "report":
            continue
        for group in (groups[case["image"], case["kind"]], groups[case["image"],]):
            place = next(place for place, other in enumerate(group) if other is case)
            following = [*group[place + 1 :], *group[:place]]
            other = next((other for other in following if other["question"] != case["question"]), None)
            if other is not None:
                partners[case["id"]] = other["id"]
                break
    return partners


def most_frequent_reports(entries: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The most frequent text of each kind of question; of several, the one that comes first.

    Args:
        entries: kind and text; texts that are none ("Not given.") don't count.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, text in entries:
        if not is_missing(text):
            counts[kind][text] += 1
    return {kind: texts.most_common(1)[0][0] for kind, texts in counts.items()}
