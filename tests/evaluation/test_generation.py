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

from pathlib import Path
from typing import Any

import pytest
import torch

from monai_u2.evaluation import ReportGenerator
from monai_u2.exceptions import InputError
from monai_u2.inferers import ReportInferer
from monai_u2.networks import U2LLM


class Tokenizer:
    """Token ids as text; 1 ends."""

    eos_token_id = 1

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(str(token) for token in ids if token != 1)


class Images(torch.utils.data.Dataset):
    """Random images, 1 to 2 slabs each; notes which are loaded."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.loaded: list[int] = []

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        self.loaded.append(place)
        return {"image": torch.rand(1 + place % 2, 8, 32, 32, generator=torch.Generator().manual_seed(place))}


def prompt(data: dict[str, Any]) -> dict[str, Any]:
    ids = [torch.tensor([99] * 4 + [int(question)]) for question in data["question"]]
    return {"input_ids": ids, "question_ids": [row[4:] for row in ids]}


CASES = [
    {"id": f"c{n}", "image": f"i{n // 2}", "patient": f"p{n // 4}", "kind": "report", "question": str(10 + n)}
    for n in range(20)
]


def generator(network: U2LLM, folder: Path, images: Images | None = None, **options: Any) -> ReportGenerator:
    inferer = ReportInferer(max_new_tokens=4, do_sample=False)
    images = images or Images(10)
    options = {"batch_size": 3, "seed": 5} | options
    return ReportGenerator(CASES, images, prompt, network, inferer, Tokenizer(), folder, **options)


def answers(done: dict[str, Any]) -> dict[str, Any]:
    return {case: entry["passes"] for case, entry in done.items()}


@pytest.fixture
def whole(tiny_u2llm: U2LLM, tmp_path: Path) -> dict[str, Any]:
    return answers(generator(tiny_u2llm, tmp_path / "whole").run())


def test_all_cases_and_passes(whole: dict[str, Any]) -> None:
    assert list(whole) == [case["id"] for case in CASES]
    assert {tuple(passes) for passes in whole.values()} == {("model", "zeroed_images", "shuffled_images")}
    assert all(answer["tokens"] <= 4 for passes in whole.values() for answer in passes.values())


def test_each_image_is_loaded_once(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    images = Images(10)
    generator(tiny_u2llm, tmp_path, images).run()
    assert sorted(images.loaded) == list(range(10))


def test_shuffled_images_are_those_of_the_partner(
    tiny_u2llm: U2LLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose answer tells which image it got."""
    images = Images(10)
    sums = torch.tensor([0.0, *(float(images[place]["image"].sum()) for place in range(10))])

    def told(image: torch.Tensor, network: U2LLM, **arguments: torch.Tensor) -> torch.Tensor:
        seen = (image.flatten(1).sum(dim=1)[:, None] - sums).abs().argmin(dim=1) - 1
        return torch.stack([seen[arguments["image_index"]] + 50, arguments["input_ids"][:, -1]], dim=1)

    made = generator(tiny_u2llm, tmp_path, images)
    monkeypatch.setattr(made, "inferer", told)
    for case, passes in answers(made.run()).items():
        number = int(case[1:])
        seen = {name: [int(token) for token in answer["text"].split()] for name, answer in passes.items()}
        assert seen["model"] == [50 + number // 2, 10 + number] and seen["zeroed_images"] == [49, 10 + number]
        image, question = seen["shuffled_images"]
        assert question == 10 + number and image >= 50
        assert CASES[2 * (image - 50)]["patient"] != CASES[number]["patient"]


def test_shares_give_the_same(tiny_u2llm: U2LLM, tmp_path: Path, whole: dict[str, Any]) -> None:
    first = generator(tiny_u2llm, tmp_path, shard=0, num_shards=3).run()
    second = generator(tiny_u2llm, tmp_path, shard=1, num_shards=3).run()
    third = generator(tiny_u2llm, tmp_path, shard=2, num_shards=3).run()
    assert first is None and second is None and answers(third) == whole


def test_one_share_alone_goes_on_with_what_was_done_before(
    tiny_u2llm: U2LLM, tmp_path: Path, whole: dict[str, Any]
) -> None:
    shares = [generator(tiny_u2llm, tmp_path, shard=shard, num_shards=2) for shard in (0, 1)]
    for share in shares:
        share.run()
    assert shares[1].run() is None and answers(shares[0].run()) == whole


def test_one_of_two_that_are_done_at_the_same_moment_goes_on(
    tiny_u2llm: U2LLM, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (generator(tiny_u2llm, tmp_path, shard=shard, num_shards=2) for shard in (0, 1))
    generate, given = first._generate, []

    def generate_both(*args: Any) -> None:
        generate(*args)
        given.append(second.run())

    monkeypatch.setattr(first, "_generate", generate_both)
    assert first.run() is None and answers(given[0]) == whole


@pytest.mark.parametrize("kept", [1, 4, 7])
def test_a_broken_run_goes_on_to_the_same(tiny_u2llm: U2LLM, tmp_path: Path, whole: dict[str, Any], kept: int) -> None:
    generator(tiny_u2llm, tmp_path).run()
    journal = tmp_path / "generated-00000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:kept]) + lines[kept][:10])
    assert answers(generator(tiny_u2llm, tmp_path).run()) == whole
    assert journal.read_bytes().startswith(b"".join(lines[:kept]))


def test_a_control_can_be_added_later(tiny_u2llm: U2LLM, tmp_path: Path, whole: dict[str, Any]) -> None:
    alone = answers(generator(tiny_u2llm, tmp_path, controls=()).run())
    assert {tuple(passes) for passes in alone.values()} == {("model",)}
    assert answers(generator(tiny_u2llm, tmp_path).run()) == whole
    assert generator(tiny_u2llm, tmp_path, Images(10)).run() is not None


def test_nothing_is_loaded_when_all_is_done(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    generator(tiny_u2llm, tmp_path).run()
    images = Images(10)
    generator(tiny_u2llm, tmp_path, images).run()
    assert images.loaded == []


def test_one_patient_has_no_partner(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    cases = [case | {"patient": "p"} for case in CASES[:2]]
    inferer = ReportInferer(max_new_tokens=2, do_sample=False)
    made = ReportGenerator(cases, Images(1), prompt, tiny_u2llm, inferer, Tokenizer(), tmp_path)
    assert made.passes == ("model", "zeroed_images") and "shuffled_images" in made.left_out


def test_what_is_refused(tiny_u2llm: U2LLM, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size is 0"):
        generator(tiny_u2llm, tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="10 images and a dataset of 9"):
        generator(tiny_u2llm, tmp_path, Images(9))
