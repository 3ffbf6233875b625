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


"""The sentences of a report: where each stands in the text, and which generated tokens it is made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monai_u2.synthesis.report_lines import split_report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# "Lungs: There is …": what the sentences of a line are about
_REGION = re.compile(r"^([^\W\d_][\w /-]{1,40}):\s+")


@dataclass(frozen=True)
class ReportSentence:
    """A sentence of a report.

    Args:
        text: the sentence, without the name of its region.
        start: its first character in the report.
        end: the character after its last one.
        section: its heading in lower case, None where there is none.
        region: what its line is about ("Left kidney"), None where it doesn't say so.
    """

    text: str
    start: int
    end: int
    section: str | None = None
    region: str | None = None


def report_sentences(report: str) -> list[ReportSentence]:
    """Split a report into its sentences; headings, and names of regions with a colon, belong to none."""
    sentences = []
    position, region = 0, None
    for line in split_report(report):
        # the splitter joins what it took for two sentences by one space
        found = re.compile(r"\s+".join(map(re.escape, line.text.split()))).search(report, position)
        assert found is not None, "a sentence of the report must stand in the report"
        named = _REGION.match(found[0])
        if named or "\n" in report[position : found.start()]:
            region = named[1] if named else None
        start, position = found.start() + (named.end() if named else 0), found.end()
        sentences.append(ReportSentence(report[start:position], start, position, line.section, region))
    return sentences


def token_offsets(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, int]]:
    """First character, and the one after the last, of each generated token in the report that
    :class:`monai_u2.transforms.DecodeReportd` makes of them; `(n, n)` for tokens without text."""
    ends = [len(tokenizer.decode(ids[: i + 1], skip_special_tokens=True)) for i in range(len(ids))]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    before, length = len(text) - len(text.lstrip()), len(text.strip())
    ends = [min(max(end - before, 0), length) for end in ends]
    return list(zip([0, *ends], ends))


def sentence_tokens(offsets: Sequence[tuple[int, int]], sentences: Sequence[ReportSentence]) -> list[list[int]]:
    """Indexes of the tokens that each sentence is made of."""
    return [
        [i for i, (start, end) in enumerate(offsets) if start < sentence.end and end > max(start, sentence.start)]
        for sentence in sentences
    ]
