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

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_u2.data import load_pairs, with_reference
from monai_u2.data.pairs import reference_path, write_reference
from monai_u2.exceptions import InputError
from monai_u2.networks import file_sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    return tmp_path


def pair(folder: Path, **changed: Any) -> dict[str, Any]:
    made = {"image": "ct.nii.gz", "question": "Describe.", "answer": "No nodule.", "chosen": "No nodules."}
    made |= {"rejected": "A nodule.", "chosen_score": 1.0, "rejected_score": 0.25, "judge": "findings 1"}
    return {**made, "model_sha256": file_sha256(folder / "model.pt"), **changed}


def written(folder: Path, *pairs: dict[str, Any]) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in pairs))
    return path


def test_pairs_are_loaded_with_their_keys(folder: Path) -> None:
    (loaded,) = load_pairs(written(folder, pair(folder, note="kept")), folder / "model.pt")
    assert loaded["chosen"] == "No nodules." and loaded["note"] == "kept"
    assert loaded["image"] == str(folder / "ct.nii.gz")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"chosen": " "}, "pair 2: 'chosen' is ' '; expected a text"),
        ({"rejected": None}, "pair 2: 'rejected' is None"),
        ({"chosen": "A  nodule."}, "pair 2: chosen and rejected are the same text"),
        ({"chosen_score": "1"}, r"pair 2: chosen_score and rejected_score are \['1', 0.25\]; expected numbers"),
        ({"rejected_score": None}, "expected numbers"),
        ({"rejected_score": float("nan")}, "is below rejected_score nan"),
        ({"chosen_score": 0.0}, "chosen_score 0.0 is below rejected_score 0.25; exchange them"),
        ({"image": "other.nii.gz"}, "its image other.nii.gz isn't there"),
        (
            {"model_sha256": "0" * 64},
            r"was made by the model 000000000000, training starts from .*set other_model to true",
        ),
    ],
)
def test_what_is_wrong_with_a_pair_is_named(folder: Path, changed: dict[str, Any], message: str) -> None:
    path = written(folder, pair(folder), pair(folder, **changed))
    with pytest.raises(InputError, match=message):
        load_pairs(path, folder / "model.pt")


def test_pairs_of_the_official_code_load_unchanged(folder: Path) -> None:
    """They have no scores, and other weights made them."""
    prepared = {"image": "ct.nii.gz", "question": "Describe.", "answer": "A.", "chosen": "A.", "rejected": "B."}
    (loaded,) = load_pairs(written(folder, prepared), folder / "model.pt", other_model=True)
    assert loaded == {**prepared, "image": str(folder / "ct.nii.gz")}


def test_no_pairs_and_no_model(folder: Path) -> None:
    with pytest.raises(InputError, match="holds no records"):
        load_pairs(written(folder), folder / "model.pt")
    with pytest.raises(InputError, match=r"none.pt does not exist"):
        load_pairs(written(folder, pair(folder)), folder / "none.pt")


def test_pairs_of_another_model_where_asked_for(folder: Path) -> None:
    path = written(folder, pair(folder, model_sha256="0" * 64))
    assert len(load_pairs(path, folder / "model.pt", other_model=True)) == 1
    assert len(load_pairs(path, None)) == 1


def test_reference_log_probabilities_belong_to_pair_and_model(folder: Path) -> None:
    path, model = written(folder, pair(folder), pair(folder, question="Which?")), folder / "model.pt"
    pairs = load_pairs(path, model)
    settings = {"spacing": [5.0, 4.0, 4.0]}
    with pytest.raises(InputError, match=r"pairs.reference.jsonl: does not exist; make it with"):
        with_reference(path, pairs, model, settings)
    write_reference(path, pairs, [(-1.5, -2.5), (-3.0, -4.0)], model, settings)
    found = with_reference(path, pairs[::-1], model, settings)
    assert [one["reference_log_probs"] for one in found] == [[-3.0, -4.0], [-1.5, -2.5]]
    with pytest.raises(InputError, match=r"lacks 2 of 2 pairs with the model .* and these settings"):
        with_reference(path, pairs, model, {"spacing": [3.0, 3.0, 3.0]})
    other_image = [{**one, "image": "other.nii.gz"} for one in pairs]
    with pytest.raises(InputError, match=r"lacks 1 of 2 pairs .*\(the first: pair 2\)"):
        with_reference(path, [pairs[0], other_image[1]], model, settings)
    (folder / "model.pt").write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"lacks 2 of 2 pairs with the model"):
        with_reference(path, pairs, model, settings)
    assert reference_path(path).name == "pairs.reference.jsonl"
