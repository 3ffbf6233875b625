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

"""``monai-u2 ablate``: configs and seeds trained and evaluated at equal budget, in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from monai_u2.commands.command import Command, check_whole_number, check_writable, find_bundle
from monai_u2.exceptions import InputError

__all__ = ["ablate_command"]

FAILED = 1  # exit code when a run failed


def ablate(
    *configs: str,
    output: str | None = None,
    seeds: int = 2,
    ablations: bool = False,
    base: str | None = None,
    evaluate: str | None = None,
    reference: str | None = None,
    metrics: str = "micro_f1,green,rougeL,distinct",
    **overrides: Any,
) -> Command:
    """Train and evaluate configs with several seeds at equal budget; one table: exit code 1 when a run failed.

    The same command goes on where it was broken off.

    Args:
        configs: config files, each of which says what it changes of the base.
        output: folder for runs and table; made if it isn't there.
        seeds: number of seeds, from 0 on.
        ablations: compare the files of the bundle's configs/ablations, too.
        base: config of the training, or several separated by commas; by default configs/sft.json of bundles/u2llm.
        evaluate: config of the evaluation, or several; by default evaluate.json beside the base.
        reference: which config the others are compared with, the name of its file; by default the first one.
        metrics: numbers of the table, separated by commas.
        overrides: values for ids of the configs, such as --max_epochs 3; the evaluation gets those that it has.
    """
    if {"h", "help"} & overrides.keys():  # fire takes it for one of the overrides
        import fire

        fire.Fire(ablate, command=["--", "--help"], name="monai-u2 ablate")
    return Command(_ablate, **locals())


def ablate_command() -> Any:
    """Return the command, for fire."""
    from fire.decorators import SetParseFns

    # without a parse function, fire would make a tuple of names with a comma
    return SetParseFns(output=str, base=str, evaluate=str, reference=str, metrics=str)(ablate)


def _ablate(
    configs: tuple[Any, ...],
    output: str | None,
    seeds: int,
    ablations: bool,
    base: str | None,
    evaluate: str | None,
    reference: str | None,
    metrics: str,
    overrides: dict[str, Any],
) -> int:
    check_whole_number("seeds", seeds, 1)
    if not isinstance(ablations, bool):
        raise InputError(f"--ablations is {ablations!r}; expected no value. Name the configs before it.")
    if output is None:
        raise InputError("no --output; expected a folder for runs and table. Give one with --output DIR.")
    folder = Path(output).expanduser()
    check_writable(folder)
    bases = _files(base) or [find_bundle(None, "configs/sft.json") / "configs" / "sft.json"]
    evaluations = _files(evaluate) or [bases[0].parent / "evaluate.json"]
    files = [Path(str(name)).expanduser().resolve() for name in configs]
    files += sorted((bases[0].parent / "ablations").glob("*.json")) if ablations else []

    from monai_u2.evaluation.ablation import Ablation, check_ablation, named_configs, run_ablation

    named = named_configs(files)
    if reference is not None and reference not in named:
        raise InputError(f"--reference {reference}: no such config; expected one of {', '.join(named)}.")
    ablation = Ablation(named, bases, evaluations, folder, seeds, overrides)
    check_ablation(ablation)
    runs = run_ablation(ablation, _show)
    failed = [run for run in runs if run.failure]

    if len(failed) < len(runs):
        from monai_u2.evaluation.ablation_table import markdown_table, table_of, write_table

        table = table_of(ablation, runs, [name.strip() for name in metrics.split(",")], reference)
        write_table(table, folder)
        _show(f"\n{markdown_table(table)}\nwritten to {folder}: table.md, table.json, table.csv")
    if failed:
        _show("failed: " + "; ".join(f"{run.name}, seed {run.seed}" for run in failed))
    return FAILED if failed else 0


def _files(names: str | None) -> list[Path]:
    return [Path(name.strip()).expanduser().resolve() for name in names.split(",")] if names else []


def _show(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
