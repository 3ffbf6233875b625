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

"""Preference pairs: records with a chosen and a rejected answer, in JSON Lines.

Beside the keys of a record (:mod:`monai_u2.data.records`; ``answer`` is the reference report):

``chosen`` (str), ``rejected`` (str)
    the two answers; not the same.
``chosen_score``, ``rejected_score`` (float)
    what the judge gave them, the first at least as much as the second; pairs of other makers may have neither.
``judge`` (str)
    name and version of the judge.
``model_sha256`` (str)
    SHA-256 of the weights that made the answers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_u2.data.records import HEADER_KEYS, load_records, write_text_atomically
from monai_u2.exceptions import InputError
from monai_u2.networks.checkpoints import file_sha256

PAIR_KEYS = ("image", "question", "chosen", "rejected")


def load_pairs(
    path: str | os.PathLike[str], model_path: str | os.PathLike[str] | None, other_model: bool = False
) -> list[dict[str, Any]]:
    """Load and check preference pairs.

    Args:
        path: JSON Lines, see the module.
        model_path: weights that are to be trained; None leaves unchecked which weights made the pairs.
        other_model: whether pairs may come from other weights. Their reference isn't what made them then.

    Raises:
        InputError: for a line that isn't such a record, an image that isn't there, or other weights.
    """
    pairs = load_records(path)
    expected = None if model_path is None else file_sha256(model_path)
    for number, pair in enumerate(pairs, start=1):
        where = f"{path}, pair {number}"
        for key in ("chosen", "rejected"):
            if not isinstance(pair.get(key), str) or not pair[key].strip():
                raise InputError(f"{where}: {key!r} is {pair.get(key)!r}; expected a text. Make the pairs again.")
        if pair["chosen"].split() == pair["rejected"].split():
            raise InputError(f"{where}: chosen and rejected are the same text; expected two. Drop the line.")
        scores = [pair.get(key) for key in ("chosen_score", "rejected_score")]
        scored = any(key in pair for key in ("chosen_score", "rejected_score"))
        if scored and not all(isinstance(score, (int, float)) and not isinstance(score, bool) for score in scores):
            raise InputError(f"{where}: chosen_score and rejected_score are {scores}; expected numbers.")
        if scored and not scores[0] >= scores[1]:
            raise InputError(f"{where}: chosen_score {scores[0]} is below rejected_score {scores[1]}; exchange them.")
        if not Path(pair["image"]).exists():
            raise InputError(
                f"{where}: its image {Path(pair['image']).name} isn't there; put it back or drop the line."
            )
        if expected is not None and not other_model and pair.get("model_sha256") != expected:
            raise InputError(
                f"{where}: was made by the model {str(pair.get('model_sha256'))[:12]}, training starts from "
                f"{expected[:12]} ({model_path}; SHA-256 of the weights). Make pairs with this model, "
                "or set other_model to true."
            )
    return pairs


def pair_key(pair: Mapping[str, Any], model: str, settings: Mapping[str, Any]) -> str:
    """Key of a pair's reference log-probabilities: a hash of all that they follow from.

    Args:
        pair: the pair; of its image the path counts, and what corrects its header.
        model: SHA-256 of the reference's weights.
        settings: how the image was prepared and the model was run.
    """
    told: list[Any] = [model, settings, *(str(pair[key]) for key in PAIR_KEYS)]
    if header := {key: pair[key] for key in HEADER_KEYS if key in pair}:
        told.append(header)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def reference_path(path: str | os.PathLike[str]) -> Path:
    """File of reference log-probabilities beside a file of pairs: `pairs.jsonl` -> `pairs.reference.jsonl`."""
    return Path(path).with_suffix(".reference.jsonl")


def write_reference(
    path: str | os.PathLike[str],
    pairs: Sequence[Mapping[str, Any]],
    log_probs: Sequence[Sequence[float]],
    model_path: str | os.PathLike[str],
    settings: Mapping[str, Any],
) -> None:
    """Write reference log-probabilities beside the pairs, keyed by :func:`pair_key`.

    Args:
        path: file of the pairs.
        pairs: the pairs.
        log_probs: of each pair's chosen and rejected answer.
        model_path: the reference's weights.
        settings: see :func:`pair_key`.
    """
    model = file_sha256(model_path)
    lines = [
        json.dumps({"key": pair_key(pair, model, settings), "chosen": chosen, "rejected": rejected}) + "\n"
        for pair, (chosen, rejected) in zip(pairs, log_probs, strict=True)
    ]
    write_text_atomically(reference_path(path), "".join(lines))


def with_reference(
    path: str | os.PathLike[str],
    pairs: Sequence[Mapping[str, Any]],
    model_path: str | os.PathLike[str],
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Pairs with `reference_log_probs`, those of :func:`write_reference`.

    Args:
        path: file of the pairs.
        pairs: the pairs.
        model_path: the reference's weights.
        settings: see :func:`pair_key`.

    Raises:
        InputError: when the file isn't there or lacks a pair with this model and these settings.
    """
    file = reference_path(path)
    if not file.is_file():
        raise InputError(
            f"{file}: does not exist; make it with: python -m monai.bundle run "
            "precompute_reference --config_file configs/dpo.json, and the same settings."
        )
    known = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        known[entry["key"]] = [entry["chosen"], entry["rejected"]]
    model = file_sha256(model_path)
    keys = [pair_key(pair, model, settings) for pair in pairs]
    missing = [number for number, key in enumerate(keys, start=1) if key not in known]
    if missing:
        raise InputError(
            f"{file}: lacks {len(missing)} of {len(pairs)} pairs with the model {model[:12]} and these settings "
            f"(the first: pair {missing[0]}); make it again with run precompute_reference."
        )
    return [{**pair, "reference_log_probs": known[key]} for pair, key in zip(pairs, keys)]
