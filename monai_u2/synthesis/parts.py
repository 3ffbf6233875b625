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

"""What each share of a synthesis wrote, and all of it together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_u2.data.records import write_records, write_text_atomically
from monai_u2.exceptions import InputError
from monai_u2.synthesis.datasets import dataset_records
from monai_u2.synthesis.language import LANGUAGE_NAMES
from monai_u2.synthesis.ledger import USAGE, Ledger, add_summaries
from monai_u2.synthesis.rules import REASONS
from monai_u2.synthesis.stage import Row, Stage
from monai_u2.synthesis.wording import knows_comparisons

DATASETS = {"questions": "vqa", "report_thinking": "report_thinking", "rewritten": "rewritten"}
DATASETS |= {"multiple_choice": "multiple_choice", "translated": "translated"}
"""Stream -> name of the file of its records."""


def write_part(
    output_dir: Path,
    shard: int,
    num_shards: int,
    stages: Sequence[Stage],
    ledgers: Sequence[Ledger],
    summaries: Mapping[str, Any],
) -> None:
    """Write the rows of one share; its `summary.json` comes last and says that all of it is there."""
    folder = _part(output_dir, shard, num_shards)
    (folder / "summary.json").unlink(missing_ok=True)
    for stage, ledger in zip(stages, ledgers):
        write_records(folder / f"{ledger.label}.jsonl", ({**row, **_origin(stage)} for row in ledger.kept))
    write_records(folder / "rejected.jsonl", _rejected(ledgers))
    write_records(folder / "failed.jsonl", _failed(ledgers))
    write_text_atomically(folder / "summary.json", json.dumps(summaries, indent=4) + "\n")


def merge_parts(
    output_dir: Path,
    num_shards: int,
    stages: Sequence[Stage],
    case_keys: Sequence[str],
    *,
    price: Callable[[float, float], float | None],
    keep_citations: bool,
) -> Path | None:
    """Write the rows of all shares together, in the order of the cases.

    Args:
        output_dir: folder of the run.
        num_shards: number of shares.
        stages: in their order.
        case_keys: of all reports, in their order.
        price: price of prompt and completion tokens.
        keep_citations: see :func:`~monai_u2.synthesis.datasets.dataset_records`.

    Returns:
        path of the summary, None while shares are missing.
    """
    folders = [_part(output_dir, shard, num_shards) for shard in range(num_shards)]
    if not all((folder / "summary.json").exists() for folder in folders):
        return None
    order = {key: place for place, key in enumerate(case_keys)}
    ranks = {stage.label: rank for rank, stage in enumerate(stages)}
    finished: dict[str, list[Row]] = {}
    for stage in stages:
        rows = sorted(_rows(folders, stage.label), key=lambda row: order[row["case_key"]])
        write_records(output_dir / "stages" / f"{stage.label}.jsonl", rows)
        finished[stage.writes] = rows
    for name in ("rejected", "failed"):
        rows = sorted(_rows(folders, name), key=lambda row: (ranks[row["stage"]], order[row["case_key"]]))
        write_records(output_dir / f"{name}.jsonl", rows)
    datasets = {}
    for stream, rows in finished.items():
        records = dataset_records(stream, rows, keep_citations=keep_citations)
        if records:
            write_records(output_dir / f"{DATASETS[stream]}.jsonl", records)
        datasets[DATASETS[stream]] = len(records)
    parts = [json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in folders]
    counts = {stage.label: add_summaries([part[stage.label] for part in parts]) for stage in stages}
    cost: dict[str, Any] = {name: sum(count[name] for count in counts.values()) for name in USAGE}
    cost["price"] = price(cost["prompt_tokens"], cost["completion_tokens"])
    summary = {
        "reports": len(case_keys),
        "records": datasets,
        "stages": counts,
        "cost": cost,
        "reasons": {
            reason: REASONS[reason] for reason in REASONS if any(reason in c["rejected"] for c in counts.values())
        },
        "not_checked": _not_checked(stages),
    }
    write_text_atomically(output_dir / "summary.json", json.dumps(summary, indent=4, ensure_ascii=False) + "\n")
    return output_dir / "summary.json"


def _not_checked(stages: Sequence[Stage]) -> list[str]:
    """Return the rules that don't exist for the languages asked for."""
    found = set()
    for stage in stages:
        if stage.language not in LANGUAGE_NAMES:
            found.add(f"whether a text is in the language {stage.language!r}")
        if not knows_comparisons(stage.language):
            found.add(f"comparisons, denials and sides in the language {stage.language!r}")
    return sorted(found)


def _part(output_dir: Path, shard: int, num_shards: int) -> Path:
    return output_dir / "parts" / f"{shard:05d}-of-{num_shards:05d}"


def _origin(stage: Stage) -> dict[str, str]:
    return {"stage": stage.label, "stream": stage.writes}


def _rejected(ledgers: Sequence[Ledger]) -> Iterator[Row]:
    for ledger in ledgers:
        for row, problem in ledger.rejected:
            yield {"stage": ledger.label, "reason": problem.reason, "detail": problem.detail, **_without_notes(row)}


def _failed(ledgers: Sequence[Ledger]) -> Iterator[Row]:
    for ledger in ledgers:
        for row, reason in ledger.failed:
            yield {"stage": ledger.label, "reason": "unanswered", "detail": reason, **_without_notes(row)}


def _without_notes(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "notes"}


def _rows(folders: Sequence[Path], name: str) -> Iterator[Row]:
    for folder in folders:
        path = folder / f"{name}.jsonl"
        try:
            with path.open(encoding="utf-8") as file:
                yield from (json.loads(line) for line in file)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: can't be read ({type(error).__name__}); run the share {folder.name} again."
            ) from error
