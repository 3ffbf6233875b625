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

import logging
from pathlib import Path

import pytest

from monai_u2.data import Journal
from monai_u2.data.journal import check_settings
from monai_u2.exceptions import InputError


def test_entries_of_all_processes(tmp_path: Path) -> None:
    for shard in (1, 0):
        journal = Journal(tmp_path / "new", "samples", shard)
        journal.append({"case_key": f"a{shard}", "text": "Zeile\n\u2028ä"})
        journal.append({"case_key": f"b{shard}"})
    Journal(tmp_path / "new", "judgements", 0).append({"case_key": "c"})
    entries = list(Journal(tmp_path / "new", "samples", 7).entries())
    assert [entry["case_key"] for entry in entries] == ["a0", "b0", "a1", "b1"]
    assert entries[0]["text"] == "Zeile\n\u2028ä"


def test_a_line_that_was_broken_off_is_dropped_wherever_it_broke(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, "samples")
    journal.append({"case_key": "a"})
    whole = journal.path.read_bytes()
    journal.append({"case_key": "b", "text": "ä"})
    content = journal.path.read_bytes()
    for end in range(len(whole) + 1, len(content)):
        journal.path.write_bytes(content[:end])
        # another process leaves it alone, its owner mends it
        assert [entry["case_key"] for entry in Journal(tmp_path, "samples", 1).entries()] == ["a"]
        assert journal.path.read_bytes() == content[:end]
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            mended = Journal(tmp_path, "samples")
        assert "was broken off" in caplog.text and journal.path.read_bytes() == whole
        mended.append({"case_key": "c"})
        assert [entry["case_key"] for entry in mended.entries()] == ["a", "c"]


@pytest.mark.parametrize("line", ["{]", "[]", "{}", "\xff"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    journal = Journal(tmp_path, "samples")
    journal.append({"case_key": "a"})
    with journal.path.open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    with pytest.raises(InputError, match=r"samples-00000\.jsonl, line 2"):
        list(Journal(tmp_path, "samples").entries())


def test_other_settings_are_refused(tmp_path: Path) -> None:
    check_settings(tmp_path / "new", {"seed": 1, "sizes": (1, 2)}, "samples")
    check_settings(tmp_path / "new", {"seed": 1, "sizes": [1, 2]}, "samples")
    with pytest.raises(InputError, match=r"its samples were made with another seed \(1\) than asked for \(2\)"):
        check_settings(tmp_path / "new", {"seed": 2, "sizes": [1, 2]}, "samples")
