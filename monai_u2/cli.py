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


"""The command line: ``monai-u2 report``, ``view``, ``train``, ``label-report``, ``evaluate``, ``compare``,
``ablate``, ``data``, ``phantom``, ``convert`` and ``version``.

Arguments are checked before anything heavy is imported; the work itself is the bundle's.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from monai_u2._mlflow import keep_mlflow_silent
from monai_u2.commands.command import Command, check_whole_number, check_writable, find_bundle
from monai_u2.commands.inference import write_report
from monai_u2.commands.view import view_command, view_report
from monai_u2.exceptions import InputError, find_input_error

__all__ = ["main"]

USER_ERROR = 2


def report(
    input: str,
    output: str,
    bundle: str | None = None,
    question: str | None = None,
    series: str | None = None,
    device: str | None = None,
    dicom_sr: bool = False,
    pdf: bool = False,
    dicom_seg: bool = False,
    evidence: bool = False,
    view: bool = False,
    verbose: bool = False,
) -> Command:
    """Write the report of one CT: report.txt, report.json, overview.png. Not for clinical use.

    Args:
        input: a NIfTI, NRRD, or MetaImage file, or a folder of a DICOM series.
        output: folder for the report; made if it isn't there.
        bundle: folder of the bundle; by default bundles/u2llm here or in the package's checkout.
        question: what to ask of the CT instead of the whole report.
        series: SeriesInstanceUID to read where a DICOM folder holds several.
        device: where the model runs, such as cpu or cuda:0; by default what the bundle's config says.
        dicom_sr: write report_sr.dcm too, a DICOM structured report; for a CT in DICOM.
        pdf: write report.pdf too, and for a CT in DICOM report_pdf.dcm.
        dicom_seg: write evidence_seg.dcm too, the report's evidence as DICOM segmentation; for a CT in DICOM.
        evidence: write where in the CT each sentence comes from, too.
        view: show the report beside its CT in the browser, as monai-u2 view does; with evidence.
        verbose: show the log of MONAI and of the bundle.
    """
    return Command(_report, **locals())


def train(config: str | None = None, **overrides: Any) -> Command:
    """Train as python -m monai.bundle run training does.

    Args:
        config: a config file; by default configs/sft.json of bundles/u2llm, here or in the package's checkout.
        overrides: values for ids of the config, such as --max_epochs 3 or --phantom#num_train 100.
    """
    if {"h", "help"} & overrides.keys():  # fire takes it for one of the overrides
        import fire

        fire.Fire(train, command=["--", "--help"], name="monai-u2 train")
    return Command(_train, config=config, overrides=overrides)


def phantom(
    root: str,
    train: int = 0,
    validation: int = 0,
    test: int = 0,
    questions: int = 3,
    difficulty: str = "default",
    dicom: bool = False,
    workers: int | None = None,
) -> Command:
    """Write synthetic chest-abdomen CT with reports and truth.

    Args:
        root: folder for the data set; made if it isn't there.
        train: number of training cases.
        validation: number of validation cases.
        test: number of test cases.
        questions: number of questions about each case, beside the one for the whole report.
        difficulty: easy, default or hard: size, contrast, noise and number of the findings.
        dicom: write each CT as a DICOM series too.
        workers: number of processes; by default one per core.
    """
    return Command(_phantom, **locals())


def convert(source: str, destination: str) -> Command:
    """Convert an official μ²LLM folder of Hugging Face to one that U2LLM.from_pretrained loads.

    Args:
        source: folder with config.json and the weights, safetensors or .bin, whole or sharded.
        destination: folder to write; must not be there yet, or be empty.
    """
    return Command(_convert, **locals())


def version() -> Command:
    """Print the version of monai_u2."""
    return Command(_version)


def main() -> None:
    """Run the command line: exit code 2 and one message for what the user can mend, a traceback for the rest."""
    import fire
    from fire.decorators import SetParseFns

    from monai_u2.commands.ablate import ablate_command
    from monai_u2.commands.data import data_commands
    from monai_u2.commands.evaluate import evaluation_commands
    from monai_u2.commands.label_report import label_report_command

    # without a parse function, fire would make numbers of "1.2" and lists of "[a]"
    texts = {"bundle": str, "question": str, "series": str, "device": str}
    commands = {
        "report": SetParseFns(input=str, output=str, **texts)(report),
        "view": view_command(),
        "label-report": label_report_command(),
        "train": SetParseFns(config=str)(train),
        **evaluation_commands(),
        "ablate": ablate_command(),
        "data": data_commands(),
        "phantom": SetParseFns(root=str, difficulty=str)(phantom),
        "convert": SetParseFns(source=str, destination=str)(convert),
        "version": version,
    }
    command = fire.Fire(
        commands, name="monai-u2", serialize=lambda result: None if isinstance(result, Command) else result
    )
    if not isinstance(command, Command):
        return  # fire has shown its help
    try:
        code = command._run()
    except Exception as error:
        mistake = find_input_error(error)
        if mistake is None:
            raise
        sys.stderr.write(f"monai-u2: {mistake}\n")
        sys.exit(USER_ERROR)
    if code:
        sys.exit(code)


def _report(
    input: str,
    output: str,
    bundle: str | None,
    question: str | None,
    series: str | None,
    device: str | None,
    dicom_sr: bool,
    pdf: bool,
    dicom_seg: bool,
    evidence: bool,
    view: bool,
    verbose: bool,
) -> None:
    start = time.monotonic()
    image, folder = Path(input).expanduser(), Path(output).expanduser()
    if not image.exists():
        raise InputError(f"{image}: no such file or folder; expected a CT to report on. Check the path.")
    check_writable(folder)
    if question is not None and not question.strip():
        raise InputError("--question is empty; expected a question. Leave it out to get the whole report.")
    documents = {"dicom_sr": dicom_sr, "pdf": pdf, "dicom_seg": dicom_seg}
    _check_documents(image, documents)
    root = find_bundle(bundle, "configs/inference.json", "models/model.pt")
    content = write_report(
        root,
        image,
        folder,
        documents=[name for name, asked in documents.items() if asked],
        evidence=evidence or view,
        verbose=verbose,
        question=question,
        series_uid=series,
        device=device,
    )
    lines = [content["report"], ""] + [f"Warning: {text}" for text in content["warnings"]]
    lines.append(f"Not for clinical use. Written to {folder} in {time.monotonic() - start:.1f} s.")
    sys.stdout.write("\n".join(lines) + "\n")
    if evidence or view or "sentences" in content:  # there is evidence, by which switch ever
        from monai_u2.apps.viewer import remember_image

        remember_image(folder, image, series)
    else:
        (folder / "viewer.json").unlink(missing_ok=True)  # of an earlier report
    if view:
        sys.stdout.flush()
        view_report(str(folder))


def _check_documents(image: Path, documents: dict[str, bool]) -> None:
    from monai_u2.data.dicom import is_dicom

    for name, asked in documents.items():
        if not isinstance(asked, bool):
            raise InputError(f"--{name} is {asked!r}; expected no value: the file is written to --output.")
        if asked and name != "pdf" and not is_dicom(image):
            raise InputError(
                f"{image}: isn't DICOM, so there is no study that --{name} could write for. Give a folder of a DICOM "
                "series, or leave it out."
            )


def _train(config: str | None, overrides: dict[str, Any]) -> None:
    if "config_file" in overrides:
        raise InputError("--config_file is what monai.bundle calls it; expected --config FILE.")
    if config is None:
        file = find_bundle(None, "configs/sft.json") / "configs" / "sft.json"
    else:
        file = Path(config).expanduser().resolve()
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected a bundle's config. Check --config.")
    if file.parent.name == "configs":
        overrides = {"bundle_root": str(file.parents[1])} | overrides
    keep_mlflow_silent()
    from monai.bundle import run

    # MONAI leaves out overrides that are None, and evaluates texts that begin with a dollar sign
    overrides = {key: "$None" if value is None else value for key, value in overrides.items()}
    run(run_id="training", config_file=str(file), **overrides)


def _phantom(
    root: str,
    train: int,
    validation: int,
    test: int,
    questions: int,
    difficulty: str,
    dicom: bool,
    workers: int | None,
) -> None:
    numbers = {"train": train, "validation": validation, "test": test}
    for name, number, lowest in [
        *((name, number, 0) for name, number in numbers.items()),
        ("questions", questions, 0),
        ("workers", workers or 1, 1),
    ]:
        check_whole_number(name, number, lowest)
    if not any(numbers.values()):
        raise InputError("no cases asked for; give --train N, --validation N, or --test N.")
    from monai_u2.data.phantom import generate_phantoms

    generate_phantoms(
        root,
        num_train=train,
        num_validation=validation,
        num_test=test,
        questions_per_case=questions,
        difficulty=difficulty,
        num_workers=workers,
        dicom=dicom,
    )
    sys.stdout.write(f"{sum(numbers.values())} cases in {root}\n")


def _convert(source: str, destination: str) -> None:
    folder = Path(destination).expanduser()
    if not Path(source).expanduser().is_dir():
        raise InputError(f"{source}: no such folder; expected a μ²LLM model with config.json and its weights.")
    from monai_u2.networks import convert_official

    config = convert_official(Path(source).expanduser(), folder)
    sys.stdout.write(
        f"Written to {folder}: a {config.text_config.model_type} backbone, {config.vision['num_layers']} vision "
        f"layers. Prompts hold the image placeholder {config.image_token_id}.\n"
    )


def _version() -> None:
    import monai_u2

    sys.stdout.write(f"{monai_u2.__version__}\n")
