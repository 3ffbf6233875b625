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
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import monai_u2
from monai_u2 import cli
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


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command line in this process, take back the silence that it spreads, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["monai-u2", *map(str, arguments)])
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
        ("bundle", "no bundle at"),
        ("output", "--output is a file; expected a folder. Give another name."),
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
    elif spoil == "question":
        question = " "
    else:
        (bundle / spoil).unlink()
    monkeypatch.setattr(cli, "_run_inference", lambda *args: pytest.fail("the bundle was started"))
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
    assert cli._find_bundle(None) == tmp_path / "bundles" / "u2llm"


def test_unknown_flag_is_refused_before_anything_runs(
    tmp_path: Path, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(cli, "_run_inference", lambda *args: pytest.fail("the bundle was started"))
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
    assert main(monkeypatch, "phantom", tmp_path, "--train", "2", "--test", "1", "--dicom", "--workers", "1") == 0
    assert seen == {
        "root": str(tmp_path),
        "num_train": 2,
        "num_validation": 0,
        "num_test": 1,
        "num_workers": 1,
        "dicom": True,
    }
    assert capsys.readouterr().out == f"3 cases in {tmp_path}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train", "-1"], "--train is -1; expected a whole number of at least 0."),
        (["--train", "2.5"], "--train is 2.5; expected a whole number"),
        (["--train", "2", "--workers", "-3"], "--workers is -3; expected a whole number of at least 1."),
        ([], "no cases asked for; give --train N"),
    ],
)
def test_phantom_refuses_wrong_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, arguments: list[str], message: str
) -> None:
    assert main(monkeypatch, "phantom", tmp_path / "data", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
