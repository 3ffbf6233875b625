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

from typing import TYPE_CHECKING

from monai_u2.data.phantom import draw_case, write_report
from monai_u2.evidence.sentences import report_sentences, sentence_tokens, token_offsets

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def test_sentences_of_a_phantom_are_those_of_its_truth() -> None:
    for number in range(200_000, 200_020):
        report = write_report(draw_case(number))
        sentences = report_sentences(report.text)
        assert [s.text for s in sentences] == [s["text"] for s in report.sentences]
        assert [s.section for s in sentences] == [s["section"].lower() for s in report.sentences]
        assert all(report.text[s.start : s.end] == s.text for s in sentences)


def test_what_a_line_is_about_holds_to_its_end() -> None:
    report = "FINDINGS:\nLeft kidney: A stone is seen. No cyst.\nThe liver is normal.\nIMPRESSION: Stone"
    sentences = report_sentences(report)
    assert [s.text for s in sentences] == ["A stone is seen.", "No cyst.", "The liver is normal.", "Stone"]
    assert [s.region for s in sentences] == ["Left kidney", "Left kidney", None, None]


def test_numbers_and_abbreviations_end_no_sentence() -> None:
    report = "FINDINGS:\nA nodule of 2.5 mm, max. 3 mm.  A cyst is seen.\n\nIMPRESSION: Nodule, cyst"
    sentences = report_sentences(report)
    assert [s.text for s in sentences] == ["A nodule of 2.5 mm, max. 3 mm.", "A cyst is seen.", "Nodule, cyst"]
    assert [s.section for s in sentences] == ["findings", "findings", "impression"]
    assert all(report[s.start : s.end] == s.text for s in sentences)


def test_a_sentence_said_twice_stands_in_two_places() -> None:
    first, second = report_sentences("No fracture. No fracture.")
    assert (first.start, first.end, second.start, second.end) == (0, 12, 13, 25)


def test_an_empty_report_has_no_sentences() -> None:
    assert report_sentences("") == report_sentences("FINDINGS:\nLungs:\n")[1:] == []


def test_tokens_of_each_sentence(text_tokenizer: PreTrainedTokenizerBase) -> None:
    report = write_report(draw_case(200_000)).text
    ids = text_tokenizer("\n" + report, add_special_tokens=False)["input_ids"] + [text_tokenizer.eos_token_id]
    offsets = token_offsets(ids, text_tokenizer)
    assert offsets[-1] == (len(report), len(report))
    sentences = report_sentences(report)
    spans = sentence_tokens(offsets, sentences)
    assert [text_tokenizer.decode([ids[i] for i in span]).strip() for span in spans] == [s.text for s in sentences]
    used = [i for span in spans for i in span]
    assert len(used) == len(set(used)) and len(ids) - 1 not in used
