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

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from monai.data import MetaTensor

from monai_u2.exceptions import InputError
from monai_u2.transforms import AttachPromptd, DecodeReportd, RandSelectConversationsd, ReportPrompt, ReportPromptd

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CASE = [
    {"question": f"{kind}{i}", "answer": f"answer of {kind}{i}", "kind": kind}
    for kind, count in (("report", 1), ("presence", 4), ("location", 2), ("mine", 2))
    for i in range(count)
]

QUESTION, ANSWER = "Is there a kidney stone?", "Yes, on the left."


@pytest.fixture
def prompt(text_tokenizer: PreTrainedTokenizerBase) -> ReportPrompt:
    return ReportPrompt(text_tokenizer, num_image_tokens=4, max_length=40)


def test_only_the_answer_is_trained_on(prompt: ReportPrompt, text_tokenizer: PreTrainedTokenizerBase) -> None:
    out = prompt(QUESTION, ANSWER)
    trained = out["labels"] != -100
    assert torch.equal(out["labels"][trained], out["input_ids"][trained])
    assert text_tokenizer.decode(out["labels"][trained]) == ANSWER + "<|end|>"
    before = text_tokenizer.decode(out["input_ids"][~trained])
    assert before == "<|user|>" + "<im_patch>" * 4 + QUESTION + "<|end|><|assistant|>"
    assert text_tokenizer.decode(out["question_ids"]) == QUESTION


def test_prompt_without_answer_is_the_training_prompt(prompt: ReportPrompt) -> None:
    out, trained = prompt(QUESTION), prompt(QUESTION, ANSWER)
    assert "labels" not in out
    assert torch.equal(out["input_ids"], trained["input_ids"][: len(out["input_ids"])])


