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

"""Preference pairs: sample, judge, rank, pair; resumable, and spread over processes."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset, Subset

from monai_u2.data.collate import collate_reports
from monai_u2.data.journal import Journal, check_settings
from monai_u2.data.records import write_records, write_text_atomically
from monai_u2.data.shards import process_shard
from monai_u2.exceptions import InputError
from monai_u2.judges.base import FindingErrors, Judge
from monai_u2.networks.checkpoints import file_sha256
from monai_u2.preferences.filtering import SampleFilter
from monai_u2.preferences.pairs import PairRule
from monai_u2.preferences.sampling import ReportSampler
from monai_u2.preferences.summary import SummaryCounts, plot_summary

logger = logging.getLogger(__name__)

_JUDGED_AT_ONCE = 16  # cases; enough for a judge that answers several requests at once

Judgements = dict[str, dict[int, FindingErrors]]  # case_key -> place of the sample -> judgement


class PreferenceBuilder:
    """Makes preference pairs of cases: k reports are sampled of each, judged against its reference, ranked and paired.

    In `output_dir` are written: `samples-*.jsonl` and `judgements-*.jsonl`, one file a process, as the work goes on;
    `settings.json`, what the samples depend on; and at the end `pairs.jsonl`, `summary.json` and `summary.png`. A run
    that was broken off goes on where it stopped: no case is sampled, and no sample judged, twice. Another filter, rule
    or judge makes new pairs of the same samples.

    A pair has the keys of its record and `case_key`, `chosen`, `rejected`, `chosen_score`, `rejected_score`, `judge`
    (name and version) and `model_sha256`, of the file that the samples come from. Its `image` is an absolute path.

    With several processes each one takes its share of the cases, without talking to the others; the one that is done
    last writes the pairs of all.

    Args:
        cases: records with a `case_key`, see :func:`select_cases`.
        dataset: the cases in the same order, preprocessed, as :func:`monai_u2.data.collate_reports` takes them.
        sampler: samples the reports of a case.
        judge: any judge of :mod:`monai_u2.judges`.
        output_dir: folder of what is written.
        model_file: file of the policy's weights.
        sample_filter: says which samples are dropped.
        rule: pairs the others.
        preprocessing: values of the preprocessing, plain JSON types, to tell runs apart.
        num_workers: processes that load and preprocess cases; 0 for none.
        shard: number of this process's share, see :func:`process_shard`; case i is in share `i % num_shards`.
        num_shards: number of shares.
        retry_failed: judge the samples again whose judgement has the status "failed".

    Raises:
        InputError: when shares don't fit or the model's file isn't there.
        ValueError: when cases and dataset differ in their length.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        dataset: Dataset,
        sampler: ReportSampler,
        judge: Judge,
        output_dir: str | os.PathLike[str],
        model_file: str | os.PathLike[str],
        *,
        sample_filter: SampleFilter | None = None,
        rule: PairRule | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        num_workers: int = 0,
        shard: int | str | None = None,
        num_shards: int | None = None,
        retry_failed: bool = False,
    ) -> None:
        if len(cases) != len(dataset):
            raise ValueError(f"{len(cases)} cases and a dataset of {len(dataset)}; expected as many.")
        self.cases = {case["case_key"]: case for case in cases}
        self.dataset = dataset
        self.sampler = sampler
        self.judge = judge
        self.output_dir = Path(output_dir)
        self.model_file = Path(model_file)
        self.sample_filter = sample_filter or SampleFilter()
        self.rule = rule or PairRule()
        self.num_workers = num_workers
        self.retry_failed = retry_failed
        self.shard, self.num_shards = process_shard(shard, num_shards)
        self.settings = {
            "model_sha256": file_sha256(model_file),
            "sampling": dict(sampler.settings),
            "preprocessing": dict(preprocessing or {}),
        }

    @property
    def _judge_label(self) -> str:
        return f"{self.judge.name} {self.judge.version}"

    def run(self) -> Path | None:
        """Sample, judge and pair this process's share of the cases.

        Returns:
            path of the pairs; None while other shares aren't done.

        Raises:
            InputError: when the judge's scores would say nothing of the cases, see :meth:`Judge.reason_not_to_judge`;
                when `output_dir` holds samples of other settings, the judge can't be reached (what is done is
                kept), or no case gives a pair.
        """
        if reason := self.judge.reason_not_to_judge([case["answer"] for case in self.cases.values()]):
            raise InputError(f"{reason}.")
        check_settings(self.output_dir, self.settings, "samples")
        own = list(self.cases)[self.shard :: self.num_shards]
        samples = Journal(self.output_dir, "samples", self.shard)
        judgements = Journal(self.output_dir, "judgements", self.shard)
        self._sample(own, samples)
        self._judge(set(own), samples, judgements)
        return self._merge(samples, judgements)

    def _sample(self, own: list[str], journal: Journal) -> None:
        from monai.data import DataLoader
        from tqdm import tqdm

        done = {entry["case_key"] for entry in journal.entries()}
        places = {key: place for place, key in enumerate(self.cases)}
        keys = [key for key in own if key not in done]
        subset = Subset(self.dataset, [places[key] for key in keys])
        loader = DataLoader(subset, batch_size=1, num_workers=self.num_workers, collate_fn=collate_reports)
        progress = tqdm(loader, desc="samples", unit="case", disable=self.shard != 0)
        for batch, key in zip(progress, keys):
            journal.append({"case_key": key, "samples": self.sampler(batch, key)})

    def _judge(self, own: set[str], samples: Journal, journal: Journal) -> None:
        from tqdm import tqdm

        judged = self._judgements(journal)
        chunk: list[tuple[str, dict[int, str]]] = []
        with tqdm(total=len(own), desc="judged", unit="case", disable=self.shard != 0) as progress:
            for key, texts in self._kept(samples):
                if key not in own:
                    continue
                waiting = {place: text for place, text in texts.items() if not self._is_judged(judged, key, place)}
                if waiting:
                    chunk.append((key, waiting))
                if len(chunk) == _JUDGED_AT_ONCE:
                    self._judge_chunk(chunk, journal)
                    chunk = []
                progress.update()
            self._judge_chunk(chunk, journal)
        if self.judge.cost:
            logger.info("%s: %s", self._judge_label, self.judge.cost)

    def _is_judged(self, judged: Judgements, key: str, place: int) -> bool:
        errors = judged.get(key, {}).get(place)
        return errors is not None and not (self.retry_failed and errors.status == "failed")

    def _judge_chunk(self, chunk: list[tuple[str, dict[int, str]]], journal: Journal) -> None:
        candidates = [text for _, texts in chunk for text in texts.values()]
        references = [self.cases[key]["answer"] for key, texts in chunk for _ in texts]
        results = iter(self.judge.batch(references, candidates))
        for key, texts in chunk:
            entries = [{"sample": place, **dataclasses.asdict(next(results))} for place in texts]
            journal.append({"case_key": key, "judge": self._judge_label, "judgements": entries})

    def _judgements(self, journal: Journal) -> Judgements:
        """Return what this judge has judged so far; a later judgement replaces an earlier one."""
        judged: Judgements = {}
        for entry in journal.entries():
            if entry["judge"] == self._judge_label:
                for judgement in entry["judgements"]:
                    place = judgement.pop("sample")
                    judged.setdefault(entry["case_key"], {})[place] = FindingErrors(**judgement)
        return judged

    def _kept(self, journal: Journal) -> Iterator[tuple[str, dict[int, str]]]:
        """Yield each sampled case with the texts that aren't dropped, by their place."""
        for key, samples, reasons in self._sampled(journal):
            yield key, {place: s["text"] for place, s in enumerate(samples) if reasons[place] is None}

    def _sampled(self, journal: Journal) -> Iterator[tuple[str, list[dict[str, Any]], list[str | None]]]:
        seen = set()
        for entry in journal.entries():
            key = entry["case_key"]
            if key in self.cases and key not in seen:
                seen.add(key)
                yield key, entry["samples"], self.sample_filter(entry["samples"])

    def _merge(self, samples: Journal, judgements: Journal) -> Path | None:
        judged = self._judgements(judgements)
        counts = SummaryCounts()
        pairs: dict[str, list[dict[str, Any]]] = {}
        for key, reports, reasons in self._sampled(samples):
            kept = [place for place, reason in enumerate(reasons) if reason is None]
            results = judged.get(key, {})
            if all(place in results for place in kept):
                scores = self._count(key, reports, reasons, {place: results[place] for place in kept}, counts)
                pairs[key] = self._pair(key, reports, scores, counts)
        left = len(self.cases) - len(pairs)
        if left:
            logger.info("share %d of %d is done; %d cases of others are not", self.shard, self.num_shards, left)
            return None
        path = self.output_dir / "pairs.jsonl"
        write_records(path, [pair for key in self.cases for pair in pairs[key]])
        order = {key: place for place, key in enumerate(self.cases)}
        counts.failures.sort(key=lambda failure: (order[failure["case_key"]], failure["sample"]))
        self._write_summary(counts)
        if not any(pairs.values()):
            told = ", ".join(f"{reason} {number}" for reason, number in counts.cases_without_pairs.items())
            scores = self.output_dir / "summary.json"
            raise InputError(
                f"none of the {len(pairs)} cases gives a preference pair: {told}. The scores are in {scores}. "
                "Lower min_margin or min_best_score, take more samples or a better model."
            )
        logger.info("%d pairs of %d cases in %s", sum(map(len, pairs.values())), len(pairs), path)
        return path

    def _count(
        self,
        key: str,
        samples: list[dict[str, Any]],
        reasons: list[str | None],
        results: dict[int, FindingErrors],
        counts: SummaryCounts,
    ) -> dict[int, float | None]:
        """Count a case's samples, and return the scores of those that were judged."""
        counts.samples += len(samples)
        counts.dropped.update(reason for reason in reasons if reason is not None)
        scores = {place: errors.score for place, errors in results.items()}
        given = [score for score in scores.values() if score is not None]
        counts.scores += given
        counts.spreads += [max(given) - min(given)] if len(given) > 1 else []
        counts.failures += [
            {
                "image": Path(self.cases[key]["image"]).name,
                "case_key": key,
                "sample": place,
                "status": errors.status,
                "explanation": errors.explanation,
            }
            for place, errors in results.items()
            if errors.status != "ok"
        ]
        return scores

    def _pair(
        self, key: str, samples: list[dict[str, Any]], scores: dict[int, float | None], counts: SummaryCounts
    ) -> list[dict[str, Any]]:
        """Return a case's pairs, counted."""
        places, reason = self.rule(scores)
        if reason is None:
            counts.cases_with_pairs += 1
        else:
            counts.cases_without_pairs[reason] += 1
        pairs = []
        for best, worst in places:
            counts.margins.append(scores[best] - scores[worst])
            counts.tokens.append((samples[best]["tokens"], samples[worst]["tokens"]))
            pairs.append(
                {
                    **self.cases[key],
                    "chosen": samples[best]["text"],
                    "rejected": samples[worst]["text"],
                    "chosen_score": scores[best],
                    "rejected_score": scores[worst],
                    "judge": self._judge_label,
                    "model_sha256": self.settings["model_sha256"],
                }
            )
        return pairs

    def _write_summary(self, counts: SummaryCounts) -> None:
        summary = {
            "judge": self._judge_label,
            "model": {"file": self.model_file.name, "sha256": self.settings["model_sha256"]},
            "sampling": self.settings["sampling"],
            "rule": dataclasses.asdict(self.rule),
            **counts.to_summary(),
        }
        write_text_atomically(
            self.output_dir / "summary.json", json.dumps(summary, indent=4, ensure_ascii=False) + "\n"
        )
        plot_summary(summary, self.output_dir / "summary.png")
