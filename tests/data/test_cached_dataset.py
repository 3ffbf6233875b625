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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, Lambdad, MapTransform, RandShiftIntensityd, ScaleIntensityRanged

from monai_u2.data import CachedDataset, SeededDataset, cache_folder
from monai_u2.data.cached_dataset import CACHE_DTYPES, LARGEST_ERRORS
from monai_u2.exceptions import InputError, find_input_error

loaded: list[str] = []


class Load(MapTransform):
    """A file of float64 in numpy's format to `(1, n)`, and how often that was done."""

    def __call__(self, data: Any) -> dict[str, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            loaded.append(Path(d[key]).name)
            path = Path(d[key])
            arrays = [np.load(file) for file in (sorted(path.glob("*.npy")) if path.is_dir() else [path])]
            d[key] = MetaTensor(torch.from_numpy(np.concatenate(arrays))[None], affine=torch.eye(4) * 3)
        return d


@pytest.fixture
def data(tmp_path: Path) -> list[dict[str, Any]]:
    loaded.clear()
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        np.save(folder / f"{i}.npy", rng.uniform(-1000, 1000, 500))
    return [{"image": str(folder / f"{i}.npy"), "question": f"What is {i}?"} for i in range(6)]


def steps(scale: float = 1000, load: type = Load) -> list[Any]:
    return [load("image"), ScaleIntensityRanged("image", -scale, scale, 0, 1, clip=True)]


def cached(data: Any, tmp_path: Path, scale: float = 1000, more: Any = (), **options: Any) -> CachedDataset:
    return CachedDataset(data, Compose([*steps(scale), *more]), tmp_path / "cache", 2, **options)


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*/*.pt"))


def test_preprocessed_once(data: list[dict[str, Any]], tmp_path: Path) -> None:
    expected = Compose(steps())(data[0])["image"].as_tensor().float()
    loaded.clear()
    for _ in range(2):
        dataset = cached(data, tmp_path)
        assert torch.equal(dataset[0]["image"], expected) and dataset[0]["question"] == "What is 0?"
    assert loaded == ["0.npy"] and len(entries(tmp_path)) == 1
    assert data[0]["image"].endswith("0.npy")


def test_a_changed_preprocessing_reads_nothing_stale(data: list[dict[str, Any]], tmp_path: Path) -> None:
    for scale in (1000, 1001, 1000):
        image = cached(data, tmp_path, scale)[0]["image"]
        assert torch.equal(image, Compose(steps(scale))(data[0])["image"].as_tensor().float()), scale
    folders = sorted((tmp_path / "cache").iterdir())
    assert len(folders) == 2 and len(entries(tmp_path)) == 2
    found = {folder.joinpath("preprocessing.json").read_text().count('"a_max": 1001') for folder in folders}
    assert found == {0, 1}


def test_other_texts_and_later_transforms_need_no_preprocessing(data: list[dict[str, Any]], tmp_path: Path) -> None:
    cached(data, tmp_path)[0]
    changed = [{**data[0], "question": "Another?"}]
    case = cached(changed, tmp_path, more=[Lambdad("image", lambda x: x + 1)])[0]
    assert case["question"] == "Another?" and case["image"].min() >= 1
    assert loaded == ["0.npy"]


@pytest.mark.parametrize(
    "header", [{"rescale_slope": 2.0}, {"spacing": [1.0, 1.0, 3.0]}, {"rescale_slope": 1}, {"volume_index": 1}]
)
def test_a_corrected_header_is_preprocessed_again(
    data: list[dict[str, Any]], tmp_path: Path, header: dict[str, Any]
) -> None:
    cached(data, tmp_path)[0]
    for _ in range(2):
        assert cached([{**data[0], **header}], tmp_path)[0].items() >= header.items()
    assert len(loaded) == 2 and len(entries(tmp_path)) == 2


@pytest.mark.parametrize("change", ["content of one size", "size", "time alone"])
def test_a_replaced_file_is_preprocessed_again(data: list[dict[str, Any]], tmp_path: Path, change: str) -> None:
    file = Path(data[0]["image"])
    cached(data, tmp_path)[0]
    time = file.stat().st_mtime_ns
    if change != "time alone":
        np.save(file, np.zeros(500 if change == "content of one size" else 400))
    if change == "size":
        os.utime(file, ns=(time, time))
    else:
        os.utime(file, ns=(time, time + 1))
    image = cached(data, tmp_path)[0]["image"]
    assert len(loaded) == 2 and bool((image == 0.5).all()) is (change != "time alone")


def test_the_files_of_a_folder_count(data: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = Path(data[0]["image"]).parent
    case = [{"image": str(folder)}]
    assert len(cached(case, tmp_path)[0]["image"][0]) == 3000
    np.save(folder / "9.npy", np.zeros(7))
    assert len(cached(case, tmp_path)[0]["image"][0]) == 3007
    link = tmp_path / "link"
    link.symlink_to(folder)
    cached([{"image": link}], tmp_path)[0]
    assert loaded == ["data", "data"]


@pytest.mark.parametrize(
    ("header", "text"),
    [("ct.mhd", "NDims = 3\nElementDataFile = ct.raw\n"), ("ct.nhdr", "NRRD0004\ndata file: ct.raw\n")]
    + [("ct.mhd", "NDims = 3\nElementDataFile = ct%d.raw 1 9 1\n")],
)
def test_the_data_file_of_a_header_counts(tmp_path: Path, header: str, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / header).write_text(text)
    (tmp_path / "data" / "ct.raw").write_bytes(b"1")
    read = Lambdad("image", lambda name: torch.tensor(len(Path(name).with_suffix(".raw").read_bytes())))
    dataset = CachedDataset([{"image": str(tmp_path / "data" / header)}], [read], tmp_path / "cache", 1)
    assert dataset[0]["image"] == 1 and dataset[0]["image"] == 1
    (tmp_path / "data" / "ct.raw").write_bytes(b"12")
    assert dataset[0]["image"] == 2


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_the_error_of_a_dtype(data: list[dict[str, Any]], tmp_path: Path, dtype: str, caplog: Any) -> None:
    exact = Compose(steps())(data[0])["image"].as_tensor()
    with caplog.at_level(logging.INFO):
        dataset = cached(data, tmp_path, dtype=dtype)
    assert ("largest error" in caplog.text) is (dtype != "float32")
    first, second = dataset[0]["image"], dataset[0]["image"]
    assert first.dtype == torch.float32 and torch.equal(first, second)
    error = float((first.double() - exact).abs().max())
    assert error <= LARGEST_ERRORS[dtype] + 1e-7
    assert dtype == "float32" or error > LARGEST_ERRORS[dtype] / 4
    size = {"float32": 4, "float16": 2, "uint8": 1}[dtype]
    (entry,) = entries(tmp_path)
    assert torch.load(entry, weights_only=True)["case"]["case"]["image"].element_size() == size


def test_only_intensities_in_0_to_1_become_small(data: list[dict[str, Any]], tmp_path: Path) -> None:
    for options in ({"dtype": "uint8"}, {"dtype": "float16"}):
        dataset = CachedDataset(data, Compose([Load("image")]), tmp_path / "cache", 1, **options)
        with pytest.raises(InputError, match=r"image ranges from -9\d\d.* to 9\d\d.*; expected \[0, 1\]"):
            dataset[0]
    np.save(data[0]["image"], np.array([0.5, np.nan]))
    with pytest.raises(InputError, match="image ranges from nan to nan"):
        dataset[0]
    assert entries(tmp_path) == []


def test_masks_keep_their_type(tmp_path: Path) -> None:
    mask = torch.tensor([[0, 3, 255]], dtype=torch.uint8)
    values = {"image": torch.tensor([[0.2, 1.0, 0.0]]), "lesion_mask": mask}
    dataset = CachedDataset([values], Compose([]), tmp_path / "cache", 0, dtype="uint8")
    for _ in range(2):
        case = dataset[0]
        assert torch.equal(case["lesion_mask"], mask) and case["lesion_mask"].dtype == torch.uint8
        assert torch.allclose(case["image"], values["image"], atol=1 / 510)
    same = CachedDataset([{"image": mask}], Compose([]), tmp_path / "cache", 0, dtype="uint8")
    assert torch.equal(same[0]["image"], mask) and torch.equal(same[0]["image"], mask)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_metadata_are_kept_where_asked_for(data: list[dict[str, Any]], tmp_path: Path, dtype: str) -> None:
    for _ in range(2):
        image = cached(data, tmp_path, dtype=dtype, track_meta=True)[0]["image"]
        assert torch.equal(image.affine, torch.eye(4, dtype=torch.float64) * 3)
    assert not isinstance(cached(data, tmp_path, dtype=dtype)[0]["image"], MetaTensor)
    assert len(entries(tmp_path)) == 2


def test_random_transforms_come_after(data: list[dict[str, Any]], tmp_path: Path) -> None:
    shift = RandShiftIntensityd("image", 0.1, prob=1.0)
    dataset = SeededDataset(cached(data, tmp_path, more=[shift]), seed=1)
    draws = [dataset[epoch, 0]["image"] for epoch in (0, 1, 0)]
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])
    with pytest.raises(InputError, match="RandShiftIntensityd is random, but among the 2 cached transforms"):
        CachedDataset(data, [Load("image"), Compose([shift])], tmp_path / "cache", 2)


def test_no_cache(data: list[dict[str, Any]], tmp_path: Path) -> None:
    with_cache = cached(data, tmp_path, dtype="float16")
    without = CachedDataset(data, Compose(steps()), None, 2, dtype="float16")
    assert torch.equal(without[1]["image"], with_cache[1]["image"])
    assert loaded == ["1.npy", "1.npy"]
    assert without[1].keys() == with_cache[1].keys() and loaded == ["1.npy"] * 3


def test_other_cases_delete_nothing(data: list[dict[str, Any]], tmp_path: Path) -> None:
    dataset = cached(data, tmp_path)
    dataset[0]
    dataset.set_data(data[:1])
    dataset[0]
    assert loaded == ["0.npy"] and len(dataset) == 1


def fill(data: Any, tmp_path: Path, order: list[int], barrier: Any, results: Path) -> None:
    dataset = cached(data, tmp_path)
    images = {}
    for i in order:
        barrier.wait(60)
        images[i] = dataset[i]["image"]
    torch.save(images, results)


@pytest.mark.parametrize("orders", [[range(6), range(6)], [range(6), range(5, -1, -1)]], ids=["same", "reversed"])
def test_two_processes_fill_it_together(data: Any, tmp_path: Path, orders: list[range]) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    results = [tmp_path / f"{i}.pt" for i in range(2)]
    processes = [
        context.Process(target=fill, args=(data, tmp_path, list(order), barrier, result))
        for order, result in zip(orders, results)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(entries(tmp_path)) == 6 and len(list(folder.iterdir())) == 7
    expected = [Compose(steps())(case)["image"].as_tensor().float() for case in data]
    loaded.clear()
    for result in (*map(torch.load, results), {i: cached(data, tmp_path)[i]["image"] for i in range(6)}):
        assert all(torch.equal(result[i], expected[i]) for i in range(6))
    assert loaded == []


def test_workers_fill_it(data: list[dict[str, Any]], tmp_path: Path) -> None:
    batches = list(DataLoader(cached(data, tmp_path), batch_size=2, num_workers=2))
    assert len(entries(tmp_path)) == 6 and len(batches) == 3
    assert torch.equal(batches[0]["image"][1], cached(data, tmp_path)[1]["image"]) and loaded == []


def test_a_damaged_entry_is_rebuilt(data: list[dict[str, Any]], tmp_path: Path, caplog: Any) -> None:
    dataset = cached(data, tmp_path)
    expected = dataset[0]["image"]
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-100])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(dataset[0]["image"], expected)
    assert len(entry.read_bytes()) == len(whole)
    assert f"{entry} is damaged" in caplog.text and len(loaded) == 2


def test_a_full_disk_is_told(data: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = cached(data, tmp_path)

    def full(file: Any, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_folder, "_write", full)
    with pytest.raises(InputError, match="No space left on device"):
        dataset[0]
    monkeypatch.undo()
    assert entries(tmp_path) == [] and dataset[0]["image"].shape == (1, 500)


def test_a_missing_file_is_told_by_who_reads_it(tmp_path: Path) -> None:
    from monai_u2.transforms import LoadCTd

    dataset = CachedDataset([{"image": str(tmp_path / "ct.nii")}], [LoadCTd("image")], tmp_path / "cache", 1)
    with pytest.raises(RuntimeError) as caught:
        dataset[0]
    assert "no such file or folder" in str(find_input_error(caught.value))
    assert entries(tmp_path) == []


def test_unknown_dtype(data: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cache dtype 'int4'; expected one of float32, float16, uint8"):
        cached(data, tmp_path, dtype="int4")
