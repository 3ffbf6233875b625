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

import sys
import types
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from monai_u2.exceptions import InputError
from monai_u2.judges import GreenJudge

PROMPT = "Reference: {reference}\nCandidate: {candidate}\n"
GOOD = "[Clinically Significant Errors]: None.\n[Clinically Insignificant Errors]: None.\n[Matched Findings]: 2. a; b"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, text_tokenizer: PreTrainedTokenizerBase) -> Path:
    """A random Llama of a few thousand weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(text_tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        eos_token_id=text_tokenizer.eos_token_id,
        pad_token_id=text_tokenizer.pad_token_id,
        bos_token_id=None,
    )
    folder = tmp_path_factory.mktemp("GREEN-tiny")
    LlamaForCausalLM(config).save_pretrained(folder)
    text_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def prompt_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompt.txt"
    path.write_text(PROMPT)
    return path


def write_answer(judge: GreenJudge, monkeypatch: pytest.MonkeyPatch, *, ended: bool = True) -> list[list[str]]:
    """Let the model write a well-formed answer; returns the list of what it is asked."""
    asked: list[list[str]] = []

    def generate(input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: object) -> torch.Tensor:
        assert options["do_sample"] is False
        rows = [ids[mask.bool()] for ids, mask in zip(input_ids, attention_mask)]
        asked.append([judge.tokenizer.decode(row) for row in rows])
        answer = judge.tokenizer(GOOD)["input_ids"] + [judge.tokenizer.eos_token_id] * ended
        return torch.cat([input_ids, torch.tensor([answer] * len(input_ids))], dim=1)

    monkeypatch.setattr(judge.model, "generate", generate)
    return asked


def test_a_random_model_gives_a_status_and_no_score(checkpoint: Path, prompt_file: Path) -> None:
    judge = GreenJudge(checkpoint, prompt_file, max_new_tokens=8, batch_size=2)
    results = judge.batch(["Cyst.", "No finding at all.", "Stone."], ["Stone.", "Cyst.", "Cyst."])
    assert len(results) == 3
    assert {errors.status for errors in results} <= {"truncated", "unparsable"}
    assert {errors.score for errors in results} == {None}
    assert results[0].judge == f"GREEN {checkpoint.name}" and results[0].judge_version == judge.version


def test_the_prompt_stands_in_greens_turns(
    checkpoint: Path, prompt_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = GreenJudge(checkpoint, prompt_file, max_new_tokens=8, batch_size=2)
    asked = write_answer(judge, monkeypatch)
    results = judge.batch(["Cyst.", "A {candidate} in it.", "Stone."], ["Stone.", "Cyst.", "Cyst."])
    assert [len(batch) for batch in asked] == [2, 1]
    first, second = asked[0]
    end = judge.tokenizer.eos_token
    assert first == f"<|user|>\nReference: Cyst.\nCandidate: Stone.\n{end}\n<|assistant|>\n"
    assert "Reference: A {candidate} in it.\nCandidate: Cyst." in second
    assert [(errors.status, errors.matched, errors.score) for errors in results] == [("ok", 2, 1.0)] * 3


def test_a_text_that_does_not_end_is_truncated_however_good(
    checkpoint: Path, prompt_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = GreenJudge(checkpoint, prompt_file, max_new_tokens=8)
    write_answer(judge, monkeypatch, ended=False)
    errors = judge("Cyst.", "Stone.")
    assert (errors.status, errors.score) == ("truncated", None)
    assert "doesn't end within 8 tokens" in errors.explanation


def test_reports_that_do_not_fit_fail_and_are_never_cut(
    checkpoint: Path, prompt_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judge = GreenJudge(checkpoint, prompt_file, max_new_tokens=8, cache_dir=tmp_path / "cache")
    asked = write_answer(judge, monkeypatch)
    results = judge.batch(["Cyst. " * 300, "Cyst."], ["Stone.", "Stone."])
    assert [errors.status for errors in results] == ["failed", "ok"]
    assert "the model holds 256" in results[0].explanation
    assert len(asked) == 1 and len(asked[0]) == 1


def test_no_pair_is_judged_twice(
    checkpoint: Path, prompt_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judge = GreenJudge(checkpoint, prompt_file, max_new_tokens=8, cache_dir=tmp_path / "cache")
    asked = write_answer(judge, monkeypatch)
    first = judge.batch(["Cyst.", "Stone.", "Cyst."], ["Stone."] * 3)
    assert [len(batch) for batch in asked] == [2]
    assert judge.batch(["Cyst.", "Stone.", "Cyst."], ["Stone."] * 3) == first
    assert len(asked) == 1
    other = GreenJudge(checkpoint, prompt_file, max_new_tokens=9, cache_dir=tmp_path / "cache")
    assert other.version != judge.version


def test_the_prompt_of_the_installed_package(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = types.ModuleType("green_score"), types.ModuleType("green_score.utils")
    module.make_prompt = lambda text1, text2: f"Compare {text2} to {text1}."
    monkeypatch.setitem(sys.modules, "green_score", package)
    monkeypatch.setitem(sys.modules, "green_score.utils", module)
    assert GreenJudge(checkpoint).prompt == "Compare {candidate} to {reference}."
    module.make_prompt = lambda text1, text2: f"Compare to {text1}."
    with pytest.raises(InputError, match="green_score has no {candidate}"):
        GreenJudge(checkpoint)


def test_what_is_missing_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, None):
        with pytest.raises(InputError, match=rf"{folder}: no config\.json there"):
            GreenJudge(folder)
    with pytest.raises(InputError, match="does not exist"):
        GreenJudge(checkpoint, tmp_path / "none.txt")
    (tmp_path / "half.txt").write_text("{reference}")
    with pytest.raises(InputError, match="has no {candidate}"):
        GreenJudge(checkpoint, tmp_path / "half.txt")
    monkeypatch.setitem(sys.modules, "green_score", None)
    with pytest.raises(InputError, match="green_score can't be imported"):
        GreenJudge(checkpoint)


def test_a_checkpoint_that_lacks_weights(checkpoint: Path, prompt_file: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    weights = {name: value for name, value in model.state_dict().items() if "q_proj" not in name}
    model.save_pretrained(tmp_path / "half", state_dict=weights)
    with pytest.raises(InputError, match="lacks 1 weights, such as .*q_proj"):
        _ = GreenJudge(tmp_path / "half", prompt_file).model
