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

from monai_u2.data.fingerprint import fingerprint
from monai_u2.judges import FindingErrors, JudgementCache


def test_a_judgement_comes_back_as_it_was(tmp_path: Path) -> None:
    cache, key = JudgementCache(tmp_path / "new"), fingerprint("judge", "1", "reference", "candidate")
    assert cache.get(key) is None
    errors = FindingErrors(matched=2, wrong_location=1, explanation="rechts – links")
    cache.put(key, errors)
    assert JudgementCache(tmp_path / "new").get(key) == errors
    assert cache.get(fingerprint("judge", "2", "reference", "candidate")) is None


def test_a_failed_one_is_not_kept_but_a_truncated_one(tmp_path: Path) -> None:
    cache = JudgementCache(tmp_path)
    for status, kept in (("failed", False), ("truncated", True), ("unparsable", True)):
        cache.put(fingerprint(status), FindingErrors(status=status))
        assert (cache.get(fingerprint(status)) is not None) is kept


@pytest.mark.parametrize("content", ["", '{"matched": 1', '{"matched": -1}', '{"hits": 1}', "[]", "\xff"])
def test_a_damaged_file_is_no_judgement(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    cache, key = JudgementCache(tmp_path), fingerprint("a")
    cache.put(key, FindingErrors(matched=1))
    next(tmp_path.rglob("*.json")).write_bytes(content.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert cache.get(key) is None
    assert "is damaged" in caplog.text


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = JudgementCache(None)
    cache.put(fingerprint("a"), FindingErrors())
    assert cache.get(fingerprint("a")) is None
    assert list(tmp_path.iterdir()) == []


def test_fingerprints_tell_texts_apart() -> None:
    assert fingerprint("a", "bc") != fingerprint("ab", "c")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
