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

import json
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_u2.data.phantom import dataset
from monai_u2.data.phantom.anatomy import render_case
from monai_u2.data.phantom.cases import draw_case
from monai_u2.data.phantom.dataset import PHANTOM_VERSION, case_records, generate_phantoms
from monai_u2.data.phantom.findings import FINDING_LABELS
from monai_u2.data.phantom.report import REPORT_QUESTIONS, write_report
from monai_u2.data.records import load_records
from monai_u2.exceptions import InputError


def generate(root: Path, train: int = 2, validation: int = 1, test: int = 1, **options: object) -> dict[str, Path]:
    options = {"questions_per_case": 2, "num_workers": 1, "progress": False, **options}
    return generate_phantoms(root, train, validation, test, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom")
    generate(root, train=3)
    return root


def modified(root: Path) -> dict[str, int]:
    """Return the modification time of every volume, mask and truth."""
    return {str(path): path.stat().st_mtime_ns for path in root.glob("*/case_*")}


def test_files_hold_the_case(root: Path) -> None:
    case = draw_case(2)
    hu, mask, affine = render_case(case)
    image = nibabel.load(root / "images" / "case_000002.nii.gz")
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj), hu)
    np.testing.assert_allclose(image.affine, affine, atol=1e-3)
    labels = nibabel.load(root / "masks" / "case_000002.nii.gz")
    assert labels.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(labels.dataobj), mask)


def test_truth(root: Path) -> None:
    case = draw_case(2)
    truth = json.loads((root / "truth" / "case_000002.json").read_text())
    mask = nibabel.load(root / "masks" / "case_000002.nii.gz")
    assert truth["labels"] == case.labels
    assert [label for label, is_there in zip(FINDING_LABELS, truth["label_vector"], strict=True) if is_there] == sorted(
        case.labels, key=FINDING_LABELS.index
    )
    assert truth["report"] == write_report(case).text
    assert truth["sentences"] == write_report(case).sentences
    assert len(truth["findings"]) == len(case.findings) > 3
    for finding in truth["findings"]:
        x, y, z = finding["center_lps_mm"]
        assert np.asarray(mask.dataobj)[tuple(finding["center_voxel"])] == finding["mask_value"]
        mm = mask.affine @ [*finding["center_voxel"], 1.0]
        np.testing.assert_allclose(mm[:3], [-x, -y, z], atol=4.0)


def test_records(root: Path) -> None:
    records = load_records(root / "train.jsonl")
    assert [record["case"] for record in records] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [record["kind"] == "report" for record in records] == [True, False, False] * 3
    for record in records:
        assert all(Path(record[key]).is_file() for key in ("image", "lesion_mask", "truth"))
        assert record["findings"] == draw_case(record["case"]).labels
    raw = json.loads((root / "train.jsonl").read_text().splitlines()[0])
    assert raw["image"] == "images/case_000000.nii.gz"
    assert [record["case"] for record in load_records(root / "validation.jsonl")] == [100_000] * 3
    assert {record["case"] for record in load_records(root / "test.jsonl")} == {200_000}


def test_report_questions_vary_in_training_only() -> None:
    assert {case_records(number, 0)[0]["question"] for number in range(30)} == set(REPORT_QUESTIONS)
    assert {case_records(number, 0)[0]["question"] for number in range(200_000, 200_030)} == {REPORT_QUESTIONS[0]}


def test_more_cases_only_add_files(tmp_path: Path) -> None:
    generate(tmp_path)
    before, records = modified(tmp_path), (tmp_path / "train.jsonl").read_text()
    generate(tmp_path, train=3)
    after = modified(tmp_path)
    assert before.items() <= after.items() and len(after) == len(before) + 3
    assert (tmp_path / "train.jsonl").read_text().startswith(records)


def test_records_are_those_asked_for_and_other_splits_stay(tmp_path: Path) -> None:
    generate(tmp_path, train=3)
    before = modified(tmp_path)
    others = {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in ("validation", "test")}
    paths = generate(tmp_path, train=2, validation=0, test=0)
    assert {record["case"] for record in load_records(paths["train"])} == {0, 1}
    assert others == {name: paths[name].read_bytes() for name in others}
    assert modified(tmp_path) == before


def test_a_split_of_no_cases_gets_no_file(tmp_path: Path) -> None:
    paths = generate(tmp_path, train=1, validation=0, test=0)
    assert paths == {split: tmp_path / f"{split}.jsonl" for split in ("train", "validation", "test")}
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["train.jsonl"]


def test_a_missing_file_is_written_again_and_nothing_temporary_stays(tmp_path: Path) -> None:
    generate(tmp_path)
    whole = (tmp_path / "masks" / "case_000001.nii.gz").read_bytes()
    (tmp_path / "masks" / "case_000001.nii.gz").unlink()
    generate(tmp_path)
    assert nibabel.load(tmp_path / "masks" / "case_000001.nii.gz").shape
    assert len((tmp_path / "masks" / "case_000001.nii.gz").read_bytes()) == len(whole)
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nibabel, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        generate(tmp_path)
    assert not list((tmp_path / "images").iterdir())
    assert not (tmp_path / "train.jsonl").exists()


