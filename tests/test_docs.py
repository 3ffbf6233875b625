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

"""What README and docs show runs: every command of their bash blocks, with the trainings made small."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from monai_u2.data import load_records
from tests.python_process import run_python

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "bundles" / "u2llm" / "docs" / "README.md"]
SET_UP = ("python3 -m venv .venv", ".venv/bin/pip install -q -c constraints.txt -e .")
SMALL_TRAINING = (
    "--phantom#num_train 4 --phantom#num_validation 2 --phantom#questions_per_case 20 --batch_size 2 --warmup_steps 1"
)
SMALL_VISION = {"image_size": [8, 16, 32], "patch_size": [4, 8, 8], "hidden_size": 24, "mlp_dim": 48, "num_layers": 1}
SMALL_VISION |= {"num_heads": 4}
SMALL_SIZES = {
    "slabs": 2,
    "tokens": 24,
    "channels": 32,
    "heads": 4,
    "layers": 1,
    "selected": 8,
    "queries": 6,
    "text": 5,
}
SMALL_SIZES |= {"grid": [2, 3, 4], "vision": SMALL_VISION}
SMALL_MODEL = {
    "text_config": {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1},
    "vision": SMALL_VISION,
    "u2_tokenizer": {"type": "paper", "num_heads": 4, "num_layers": 1, "num_selected": 8, "num_queries": 4},
    "image_token_id": 64,
}
SMALL_PREFERENCES = {"vocabulary": 200, "hidden": 32, "layers": 1, "queries": 4, "question": 5, "answer": 6}
SMALL_PREFERENCES |= {"vision": SMALL_VISION}
# options that make a benchmark small
SMALL_BENCHMARKS = {
    "question_controls.py": "--num_cases 2",
    "unseen_geometry.py": "--num_cases 2",
    "signal_table.py": "--cases 2 --steps 1",
    "token_paths.py": "--num_train 8 --num_validation 2 --steps 1 --seeds 1 --batch_size 2",
    "tokenizer.py": "--parts bfloat16 --rounds 1 --peak_size 128 --sizes '" + json.dumps(SMALL_SIZES) + "'",
    "generate.py": "--samples 2 --num_queries 4 --new_tokens 2 --rounds 1 --vision '" + json.dumps(SMALL_VISION) + "'",
    "check_data.py": "--num_cases 1 --names 1 --size 64,64,48 --rounds 1",
    "load.py": "--config '" + json.dumps(SMALL_MODEL) + "'",
    "dpo.py": "--sizes '" + json.dumps(SMALL_PREFERENCES) + "'",
    "preference_gain.py": "--num_cases 2",
    "distributed.py": "--cases 1 --slabs 1 --questions 1 --answer 3 --steps 1 --rounds 1",
    "training_memory.py": "--cases \"[['sft',None,None,1]]\"",
    "text_metrics.py": "--num_pairs 4 --num_samples 20",
    "preprocess.py": "--shape [48,48,32] --rounds 1",
    "evidence_cost.py": "--rounds 1",
    "evidence.py": "--num_cases 2 --first_case 200003 --methods \"['integrated gradient']\"",
    "phantom_ladder.py": "--num_train 4 --num_validation 2 --num_test 2 --steps 2 --batch_size 2",
}
SHORT_REPORTS = " --validate#inferer#max_new_tokens 8"


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def made_small(command: str) -> str | None:
    """The command with trainings made small; None for what only sets up an environment."""
    if command == ". .venv/bin/activate":
        return None
    parts = [part.strip() for part in command.split("&&")]
    if parts[0] == SET_UP[0]:
        assert parts[1] in (SET_UP[1], SET_UP[1].removesuffix(".") + "'.[dev]'"), command
        parts = parts[2:]
        command = parts[0].removeprefix(".venv/bin/")
    if command == "python -m pytest":
        return None  # these tests themselves
    if command.startswith("monai-u2 phantom"):
        return re.sub(r"--(train|test) \d+", r"--\1 6", command)
    if command.startswith("monai-u2 ablate"):
        command = re.sub(r" --(?:(?:reference|seeds|max_epochs|val_interval) \S+|ablations)", "", command)
        command += f" configs/ablations/dts.json --seeds 1 --max_epochs 1 {SMALL_TRAINING}{SHORT_REPORTS}"
        return command + " --phantom#num_test 2 --inferer#max_new_tokens 8"
    if command.startswith(("head ", "tail ")):
        return re.sub(r"-n (\+?)\d+", lambda match: f"-n {'+2' if match[1] else '1'}", command)
    if command.startswith("sed -n "):
        return re.sub(r"\d+,\d+p", "2,6p", command)
    # a model of two steps writes no report that could be preferred: the shipped one takes its place
    if "sft.json" not in command:
        command = re.sub(r" --(checkpoint|before) runs/sft/model.pt", "", command)
    for script, options in SMALL_BENCHMARKS.items():
        if script in command:
            return re.sub(r" --(num_\w+|steps|seeds) \d+", "", command) + " " + options
    if "evaluate.json" in command:
        return command + " --phantom#num_test 2 --num_samples 20"
    if command.startswith(("monai-u2 evaluate", "monai-u2 compare")):
        return command + " --num_samples 20"
    if "preferences.json" in command or "precompute_reference" in command:
        return command + " " + SMALL_TRAINING
    if "dpo.json" in command:
        return command + " --max_epochs 1 " + SMALL_TRAINING + SHORT_REPORTS
    if "sft.json" in command or "pretrain.json" in command or command.startswith("monai-u2 train"):
        command = re.sub(r"--max_epochs (?:[4-9]|\d\d+)\b", "--max_epochs 1", command)
        command += " " + SMALL_TRAINING + ("" if "pretrain.json" in command else SHORT_REPORTS)
        if "--max_epochs" not in command:
            command += " --max_epochs 1"
    return command


def program_of(command: str) -> list[str] | None:
    """What follows `python`, if that is all there is to a command; None for what needs a shell."""
    if "$" in command.replace("'$", "").replace('"$', "") or re.search(r"\s([|;<>*]|&&|\S*\*)", command):
        return None
    first, *words = shlex.split(command)
    return {"python": words, "monai-u2": ["-m", "monai_u2", *words]}.get(first)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_run(page: Path, tmp_path: Path) -> None:
    """In a copy of the bundle, so that nothing of the checkout is overwritten."""
    (tmp_path / "bundles").mkdir()
    subprocess.run(["cp", "-a", str(ROOT / "bundles" / "u2llm"), str(tmp_path / "bundles")], check=True)
    subprocess.run(
        ["rm", "-rf", str(tmp_path / "bundles/u2llm/data"), str(tmp_path / "bundles/u2llm/eval")], check=True
    )
    (tmp_path / "configs").symlink_to("bundles/u2llm/configs")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    # as in an activated environment: python and monai-u2 are those beside this interpreter
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path}
    for command in commands(page):
        small = made_small(command)
        if small is None:
            continue
        program = program_of(small)
        if program is None or page.name == "README.md":  # the two READMEs' as they stand, by the shell
            done = subprocess.run(small, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        else:
            done = run_python(program, tmp_path, environment)
        assert done.returncode == 0, f"{small}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_runs(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        exec(compile(block, str(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
            if heading:
                text = (page.parent / target if target else page).read_text()
                headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
                assert heading in {re.sub(r"[^\w -]", "", name).strip().lower().replace(" ", "-") for name in headings}


def test_record_example_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs" / "data.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "records.jsonl").write_text(block)
        assert load_records(tmp_path / "records.jsonl")[0]["question"] == json.loads(block)["question"]


def test_ci_installs_as_the_readme_does() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    assert "constraints.txt" in ci and "-m pytest" in ci and "set -e" in ci


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_null_is_given_as_monai_takes_it(page: Path) -> None:
    """`monai.bundle` leaves out what is None; '$None' is an expression that it evaluates."""
    assert re.findall(r"--[\w#]+ None\b", page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_placeholder_is_left(page: Path) -> None:
    assert re.findall(r"\b(?:TODO|TBD|FIXME|XXX|[A-Z]{7,}ARGS|RESULTS)\b", page.read_text()) == []
