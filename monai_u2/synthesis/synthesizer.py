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

"""Runs the stages over the reports; resumable, and spread over processes."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_u2.chat_client import ChatAnswer, ChatClient
from monai_u2.data.fingerprint import fingerprint
from monai_u2.data.records import write_text_atomically
from monai_u2.data.shards import process_shard
from monai_u2.exceptions import InputError
from monai_u2.synthesis.answer_store import AnswerStore
from monai_u2.synthesis.estimate import count_tokens, total_estimate
from monai_u2.synthesis.ledger import Ledger
from monai_u2.synthesis.parts import merge_parts, write_part
from monai_u2.synthesis.rules import Problem
from monai_u2.synthesis.sources import Sources
from monai_u2.synthesis.stage import Outcome, Row, Stage

logger = logging.getLogger(__name__)


class Synthesizer:
    """Asks a chat server stage by stage, checks what it answers, and writes what is kept, rejected and failed.

    In `output_dir` are written: `stages/<stage>.jsonl`, the rows that each stage kept; `<stream>.jsonl`, the records to
    train on; `rejected.jsonl` and `failed.jsonl`, every other row with its stage and reason; `summary.json`, the
    counts and what the answers cost; `parts/`, the same for each share; `settings.json`, what all of it depends on.
    For each stage input + added = kept + rejected + failed, or the run stops.

    All answers are kept in `cache_dir` as they come, by the hash of their requests. A run that was broken off goes on
    where it stopped and ends in the same files; what was answered is never asked again. Rows that failed are asked
    again by the next run.

    **The reports leave this machine** for the client's server, and stand in what is written.

    Args:
        sources: rows by stream, see :func:`~monai_u2.synthesis.sources.load_sources`.
        stages: in the order in which they run.
        client: asks the server.
        output_dir: folder of what is written.
        cache_dir: folder of the answers, which several output folders may share; `output_dir/answers` by default.
        keep_citations: leave line numbers in the records to train on.
        shard: number of this process's share, or "3/16", see :func:`~monai_u2.data.shards.process_shard`.
        num_shards: number of shares.
        dry_run: send nothing; write `estimate.json`, what would be sent and about what it would cost.

    Raises:
        InputError: when a stage needs rows that neither the sources nor an earlier stage have, or shares don't fit.
    """

    def __init__(
        self,
        sources: Sources,
        stages: Sequence[Stage],
        client: ChatClient,
        output_dir: str | os.PathLike[str],
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        keep_citations: bool = False,
        shard: int | str | None = None,
        num_shards: int | None = None,
        dry_run: bool = False,
    ) -> None:
        self.stages = list(stages)
        self.client = client
        self.output_dir = Path(output_dir)
        self.cache_dir = self.output_dir / "answers" if cache_dir is None else Path(cache_dir)
        self.keep_citations = keep_citations
        self.dry_run = dry_run
        self.shard, self.num_shards = process_shard(shard, num_shards)
        self.case_keys = [row["case_key"] for row in sources["reports"]]
        _check_order(self.stages, sources)
        own = set(self.case_keys[self.shard :: self.num_shards])
        self.sources = {name: [row for row in rows if row["case_key"] in own] for name, rows in sources.items()}
        self.settings = {
            "model": client.model,
            "response_format": client.response_format,
            "options": client.options,
            "stages": [stage.settings for stage in self.stages],
            "sources": fingerprint({name: [row["row"] for row in rows] for name, rows in sources.items()}),
            "keep_citations": keep_citations,
        }

    def run(self) -> Path | None:
        """Run all stages over this process's share.

        Returns:
            the summary's path, with `dry_run` the estimate's; None while other shares aren't done.

        Raises:
            InputError: when `output_dir` holds rows of other settings, or the server is down (what was answered is
                kept).
        """
        store = AnswerStore(self.cache_dir, self.shard)
        if self.dry_run:
            return self._estimate(store)
        self.client.check_api_key()
        self._check_settings()
        streams: dict[str, list[Row]] = dict(self.sources)
        ledgers, summaries = [], {}
        for stage in self.stages:
            rows = _rows_of(stage, streams)
            ledger = self._run_stage(stage, rows, store)
            summaries[stage.label] = ledger.summary(len(rows))
            streams[stage.writes] = ledger.kept
            ledgers.append(ledger)
            logger.info("%s: %s", stage.label, summaries[stage.label])
        logger.info("this run: %s", self.client.cost)
        write_part(self.output_dir, self.shard, self.num_shards, self.stages, ledgers, summaries)
        return merge_parts(
            self.output_dir,
            self.num_shards,
            self.stages,
            self.case_keys,
            price=self.client.price,
            keep_citations=self.keep_citations,
        )

    def _check_settings(self) -> None:
        path = self.output_dir / "settings.json"
        if not path.exists():
            write_text_atomically(path, json.dumps(self.settings, indent=4, ensure_ascii=False) + "\n")
        found, own = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(self.settings))
        other = [name for name in own if found.get(name) != own[name]]
        if other:
            raise InputError(
                f"{self.output_dir}: its rows were made with other {other[0]} than asked for; expected the same. Give "
                "another output_dir (with the same cache_dir, equal requests are not sent again), or delete this one."
            )

    def _run_stage(self, stage: Stage, rows: list[Row], store: AnswerStore) -> Ledger:
        from tqdm import tqdm

        keys = [self._key(stage, row) for row in rows]
        failures: dict[str, str] = {}
        lock = threading.Lock()
        waiting = {key: row for key, row in zip(keys, rows) if key is not None and store.get(key) is None}
        with tqdm(
            total=len(rows), initial=len(rows) - len(waiting), desc=stage.label, disable=self.shard != 0
        ) as progress:

            def answered(key: str, answer: ChatAnswer) -> None:
                store.put(key, answer)
                with lock:
                    progress.update()

            def unanswered(key: str, reason: str) -> None:
                failures[key] = reason

            bodies = ((key, self._body(stage, row)) for key, row in waiting.items())
            was_up = len(waiting) < len({key for key in keys if key is not None})
            self.client.ask_all(bodies, answered, unanswered, was_up)
        if failures:
            # no more of the reason than its code: servers quote what they were sent
            code = next(iter(failures.values())).partition(":")[0]
            message = "%s: %d of %d requests got no answer (such as %s); their rows are in failed.jsonl"
            logger.warning(message, stage.label, len(failures), len(waiting), code)
        ledger, counted = Ledger(stage.label), set()
        for key, row in zip(keys, rows):
            answer = None if key is None else store.get(key)
            if key is None:
                ledger.take(Outcome(rejected=[(row, Problem("empty_report"))]))
            elif answer is None:
                ledger.fail(row, failures[key])
            else:
                ledger.take(stage.outcome(row, answer))
                if key not in counted:
                    ledger.count(answer)
                    counted.add(key)
        return ledger

    def _key(self, stage: Stage, row: Row) -> str | None:
        """Return the key of a row's request, None where the report is empty."""
        return fingerprint(self._body(stage, row)) if any(map(str.isalnum, row["report"])) else None

    def _body(self, stage: Stage, row: Row) -> dict[str, Any]:
        messages = stage.messages(row, with_schema=self.client.response_format != "json_schema")
        return self.client.request_body(messages, stage.schema(row), stage.name)

    def _estimate(self, store: AnswerStore) -> Path:
        streams: dict[str, list[Row]] = dict(self.sources)
        stages: dict[str, dict[str, int]] = {}
        for stage in self.stages:
            made: list[Row] = []
            count = dict.fromkeys(("requests", "answered_before", "prompt_tokens", "completion_tokens"), 0)
            for row in _rows_of(stage, streams):
                key = self._key(stage, row)
                answer = None if key is None else store.get(key)
                if answer is not None:
                    count["answered_before"] += 1
                    made += stage.outcome(row, answer).kept
                elif key is not None:
                    rows, text = stage.placeholder(row)
                    made += rows
                    count["requests"] += 1
                    count["prompt_tokens"] += count_tokens("".join(_texts_of(self._body(stage, row))))
                    count["completion_tokens"] += count_tokens(text)
            stages[stage.label] = count
            streams[stage.writes] = made
        estimate = total_estimate(stages, self.client)
        name = "estimate.json" if self.num_shards == 1 else f"estimate-{self.shard:05d}-of-{self.num_shards:05d}.json"
        path = self.output_dir / name
        write_text_atomically(path, json.dumps(estimate, indent=4) + "\n")
        logger.info("nothing was sent; to come at most: %s", estimate["total"])
        return path


