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

"""``monai-u2 data``: records of downloaded data sets, checked, described and split."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_u2.commands.command import Command, check_whole_number, check_writable
from monai_u2.exceptions import InputError

__all__ = ["data_commands"]

FOUND = 1  # exit code of a check that found something


def prepare(name: str, source: str, output: str, shard: str | None = None, **options: Any) -> Command:
    """Make records of a data set as it was downloaded.

    Args:
        name: which data set, such as ct_rate.
        source: its folder.
        output: folder for the records; made if it isn't there.
        shard: the share of the cases to prepare, such as 3/16.
        options: what the data set's reader can be told, such as --version v1.
    """
    if {"h", "help"} & options.keys():  # fire takes it for one of the options
        import fire

        fire.Fire(prepare, command=["--", "--help"], name="monai-u2 data prepare")
    return Command(_prepare, **locals())


def check(
    records: str,
    output: str | None = None,
    workers: int | None = None,
    shard: str | None = None,
    language: str = "en",
    min_words: int = 5,
    max_words: int = 1000,
    allow: str | None = None,
) -> Command:
    """Check every record and read every image once: exit code 0 when all is well, 1 when something was found.

    Args:
        records: a JSON Lines file of records.
        output: JSON file for what was found and measured.
        workers: number of processes that read images; by default one per core.
        shard: the share of the images to read, such as 3/16; join the files of all shards with data join.
        language: what the answers should be in, such as en, de, zh; any for any.
        min_words: fewest words of a report.
        max_words: most words of an answer.
        allow: findings that don't count, separated by commas; they are listed nevertheless.
    """
    return Command(_check, **locals())


def join(*checks: str, output: str | None = None, allow: str | None = None) -> Command:
    """Join the JSON files that data check wrote of all shards; the exit code is that of a check of everything.

    Args:
        checks: the files.
        output: JSON file for what they hold together.
        allow: findings that don't count, separated by commas; they are listed nevertheless.
    """
    return Command(_join, **locals())


def stats(records: str, output: str, workers: int | None = None) -> Command:
    """Count what records hold: stats.json and stats.png.

    Args:
        records: a JSON Lines file of records.
        output: folder for the two files; made if it isn't there.
        workers: number of processes that read images; by default one per core.
    """
    return Command(_stats, **locals())


def split(
    records: str, output: str, validation: float = 0.1, test: float = 0.1, seed: int = 17, by: str | None = None
) -> Command:
    """Split records into train.jsonl, validation.jsonl and test.jsonl, no patient in two of them.

    Args:
        records: a JSON Lines file of records.
        output: folder for the three files; made if it isn't there.
        validation: share of the patients (of the images where no patients are known).
        test: the same for the test.
        seed: seed of the draw.
        by: a key of the records; those with the same value stay together too.
    """
    return Command(_split, **locals())


def data_commands() -> dict[str, Callable[..., Command]]:
    """Return the commands of the group, for fire."""
    from fire.decorators import SetParseFns

    # without a parse function, fire would make numbers of "1.2" and lists of "[a]"
    return {
        "prepare": SetParseFns(name=str, source=str, output=str, shard=str)(prepare),
        "check": SetParseFns(records=str, output=str, shard=str, language=str, allow=str)(check),
        "join": SetParseFns(str, output=str, allow=str)(join),
        "stats": SetParseFns(records=str, output=str)(stats),
        "split": SetParseFns(records=str, output=str, by=str)(split),
    }


def _prepare(name: str, source: str, output: str, shard: str | None, options: dict[str, Any]) -> None:
    folder = Path(source).expanduser()
    if not folder.exists():
        raise InputError(f"{folder}: no such folder; expected the data set {name} as it was downloaded.")
    check_writable(Path(output).expanduser())
    import monai_u2.data

    summary = monai_u2.data.prepare_dataset(name, folder, Path(output).expanduser(), shard=shard, **options)
    lines = [
        f"{split}: {number} records of {summary['cases'].get(split, 0)} cases"
        for split, number in summary["records"].items()
    ]
    lines += [
        f"{split}: {number} cases dropped, {reason}"
        for split, reasons in summary["dropped"].items()
        for reason, number in reasons.items()
    ]
    lines += [*summary["notes"], f"written to {output}"]
    sys.stdout.write("\n".join(lines) + "\n")


def _check(
    records: str,
    output: str | None,
    workers: int | None,
    shard: str | None,
    language: str,
    min_words: int,
    max_words: int,
    allow: str | None,
) -> int:
    for name, number, lowest in (("min_words", min_words, 0), ("max_words", max_words, 1)):
        check_whole_number(name, number, lowest)
    workers = _workers(workers)
    allowed, file = _allowed(allow), _file(output)
    from monai_u2.data.check import check_records

    found = check_records(
        Path(records).expanduser(),
        workers=workers,
        shard=shard,
        language=None if language == "any" else language,
        min_words=min_words,
        max_words=max_words,
        progress=True,
    )
    return _show(found, file, allowed)


def _join(checks: tuple[str, ...], output: str | None, allow: str | None) -> int:
    allowed, file = _allowed(allow), _file(output)
    from monai_u2.data.check import join_checks

    return _show(join_checks([_read_check(Path(name).expanduser()) for name in checks]), file, allowed)


def _stats(records: str, output: str, workers: int | None) -> None:
    folder = Path(output).expanduser()
    check_writable(folder)
    workers = _workers(workers)
    from monai_u2.data.records import write_text_atomically
    from monai_u2.data.statistics import plot_statistics, record_statistics

    counted = record_statistics(Path(records).expanduser(), workers=workers, progress=True)
    write_text_atomically(folder / "stats.json", json.dumps(counted, indent=1, ensure_ascii=False) + "\n")
    plot_statistics(counted, folder / "stats.png")
    lines = [f"{counted['num_records']} records of {counted['num_images']} images"]
    lines[0] += f" of {counted['num_patients']} patients" if counted["num_patients"] else ""
    lines += [f"{kind}: {number}" for kind, number in counted["kinds"].items()]
    if counted["unreadable"]:
        lines.append(f"{len(counted['unreadable'])} images can't be read; stats.json names them with the reasons")
    lines.append(f"written to {folder}: stats.json, stats.png")
    sys.stdout.write("\n".join(lines) + "\n")


def _split(records: str, output: str, validation: float, test: float, seed: int, by: str | None) -> None:
    for name, share in (("validation", validation), ("test", test)):
        if not isinstance(share, (int, float)) or isinstance(share, bool):
            raise InputError(f"--{name} is {share!r}; expected a share such as 0.1.")
    check_whole_number("seed", seed, 0)
    folder = Path(output).expanduser()
    check_writable(folder)
    from monai_u2.data.split import split_records

    counts = split_records(Path(records).expanduser(), folder, validation=validation, test=test, seed=seed, by=by)
    for name, numbers in counts.items():
        sys.stdout.write(
            f"{folder / name}.jsonl: {numbers['records']} records, {numbers['images']} images, "
            f"{numbers['groups']} groups\n"
        )


def _workers(number: int | None) -> int:
    if number is not None:
        check_whole_number("workers", number, 1)
    return number or os.cpu_count() or 1


def _allowed(names: str | None) -> list[str]:
    from monai_u2.data.check import FINDINGS

    allowed = [name.strip() for name in names.split(",")] if names else []
    for name in allowed:
        if name not in FINDINGS:
            raise InputError(f"--allow {name}: no such finding; expected some of {', '.join(FINDINGS)}.")
    return allowed


def _file(output: str | None) -> Path | None:
    """Return the file to write, or refuse it before the work is done."""
    if output is None:
        return None
    file = Path(output).expanduser()
    if file.is_dir():
        raise InputError(f"{file}: is a folder; expected a JSON file for --output, such as {file / 'check.json'}.")
    check_writable(file.parent)
    return file


def _read_check(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: can't be read ({error}); expected what data check --output wrote.") from error
    if not isinstance(found, dict) or not {"records_sha256", "shard", "settings", "findings", "images"} <= found.keys():
        raise InputError(f"{file}: isn't a check; expected what data check --output wrote.")
    return found


def _show(found: dict[str, Any], file: Path | None, allowed: list[str]) -> int:
    from monai_u2.data.check import format_check
    from monai_u2.data.records import write_text_atomically

    sys.stdout.write(format_check(found, allowed) + "\n")
    if file is not None:
        write_text_atomically(file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return FOUND if found["counts"].keys() - set(allowed) else 0
