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

"""Books that must balance."""

from __future__ import annotations

import pytest

from monai_u2.chat_client import ChatAnswer
from monai_u2.synthesis.ledger import Ledger, add_summaries
from monai_u2.synthesis.rules import Problem
from monai_u2.synthesis.stage import Outcome


def filled() -> Ledger:
    ledger = Ledger("a stage")
    ledger.take(Outcome(kept=[{"row": "a-0"}, {"row": "a-1"}], rejected=[({"row": "a-2"}, Problem("duplicate"))]))
    ledger.take(Outcome(rejected=[({"row": "b"}, Problem("refusal"))]))
    ledger.fail({"row": "c"}, "HTTP 400")
    ledger.count(ChatAnswer(text="", prompt_tokens=10, completion_tokens=2))
    ledger.count(ChatAnswer(text=""))
    return ledger


def test_what_goes_in_comes_out() -> None:
    summary = filled().summary(3)
    assert summary == {
        "input": 3,
        "added": 2,
        "kept": 2,
        "rejected": {"duplicate": 1, "refusal": 1},
        "failed": 1,
        "requests": 2,
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "without_usage": 1,
    }
    assert summary["input"] + summary["added"] == summary["kept"] + 2 + summary["failed"]
    both = add_summaries([summary, summary])
    assert both["rejected"] == {"duplicate": 2, "refusal": 2} and both["kept"] == 4


def test_a_lost_row_stops_the_run() -> None:
    with pytest.raises(RuntimeError, match="don't balance"):
        filled().summary(4)
    lost, double = filled(), filled()
    lost.kept.pop()
    double.kept[1] = double.kept[0]
    for ledger, number in ((lost, 3), (double, 3)):
        with pytest.raises(RuntimeError, match="don't balance"):
            ledger.summary(number)
    with pytest.raises(RuntimeError, match="neither kept nor rejected"):
        filled().take(Outcome())
