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

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from monai_u2.exceptions import InputError
from monai_u2.handlers.checkpoint_files import check_checkpoint, read_checkpoint, write_checkpoint

CONTENT = {"weights": torch.arange(100_000.0), "step": 3}


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 50 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.pt"
    write_checkpoint(path, CONTENT)
    check_checkpoint(path)
    content = read_checkpoint(path)
    assert torch.equal(content["weights"], CONTENT["weights"]) and content["step"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["a.pt"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "a.pt"
    write_checkpoint(path, {"step": 2})
    with pytest.raises(InputError, match="a.pt: can't be written .* Make room"):
        write_checkpoint(path, CONTENT)
    assert read_checkpoint(path) == {"step": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["a.pt"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write_checkpoint(path, CONTENT)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damaged in (b"", whole[: len(whole) // 2], whole[:-10], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="a.pt: is damaged"):
            check_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="a.pt: can't be read"):
        read_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"weights": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="holds more than weights"):
        read_checkpoint(tmp_path / "a.pt")
