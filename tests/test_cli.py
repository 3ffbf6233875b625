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

import importlib
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

import monai_u2
from monai_u2 import cli
from monai_u2.commands import inference
from monai_u2.data.phantom.dicom_series import write_dicom_series

ROOT = Path(cli.__file__).parents[1]
HEAVY = ("torch", "monai", "transformers", "itk", "mlflow", "matplotlib", "nibabel", "pydicom")
# a bundle that reads the image as ours does, and "reports" its shape
INFERENCE = {
    "imports": ["$import json", "$from pathlib import Path"],
    "bundle_root": ".",
    "input_image": "",
    "series_uid": None,
    "question": "Describe the findings.",
    "output_dir": "",
    "device": "cpu",
    "load": {"_target_": "monai_u2.transforms.load.LoadCT", "series_uid": "@series_uid"},
    "transform": {"_target_": "Compose", "transforms": ["@load"]},
    "folder": "$Path(@output_dir)",
    "run": [
        "$setattr(@load, 'image', @transform(@input_image))",
        "$@folder.mkdir(parents=True, exist_ok=True)",
        "$(@folder / 'report.json').write_text(json.dumps("
        "{'report': str(tuple(@load.image.shape)), 'question': @question, 'device': @device, "
        "'warnings': ['too short']}))",
    ],
}
# a bundle that loads its model as ours does
LOADING = {
    "imports": ["$import ignite", "$import torch"],
    "bundle_root": ".",
    "network": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3},
    "loader": {
        "_target_": "CheckpointLoader",
        "load_path": "$@bundle_root + '/models/model.pt'",
        "load_dict": {"model": "@network"},
    },
    "engine": "$ignite.engine.Engine(lambda engine, batch: None)",
    "run": ["$@loader.attach(@engine)", "$@engine.run([0])"],
}
# a config that reads its records as ours does, and "trains" by writing down what it was given
TRAINING = {
    "imports": ["$import json", "$import monai_u2", "$from pathlib import Path"],
    "bundle_root": ".",
    "train_records": "$@bundle_root + '/train.jsonl'",
    "phantom": {"num_train": 600},
    "records": "$monai_u2.data.load_records(@train_records)",
    "training": [
        "$Path('trained.json').write_text(json.dumps([len(@records), @bundle_root, @phantom]))",
    ],
}


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command line in this process, take back the silence that it spreads, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["monai-u2", *map(str, arguments)])
    # loggers of earlier runs in this process still write to streams that pytest has closed
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with warnings.catch_warnings():
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0
        finally:
            logging.disable(logging.NOTSET)
    return 0


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    (root / "configs").mkdir(parents=True)
    (root / "models").mkdir()
    (root / "models" / "model.pt").write_bytes(b"weights")
    (root / "configs" / "inference.json").write_text(json.dumps(INFERENCE))
    (root / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    return root


@pytest.fixture
def image(tmp_path: Path) -> Path:
    hu = np.random.default_rng(3).integers(-1000, 2000, (9, 8, 7), dtype=np.int16)
    file = tmp_path / "ct #1 @ $HOME.nii.gz"  # characters that MONAI's config parser gives a meaning
    nib.save(nib.Nifti1Image(hu, np.diag([-0.7, -0.9, 2.5, 1.0])), file)
    return file


def test_report_is_written_and_printed(tmp_path: Path, bundle: Path, image: Path) -> None:
    question = "$1 @x %y #z: is the liver normal?"
    command = [sys.executable, "-m", "monai_u2", "report", image, "--output", tmp_path / "out"]
    command += ["--bundle", bundle, "--question", question, "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1, 9, 8, 7)\n\nWarning: too short\n") and str(tmp_path / "out") in done.stdout
    assert done.stderr == ""
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["question"] == question and content["device"] == "cpu"


def test_series_is_chosen(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    hu = np.random.default_rng(3).integers(-1000, 2000, (9, 8, 7), dtype=np.int16)
    for number in (1, 2):
        folder = tmp_path / "ct" / str(number)
        write_dicom_series(hu[..., number:], np.diag([-1, -1, 2, 1]), folder, series_uid=f"1.2.{number}")
    command = ["report", tmp_path / "ct", "--output", tmp_path / "out", "--bundle", bundle]
    assert main(monkeypatch, *command) == 2
    refused = capsys.readouterr()
    assert refused.out == "" and refused.err.startswith("monai-u2: ct: it holds 2 image series")
    assert "--series 1.2.1  CT, 6 slices" in refused.err and "--series 1.2.2  CT, 5 slices" in refused.err
    assert not (tmp_path / "out").exists()
    assert main(monkeypatch, *command, "--series", "1.2.2") == 0
    assert capsys.readouterr().out.startswith("(1, 9, 8, 5)")


def test_unexpected_error_is_not_swallowed(
    tmp_path: Path, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle / "configs" / "inference.json").write_text(json.dumps(INFERENCE | {"run": ["$1 / 0"]}))
    with pytest.raises(RuntimeError) as error:
        main(monkeypatch, "report", image, "--output", tmp_path / "out", "--bundle", bundle)
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_an_earlier_report_is_not_shown_as_this_one(
    tmp_path: Path, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (bundle / "configs" / "inference.json").write_text(json.dumps(INFERENCE | {"run": ["$None"]}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text('{"report": "another patient", "warnings": []}')
    with pytest.raises(RuntimeError, match="ran, but wrote no"):
        main(monkeypatch, "report", image, "--output", tmp_path / "out", "--bundle", bundle)
    assert capsys.readouterr().out == ""


def test_broken_image_is_a_user_error(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "ct.nii.gz").write_text("this is not an image")
    command = ["report", tmp_path / "ct.nii.gz", "--output", tmp_path / "out", "--bundle", bundle]
    assert main(monkeypatch, *command) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("monai-u2: ct.nii.gz: not a gzip file") and shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def four_d(folder: Path, hu: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(np.stack([hu, hu], axis=-1), np.eye(4)), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def two_d(folder: Path, hu: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(hu[:, :, 0], np.eye(4)), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def nan(folder: Path, hu: np.ndarray) -> Path:
    hu = hu.astype(np.float32)
    hu[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(hu, np.eye(4)), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def constant(folder: Path, hu: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(np.zeros_like(hu), np.eye(4)), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def truncated(folder: Path, hu: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(hu, np.eye(4)), folder / "ct.nii.gz")
    (folder / "ct.nii.gz").write_bytes((folder / "ct.nii.gz").read_bytes()[:-100])
    return folder / "ct.nii.gz"


def series(folder: Path, hu: np.ndarray, slices: slice = slice(None), **values: str) -> Path:
    """A DICOM series, and DICOM attributes that some of its slices get."""
    files = write_dicom_series(hu, np.diag([-1, -1, 2, 1]), folder / "ct")
    for file in files[slices]:
        dataset = pydicom.dcmread(file)
        for name, value in values.items():
            setattr(dataset, name, value)
        dataset.save_as(file)
    return folder / "ct"


def mr_series(folder: Path, hu: np.ndarray) -> Path:
    return series(folder, hu, Modality="MR")


def missing_slice(folder: Path, hu: np.ndarray) -> Path:
    ct = series(folder, hu)
    sorted(ct.iterdir())[3].unlink()
    return ct


def two_patients(folder: Path, hu: np.ndarray) -> Path:
    return series(folder, hu, slice(3, 4), PatientID="ROE")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (four_d, "ct.nii.gz: 4-D image of shape (9, 8, 7, 2)"),
        (two_d, "ct.nii.gz: 2-D image of shape (9, 8)"),
        (nan, "ct.nii.gz: 1 NaN and 0 infinite voxels"),
        (constant, "ct.nii.gz: all 504 voxels are 0.0"),
        (truncated, "ct.nii.gz: the compressed file is cut off"),
        (mr_series, "ct: the series' modality is MR"),
        (missing_slice, "slice_0003.dcm and slice_0005.dcm: a gap of 4.00 mm"),
        (two_patients, "ct: the series' slices belong to 2 patients"),
    ],
)
def test_bad_ct_is_one_message(
    tmp_path: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    bad: Callable[[Path, np.ndarray], Path],
    message: str,
) -> None:
    ct = bad(tmp_path, np.random.default_rng(3).integers(-1000, 2000, (9, 8, 7), dtype=np.int16))
    assert main(monkeypatch, "report", ct, "--output", tmp_path / "out", "--bundle", bundle) == 2
    shown = capfd.readouterr()
    assert shown.err.startswith(f"monai-u2: {message}") and shown.err.count("\n") == 1
    assert shown.out == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"weights", "not a checkpoint of PyTorch, or cut off"),
        (b"", "not a checkpoint of PyTorch, or cut off"),
        (-200, "not a checkpoint of PyTorch, or cut off"),
        ([1, 2], "not a checkpoint of PyTorch, or cut off"),
        ({"weight": torch.zeros(3, 2)}, "Error(s) in loading state_dict for Linear: Missing key(s)"),
        (
            {"weight": torch.zeros(5, 2), "bias": torch.zeros(5)},
            "Error(s) in loading state_dict for Linear: size mismatch for weight",
        ),
    ],
)
def test_unusable_model_is_a_user_error(
    tmp_path: Path,
    bundle: Path,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    content: object,
    reason: str,
) -> None:
    model = bundle / "models" / "model.pt"
    if isinstance(content, bytes):
        model.write_bytes(content)
    elif isinstance(content, int):
        torch.save({"weight": torch.zeros(3, 2), "bias": torch.zeros(3)}, model)
        model.write_bytes(model.read_bytes()[:content])
    else:
        torch.save(content, model)
    (bundle / "configs" / "inference.json").write_text(json.dumps(LOADING))
    assert main(monkeypatch, "report", image, "--output", tmp_path / "out", "--bundle", bundle) == 2
    shown = capfd.readouterr().err
    assert shown.startswith(f"monai-u2: {model}: can't be loaded ({reason}") and shown.count("\n") == 1
    assert "Copy the bundle again, or train it" in shown


def test_unknown_device_is_a_user_error(
    tmp_path: Path, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ["report", image, "--output", tmp_path / "out", "--bundle", bundle, "--device", "toaster"]
    assert main(monkeypatch, *command) == 2
    assert "--device toaster:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("image", "no such file or folder; expected a CT to report on. Check the path."),
        ("models/model.pt", "no models/model.pt in it; expected a bundle with configs and model. Train it"),
        ("configs/inference.json", "no configs/inference.json in it; expected a bundle with configs and model."),
        (
            "bundle",
            "The repository of monai_u2 has one, bundles/u2llm: work in a clone of it, or pass the place of one",
        ),
        ("output", "/out: is a file; expected a folder for --output. Give another name."),
        ("folder of the output", "/out: is a file; expected a folder for --output. Give another name."),
        ("permission", "--output can't be written there; expected a folder that you may write to."),
        ("question", "--question is empty; expected a question."),
    ],
)
def test_what_fails_early(
    tmp_path: Path,
    bundle: Path,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    spoil: str,
    message: str,
) -> None:
    output, question = tmp_path / "out", "Liver?"
    if spoil == "image":
        image.unlink()
    elif spoil == "bundle":
        bundle = tmp_path / "nowhere"
    elif spoil == "output":
        output.write_text("a file")
    elif spoil == "folder of the output":
        output.write_text("a file")
        output = output / "report"
    elif spoil == "permission":  # not by chmod: root may write anywhere
        output = output / "deeper"
        monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    elif spoil == "question":
        question = " "
    else:
        (bundle / spoil).unlink()
    monkeypatch.setattr(cli, "write_report", lambda *args, **options: pytest.fail("the bundle was started"))
    code = main(monkeypatch, "report", image, "--output", output, "--bundle", bundle, "--question", question)
    assert code == 2 and message in capsys.readouterr().err
    assert spoil == "output" or not output.exists()


def test_nothing_heavy_is_imported_before_the_arguments_are_checked(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom monai_u2 import cli\n"
        f"sys.argv = ['monai-u2', 'report', 'none.nii.gz', '--output', 'out']\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    assert stop.code == 2\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout == "[]\n", done.stderr


def test_default_bundle_is_that_of_the_working_directory(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundles").mkdir()
    bundle.rename(tmp_path / "bundles" / "u2llm")
    monkeypatch.chdir(tmp_path)
    assert cli.find_bundle(None, "configs/inference.json", "models/model.pt") == tmp_path / "bundles" / "u2llm"


@pytest.fixture
def training(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle's training config; the working directory is the one above ``bundles/u2llm``."""
    (tmp_path / "bundles").mkdir()
    bundle = bundle.rename(tmp_path / "bundles" / "u2llm")
    (bundle / "configs" / "sft.json").write_text(json.dumps(TRAINING))
    (bundle / "train.jsonl").write_text('{"image": "a", "question": "q", "answer": "a"}\n' * 2)
    monkeypatch.chdir(tmp_path)
    return bundle / "configs" / "sft.json"


def test_train_runs_the_default_config_with_overrides(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(monkeypatch, "train", "--phantom#num_train", "4") == 0
    assert json.loads(Path("trained.json").read_text()) == [2, str(training.parents[1]), {"num_train": 4}]


def test_train_takes_null(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(monkeypatch, "train", "--phantom", "None") == 0
    assert json.loads(Path("trained.json").read_text())[2] is None


def test_train_runs_another_config(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = training.rename(training.with_name("other.json"))
    assert main(monkeypatch, "train", "--config", "bundles/u2llm/configs/other.json") == 0
    assert json.loads(Path("trained.json").read_text()) == [2, str(other.parents[1]), {"num_train": 600}]


def test_train_names_the_broken_line_of_records(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "mine.jsonl").write_text('{"image": "a", "question": "q", "answer": "a"}\n{"image": \n')
    assert main(monkeypatch, "train", "--train_records", "mine.jsonl") == 2
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith("monai-u2: mine.jsonl, line 2: is not JSON")
    assert "Traceback" not in shown.err + shown.out and not Path("trained.json").exists()


def test_train_shows_its_help_and_runs_nothing(
    training: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("PAGER", "cat")
    assert main(monkeypatch, "train", "--help") == 0
    shown = capfd.readouterr()
    assert "--phantom#num_train 100" in shown.out + shown.err and not Path("trained.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "none.json"], "none.json: no such file; expected a bundle's config. Check --config."),
        (["--config_file", "configs/sft.json"], "expected --config FILE."),
        ([], "no configs/sft.json in it; expected a bundle with configs and model. Give the training config with"),
    ],
)
def test_train_without_config_is_a_user_error(
    training: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    training.unlink()
    assert main(monkeypatch, "train", *arguments) == 2
    assert message in capsys.readouterr().err


def test_importing_the_main_module_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "main", lambda: pytest.fail("the command line was run"))
    monkeypatch.delitem(sys.modules, "monai_u2.__main__", raising=False)
    assert importlib.import_module("monai_u2.__main__").main is cli.main


def test_unknown_flag_is_refused_before_anything_runs(
    tmp_path: Path, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cli, "write_report", lambda *args, **options: pytest.fail("the bundle was started"))
    command = ["report", image, "--output", tmp_path / "out", "--bundle", bundle, "--quesiton", "Liver?"]
    assert main(monkeypatch, *command) == 2
    assert "Could not consume arg: --quesiton" in capsys.readouterr().err


def test_numbers_stay_texts(tmp_path: Path, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    monkeypatch.setattr(cli, "_report", lambda **arguments: seen.update(arguments))
    main(monkeypatch, "report", "12", "--output", "1.50", "--series", "1.20", "--question", "[1, 2]")
    assert (seen["input"], seen["output"], seen["series"], seen["question"]) == ("12", "1.50", "1.20", "[1, 2]")


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert main(monkeypatch, "version") == 0
    assert capsys.readouterr().out == f"{monai_u2.__version__}\n"


def test_phantom_passes_its_numbers_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    seen = {}
    monkeypatch.setattr(
        "monai_u2.data.phantom.generate_phantoms", lambda root, **numbers: seen.update(numbers, root=root)
    )
    command = ["phantom", tmp_path, "--train", "2", "--test", "1", "--dicom", "--workers", "1", "--difficulty", "hard"]
    command += ["--questions", "5"]
    assert main(monkeypatch, *command) == 0
    assert seen == {
        "root": str(tmp_path),
        "num_train": 2,
        "num_validation": 0,
        "num_test": 1,
        "questions_per_case": 5,
        "difficulty": "hard",
        "num_workers": 1,
        "dicom": True,
    }
    assert capsys.readouterr().out == f"3 cases in {tmp_path}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "-1"], "--train is -1; expected a whole number of at least 0."),
        (["--train", "2.5"], "--train is 2.5; expected a whole number"),
        (["--train", "2", "--questions", "-1"], "--questions is -1; expected a whole number of at least 0."),
        (["--train", "2", "--workers", "-3"], "--workers is -3; expected a whole number of at least 1."),
        ([], "no cases asked for; give --train N"),
        (["--train", "2", "--difficulty", "1"], "difficulty is '1'; expected one of easy, default, hard"),
    ],
)
def test_phantom_refuses_wrong_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert main(monkeypatch, "phantom", tmp_path / "data", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_view_shows_the_report_with_its_evidence(
    tmp_path: Path, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, switched = [], []
    run = inference.run_inference

    def run_inference(root: Path, verbose: bool, overrides: dict[str, str], switches: dict[str, bool]) -> None:
        switched.append(switches)
        run(root, verbose, overrides, {})  # this bundle has no evidence

    monkeypatch.setattr(inference, "run_inference", run_inference)
    monkeypatch.setattr(cli, "view_report", shown.append)
    out = tmp_path / "out"
    assert main(monkeypatch, "report", image, "--output", out, "--bundle", bundle, "--view") == 0
    assert (shown, switched) == ([str(out)], [{"evidence": True}])
    assert json.loads((out / "viewer.json").read_text()) == {"image": str(image.resolve()), "series_uid": None}
