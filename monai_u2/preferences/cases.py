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

"""Which cases are sampled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_u2.data.records import load_records, question_kind
from monai_u2.exceptions import InputError

PAIR_KEYS = ("chosen", "rejected", "chosen_score", "rejected_score", "judge", "model_sha256")
"""What a preference pair has beside its record's keys and its `case_key`."""


def select_cases(records: str | os.PathLike[str], kinds: Sequence[str] = ("report",)) -> list[dict[str, Any]]:
    """Load the records to sample for.

    Args:
        records: a JSON Lines file, see :mod:`monai_u2.data.records`.
        kinds: kinds of questions; records of other kinds are left out.

    Returns:
        the records in their order, each with a `case_key`: the hash of the image's path (relative to the file), the
        question and the answer.

    Raises:
        InputError: when there is no record of these kinds, one is there twice, or one is a preference pair already.
    """
    folder = Path(records).absolute().parent
    every = load_records(records)
    cases: dict[str, dict[str, Any]] = {}
    for record in every:
        if question_kind(record) not in kinds:
            continue
        image = Path(os.path.relpath(record["image"], folder)).as_posix()
        key = hashlib.sha256(json.dumps([image, record["question"], record["answer"]]).encode()).hexdigest()[:32]
        if key in cases:
            raise InputError(f"{records}: {image} has the same question and answer twice; drop one of these lines.")
        taken = [name for name in (*PAIR_KEYS, "case_key") if name in record]
        if taken:
            raise InputError(
                f"{records}: {image} has {taken[0]!r}, which only a preference pair has; expected the records that the "
                "pairs are to be made of."
            )
        cases[key] = {**record, "case_key": key}
    if not cases:
        present = ", ".join(sorted({question_kind(record) for record in every}))
        raise InputError(
            f"{records}: no record of the kinds {', '.join(kinds)}; its kinds are: {present}. Give others as "
            "question_kinds, or other records."
        )
    return list(cases.values())


def case_seed(seed: int, case_key: str) -> int:
    """Return a seed for one case, the same whatever other cases there are."""
    return int(hashlib.sha256(f"{seed} {case_key}".encode()).hexdigest()[:15], 16)