def test_worker_processes_write_the_same_files(root: Path, tmp_path: Path) -> None:
    generate(tmp_path, train=3, num_workers=2)
    for name in ("images/case_000001.nii.gz", "masks/case_100000.nii.gz"):
        first, second = (np.asarray(nibabel.load(folder / name).dataobj) for folder in (root, tmp_path))
        np.testing.assert_array_equal(first, second)
    for name in ("train.jsonl", "truth/case_000002.json"):
        assert (root / name).read_text() == (tmp_path / name).read_text()


def test_a_failing_worker_is_reported(tmp_path: Path) -> None:
    generate(tmp_path, train=0, validation=0, test=0)
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(
        RuntimeError, match=r"phantom cases (0 to 0|100000 to 100000) could not be written:\n(?s:.*)FileExistsError"
    ):
        generate(tmp_path, train=1, validation=1, num_workers=2)


def test_two_generations_into_one_folder(root: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=generate, args=(tmp_path, 3)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "train.jsonl").read_text() == (root / "train.jsonl").read_text()
    for path in root.glob("images/*"):
        np.testing.assert_array_equal(
            np.asarray(nibabel.load(path).dataobj), np.asarray(nibabel.load(tmp_path / "images" / path.name).dataobj)
        )


def test_another_version_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, train=0, validation=0, test=0)
    stamp = tmp_path / "phantom.json"
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "version": PHANTOM_VERSION + 1}))
    with pytest.raises(
        InputError, match=f"holds phantoms of version {PHANTOM_VERSION + 1}.*choose another folder or del"
    ):
        generate(tmp_path)
    stamp.write_text("{")
    with pytest.raises(InputError, match="is no phantom stamp; choose another folder"):
        generate(tmp_path)


def test_difficulty_reaches_every_file(tmp_path: Path) -> None:
    for workers in (1, 2):
        root = tmp_path / str(workers)
        paths = generate(root, train=1, validation=1, test=0, num_workers=workers, difficulty="hard")
        case = draw_case(0, "hard")
        assert case != draw_case(0)
        hu, mask, _ = render_case(case)
        for folder, array in (("images", hu), ("masks", mask)):
            image = nibabel.load(root / folder / "case_000000.nii.gz")
            np.testing.assert_array_equal(np.asarray(image.dataobj), array)
        truth = json.loads((root / "truth" / "case_000000.json").read_text())
        assert truth["difficulty"] == "hard" and truth["labels"] == case.labels
        records = load_records(paths["train"])
        assert records[0]["answer"] == write_report(case).text
        assert all(record["findings"] == case.labels for record in records)
        assert json.loads((root / "phantom.json").read_text())["difficulty"] == "hard"


def test_another_difficulty_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, train=0, validation=0, test=0, difficulty="hard")
    with pytest.raises(
        InputError, match="holds phantoms of difficulty 'hard', asked for is 'default'; choose another folder or del"
    ):
        generate(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom.json"]
    with pytest.raises(InputError, match="difficulty is 'extreme'; expected one of easy, default, hard"):
        generate(tmp_path / "new", difficulty="extreme")
    assert not (tmp_path / "new").exists()


def test_a_stamp_without_a_difficulty_means_the_default_one(root: Path, tmp_path: Path) -> None:
    generate(tmp_path, train=0, validation=0, test=0)
    stamp = tmp_path / "phantom.json"
    stamp.write_text(json.dumps({"version": PHANTOM_VERSION, "labels": FINDING_LABELS}))
    with pytest.raises(InputError, match="holds phantoms of difficulty 'default', asked for is 'easy'"):
        generate(tmp_path, difficulty="easy")
    generate(tmp_path, train=1, validation=0, test=0)
    assert "difficulty" not in json.loads((root / "truth" / "case_000000.json").read_text())
    assert (tmp_path / "truth" / "case_000000.json").read_text() == (root / "truth" / "case_000000.json").read_text()


def test_bad_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="num_train is 100001; expected 0 to 100000"):
        generate(tmp_path, train=100_001)
    with pytest.raises(InputError, match="num_test is -1"):
        generate(tmp_path, test=-1)
    with pytest.raises(InputError, match="questions_per_case is -1"):
        generate(tmp_path, questions_per_case=-1)
    with pytest.raises(InputError, match="questions per case: 1000 is more than the phantom has for case 0"):
        generate(tmp_path / "many", questions_per_case=1000)
    assert not list(tmp_path.glob("many/images/*"))  # known before anything is rendered
    shutil.rmtree(tmp_path / "many")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="is a file; expected a folder"):
        generate(file)
    assert list(tmp_path.iterdir()) == [file]


def test_dicom_on_request(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    generate(tmp_path, train=1, validation=0, test=0)
    generate(tmp_path, train=1, validation=0, test=0, dicom=True)
    files = sorted((tmp_path / "dicom" / "case_000000").iterdir())
    assert len(files) == draw_case(0).grid.shape[2]
    assert pydicom.dcmread(files[0]).Modality == "CT"
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(tmp_path, train=1, validation=0, test=0)
    assert capsys.readouterr().err == ""
    generate(tmp_path, train=2, validation=0, test=0, progress=True)
    assert "phantoms: 100%" in capsys.readouterr().err


def test_workers_run_single_threaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **options: object) -> subprocess.CompletedProcess:
        seen.append(env)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(dataset.subprocess, "run", run)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    generate(tmp_path, num_workers=2)
    assert seen and all(env["OMP_NUM_THREADS"] == "1" for env in seen)
    assert all(env["PYTHONPATH"].endswith(f"{os.pathsep}/mine") for env in seen)
