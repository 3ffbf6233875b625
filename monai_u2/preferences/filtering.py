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

"""Samples that teach nothing: degenerate texts and near-duplicates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from monai_u2.exceptions import InputError

DROP_REASONS: tuple[str, ...] = ("empty", "cut_off", "repetition", "near_duplicate")
"""Why a sample is dropped: no text; not ended by the model; a loop; said by a sample before it."""

_UNIT = (4, 200)  # characters of what a loop repeats, at least and at most


class SampleFilter:
    """Says which of a case's samples are dropped before they are judged.

    A text is a loop where something of 4 to 200 characters with a letter in it stands there more than `max_repeats`
    times in a row. Texts are near-duplicates where they are equal but for case and white space, or at least as alike as
    `similarity_threshold`; the first one is kept. Mind that two long reports which differ in a side alone are very much
    alike.

    Args:
        similarity_threshold: ratio of `difflib.SequenceMatcher` in (0, 1]; None for equal texts alone.
        max_repeats: repetitions in a row that no loop has.

    Raises:
        InputError: for numbers out of range.
    """

    def __init__(self, similarity_threshold: float | None = None, max_repeats: int = 3) -> None:
        if similarity_threshold is not None and not 0 < similarity_threshold <= 1:
            raise InputError(f"similarity_threshold is {similarity_threshold}; expected a ratio in (0, 1], or null.")
        if max_repeats < 1:
            raise InputError(f"max_repeats is {max_repeats}; expected at least 1.")
        self.similarity_threshold = similarity_threshold
        self.max_repeats = max_repeats
        self._loop = re.compile(rf"(.{{{_UNIT[0]},{_UNIT[1]}}}?)\1{{{max_repeats},}}")

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Return one of :data:`DROP_REASONS` or None for each sample (a dict of `text` and `whole`)."""
        reasons: list[str | None] = []
        kept: list[str] = []
        for sample in samples:
            text = " ".join(sample["text"].casefold().split())
            if not text:
                reasons.append("empty")
            elif not sample["whole"]:
                reasons.append("cut_off")
            elif any(re.search(r"[^\W\d_]", loop[1]) for loop in self._loop.finditer(text)):
                reasons.append("repetition")
            elif any(self._alike(text, other) for other in kept):
                reasons.append("near_duplicate")
            else:
                reasons.append(None)
                kept.append(text)
        return reasons

    def _alike(self, text: str, other: str) -> bool:
        if text == other or self.similarity_threshold is None:
            return text == other
        matcher = SequenceMatcher(None, text, other, autojunk=False)
        # the quick ratio is an upper bound
        return matcher.quick_ratio() >= self.similarity_threshold and matcher.ratio() >= self.similarity_threshold