def _texts_of(body: Mapping[str, Any]) -> Iterator[str]:
    for message in body["messages"]:
        yield message["content"]
    yield json.dumps(body.get("response_format", ""))


def _rows_of(stage: Stage, streams: Mapping[str, list[Row]]) -> list[Row]:
    """Return the rows that a stage reads; the thinking of reports gets the questions about them as notes."""
    rows = streams[stage.reads]
    if stage.writes != "report_thinking" or stage.reads != "reports":
        return rows
    notes: dict[str, list[Row]] = {}
    for row in streams.get("questions", []):
        if "thinking" in row:
            note = {name: row[name] for name in ("question", "thinking", "answer")}
            notes.setdefault(row["case_key"], []).append(note)
    return [{**row, "notes": notes.get(row["case_key"], [])} for row in rows]


def _check_order(stages: Sequence[Stage], sources: Sources) -> None:
    keys = {name: set(rows[0]) if rows else set() for name, rows in sources.items()}
    for stage in stages:
        missing = set(stage.needs) - keys.get(stage.reads, set())
        if stage.reads not in keys or missing:
            what = f"rows with {', '.join(sorted(missing))}" if stage.reads in keys else f"the rows {stage.reads!r}"
            raise InputError(
                f"stage {stage.label} needs {what}, which neither the records nor an earlier stage have. Put the stage "
                "that makes them before it, or give the file that it wrote as records."
            )
        keys[stage.writes] = keys.get(stage.writes, set()) | keys[stage.reads] | set(stage.gives)
