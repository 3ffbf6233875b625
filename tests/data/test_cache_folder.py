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

import errno
import logging
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_u2.data import CacheFolder, cache_folder
from monai_u2.data.cache_folder import DESCRIPTION_FILE, storable
from monai_u2.exceptions import InputError

DESCRIPTION = {"transforms": [{"class": "Scale", "state": {"factor": 2.0}}]}
KEY, CASE = "ab12", {"image": torch.arange(5000.0), "name": "x"}


def leftovers(folder: CacheFolder) -> list[str]:
    return [file.name for file in folder.path.iterdir() if file.name.endswith(".tmp")]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", DESCRIPTION)
    assert folder.read(KEY) is None
    folder.write(KEY, CASE)
    found = CacheFolder(tmp_path / "cache", DESCRIPTION).read(KEY)
    assert torch.equal(found["image"], CASE["image"]) and found["name"] == "x"
    assert sorted(file.name for file in folder.path.iterdir()) == [f"{KEY}.pt", DESCRIPTION_FILE]


def test_another_preprocessing_has_another_folder(tmp_path: Path) -> None:
    CacheFolder(tmp_path, DESCRIPTION).write(KEY, CASE)
    assert CacheFolder(tmp_path, {"transforms": []}).read(KEY) is None
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["half", "empty", "a changed byte", "zeros", "another entry", "no entry", "pickle"])
def test_a_damaged_entry_is_named_and_removed(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = CacheFolder(tmp_path, DESCRIPTION)
    folder.write(KEY, CASE)
    file = folder.path / f"{KEY}.pt"
    whole = file.read_bytes()
    folder.write("cd34", CASE)
    other = (folder.path / "cd34.pt").read_bytes()
    middle = len(whole) // 2
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"key": KEY, "case": Path("/")}, tmp_path / "pickle.pt")
    content = {
        "half": whole[:middle],
        "empty": b"",
        "a changed byte": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        "zeros": bytes(len(whole)),
        "another entry": other,
        "no entry": (tmp_path / "list.pt").read_bytes(),
        "pickle": (tmp_path / "pickle.pt").read_bytes(),
    }[damage]
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert folder.read(KEY) is None
    assert f"cache entry {file} is damaged" in caplog.text and not file.exists()
    assert torch.equal(folder.read("cd34")["image"], CASE["image"])


def killed_while_writing(cache_dir: Path, reached: Any) -> None:
    def half(file: Any, content: bytes) -> None:
        file.write(content[: len(content) // 2])
        file.flush()
        reached.set()
        os.kill(os.getpid(), signal.SIGKILL)

    folder = CacheFolder(cache_dir, DESCRIPTION)
    cache_folder._write = half
    folder.write(KEY, CASE)


def test_a_killed_writer_leaves_no_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    reached = context.Event()
    process = context.Process(target=killed_while_writing, args=(tmp_path, reached))
    process.start()
    process.join(60)
    assert reached.is_set() and process.exitcode == -signal.SIGKILL
    (path,) = tmp_path.iterdir()
    assert [file.name for file in path.iterdir() if file.suffix == ".pt"] == []
    assert len([file for file in path.iterdir() if file.suffix == ".tmp"]) == 1
    folder = CacheFolder(tmp_path, DESCRIPTION)
    assert leftovers(folder) == [] and folder.read(KEY) is None
    folder.write(KEY, CASE)
    assert torch.equal(folder.read(KEY)["image"], CASE["image"])


def test_a_living_writer_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process opens the folder while an entry is half written."""
    folder, write, seen = CacheFolder(tmp_path, DESCRIPTION), cache_folder._write, []

    def half_and_half(file: Any, content: bytes) -> None:
        write(file, content[:100])
        seen.append(leftovers(CacheFolder(tmp_path, DESCRIPTION)))
        write(file, content[100:])

    monkeypatch.setattr(cache_folder, "_write", half_and_half)
    folder.write(KEY, CASE)
    assert len(seen[0]) == 1 and torch.equal(folder.read(KEY)["image"], CASE["image"])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    folder = CacheFolder(tmp_path, DESCRIPTION)

    def full(file: Any, content: bytes) -> None:
        file.write(content[:100])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache_folder, "_write", full)
    with pytest.raises(InputError) as caught:
        folder.write(KEY, CASE)
    text = str(caught.value)
    assert str(folder.path) in text and os.strerror(number) in text and "no entry was left" in text
    assert "cache_dir on a larger disk" in text and "MB are free" in text
    assert [file.name for file in folder.path.iterdir()] == [DESCRIPTION_FILE]


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match=r"cache folder .*cache.*expected a folder to read and write"):
        CacheFolder(tmp_path / "cache", DESCRIPTION)


def test_a_foreign_or_damaged_folder(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, DESCRIPTION)
    folder.write(KEY, CASE)
    described = folder.path / DESCRIPTION_FILE
    for content, expected in (
        ('{"transforms": []}', "is that of another preprocessing; expected what the folder's name stands for"),
        ('{"transforms": [', "is damaged; expected what the folder's name stands for. Delete this folder"),
    ):
        described.write_text(content)
        with pytest.raises(InputError, match=expected):
            CacheFolder(tmp_path, DESCRIPTION)
    described.unlink()
    with pytest.raises(InputError, match="holds entries, but no preprocessing.json"):
        CacheFolder(tmp_path, DESCRIPTION)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_entry_that_may_not_be_read(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path, DESCRIPTION)
    folder.write(KEY, CASE)
    (folder.path / f"{KEY}.pt").chmod(0)
    with pytest.raises(InputError, match="can't be read .*Mend its permissions"):
        folder.read(KEY)


def test_storable_keeps_metadata_and_types(tmp_path: Path) -> None:
    meta = {"spatial_shape": np.array([1, 2]), "spacing": np.float64(0.5), "file": "x", "list": [1, (2.0, None)]}
    image = MetaTensor(torch.rand(4, 6)[:, ::2], affine=torch.eye(4) * 2, meta=meta)
    case = {"image": image, "mask": np.arange(6, dtype=np.uint8), "info": {"numbers": [np.int64(3), True]}}
    folder = CacheFolder(tmp_path, DESCRIPTION)
    folder.write(KEY, storable(case))
    found = folder.read(KEY)
    assert torch.equal(found["image"].as_tensor(), image.as_tensor()) and torch.equal(
        found["image"].affine, image.affine
    )
    assert found["image"].meta["spacing"] == 0.5 and found["image"].meta["list"] == [1, (2.0, None)]
    assert torch.equal(found["mask"], torch.arange(6, dtype=torch.uint8)) and found["mask"].dtype == torch.uint8
    assert found["info"] == {"numbers": [3, True]}
    assert not isinstance(storable(image, track_meta=False), MetaTensor)


def test_what_cannot_be_stored_is_named() -> None:
    with pytest.raises(InputError, match=r"case.a\[1\] is a object, which the cache can't hold"):
        storable({"a": [1, object()]})