def test_text_longer_than_the_context(text_tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = ReportPrompt(text_tokenizer, num_image_tokens=4, max_length=40, max_new_tokens=20)
    with pytest.raises(InputError, match=r"too long: \d+ prompt tokens \(4 of them for the image\) .* holds 40"):
        prompt("Describe the findings of this CT. " * 5)
    with pytest.raises(InputError, match="too long"):
        prompt(QUESTION, ANSWER * 10)


def test_control_tokens_and_empty_texts_are_refused(prompt: ReportPrompt) -> None:
    with pytest.raises(InputError, match="question contains the control token '<im_patch>' at character"):
        prompt("What is <im_patch> here?")
    with pytest.raises(InputError, match="answer is empty"):
        prompt(QUESTION, "  ")


def test_several_questions_about_one_image(text_tokenizer: PreTrainedTokenizerBase) -> None:
    promptd = ReportPromptd("question", text_tokenizer, 4, 40, answer_key="answer")
    out = promptd({"question": [QUESTION, "Normal?"], "answer": [ANSWER, "No."]})
    assert [len(out[key]) for key in ("input_ids", "question_ids", "labels")] == [2, 2, 2]
    assert len(promptd({"question": QUESTION, "answer": ANSWER})["input_ids"]) == 1
    with pytest.raises(InputError, match="2 questions have 1 answers"):
        promptd({"question": [QUESTION, QUESTION], "answer": ANSWER})


def draw(count: int, case: list[dict[str, str]], repeats: int, **arguments: Any) -> list[dict[str, Any]]:
    select = RandSelectConversationsd("conversations", num_conversations=count, **arguments)
    select.set_random_state(seed=5)
    return [select({"conversations": case}) for _ in range(repeats)]


def test_weights_give_the_share_of_each_kind() -> None:
    """Of one question each time; within a kind evenly. Of 4,000 draws a share of 0.5 has a standard error of 0.008."""
    weights = {"report": 2, "presence": 1.0, "location": 1.0, "size": 4.0, "mine": 0.0}  # the case has no size
    drawn = draw(1, CASE, 4000, weights=weights)
    assert all(d["answer"] == [f"answer of {d['question'][0]}"] and "conversations" not in d for d in drawn)
    counts = Counter(d["question"][0] for d in drawn)
    expected = {"report0": 0.5, **{f"presence{i}": 0.0625 for i in range(4)}, "location0": 0.125, "location1": 0.125}
    assert counts.keys() == expected.keys()
    assert {name: count / 4000 for name, count in counts.items()} == pytest.approx(expected, abs=0.03)


def test_weights_draw_no_question_twice_and_go_on_with_the_kinds_that_are_left() -> None:
    weights = {"report": 0.9, "presence": 0.1}
    for d in draw(4, CASE, 50, weights=weights):
        assert len(d["question"]) == len(set(d["question"])) == 4
        assert {question[:-1] for question in d["question"]} <= {"report", "presence"}
    all_of_them = ["presence0", "presence1", "presence2", "presence3", "report0"]
    assert all(sorted(d["question"]) == all_of_them for d in draw(20, CASE, 20, weights=weights))
    first = Counter(d["question"][0] == "report0" for d in draw(2, CASE, 1000, weights=weights))
    assert first[True] / 1000 == pytest.approx(0.9, abs=0.03)


def test_only_kinds_with_a_weight_are_drawn_and_what_has_no_kind_is_a_report() -> None:
    assert all(d["question"][0].startswith("location") for d in draw(1, CASE, 20, weights={"location": 1}))
    plain = [{"question": "a", "answer": "b"}, CASE[1]]
    assert all(d["question"] == ["a"] for d in draw(2, plain, 5, weights={"report": 1}))


def test_weights_are_seeded() -> None:
    weights = {"report": 0.4, "presence": 0.4, "location": 0.2}
    drawn = [draw(3, CASE, 10, weights=weights) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert [d["question"] for d in drawn[0][:3]] == [
        ["report0", "location0", "presence1"],
        ["presence3", "report0", "presence0"],
        ["report0", "presence1", "presence0"],
    ]
    assert len({tuple(d["question"]) for d in drawn[0]}) > 3


def test_case_without_a_kind_with_weight() -> None:
    message = r"kinds \['mine', 'presence'\]; expected some of \['report', 'size'\], .* Give one of its kinds a weight"
    with pytest.raises(InputError, match=message):
        draw(1, [CASE[-1], CASE[1]], 1, weights={"report": 1, "size": 1, "mine": 0})


@pytest.mark.parametrize("weights", [{}, {"report": 0.0}, {"report": 1.0, "region": -0.1}, {"report": float("nan")}])
def test_weights_that_are_none(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        RandSelectConversationsd("conversations", num_conversations=1, weights=weights)


def test_decoding_drops_control_tokens(text_tokenizer: PreTrainedTokenizerBase) -> None:
    words = text_tokenizer("The lungs are clear.\nThe aorta is normal in caliber.")["input_ids"]
    decode = DecodeReportd("pred", text_tokenizer)
    ended = decode({"pred": torch.tensor([*words, text_tokenizer.eos_token_id, 0, 0])})
    assert ended["report"] == "The lungs are clear.\nThe aorta is normal in caliber."
    assert ended["report_whole"]
    assert not decode({"pred": torch.tensor(words)})["report_whole"]


def test_one_prompt_is_attached_to_an_image_with_metadata() -> None:
    image = MetaTensor(torch.zeros(1, 2, 2, 2), meta={"kept": 1})
    case = {"image": image, "input_ids": [torch.tensor([1, 2])], "question_ids": [torch.tensor([2])]}
    attached = AttachPromptd("image")(case)["image"]
    assert attached.meta["prompt"] == '{"input_ids": [1, 2], "question_ids": [2]}' and attached.meta["kept"] == 1
    assert "prompt" not in image.meta
    several = {**case, "input_ids": [torch.tensor([1])] * 2}
    assert "prompt" not in AttachPromptd("image")(several)["image"].meta
    assert not isinstance(AttachPromptd("image")({**case, "image": torch.zeros(1)})["image"], MetaTensor)
