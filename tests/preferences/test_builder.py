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

import hashlib
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_u2.data import load_records, write_records
from monai_u2.exceptions import InputError
from monai_u2.judges import FindingErrors, FindingsJudge, Judge
from monai_u2.preferences import PairRule, PreferenceBuilder, SampleFilter, select_cases

NUM_CASES = 7


class NumberedCases(torch.utils.data.Dataset):
    """Case i is an image of i."""

    def __len__(self) -> int:
        return NUM_CASES

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.full((1, 2, 2, 2), float(index)), "question": "What is seen?"}


class NumberedSamples:
    """Samples "case i: 0" to "case i: 4": one is twice there, one is cut off, and breaks off where it is told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.settings = {"num_samples": 5, "seed": 3}
        self.sampled: Counter[str] = Counter()
        self.stop_at = stop_at

    def __call__(self, batch: dict[str, Any], case_key: str) -> list[dict[str, Any]]:
        if len(self.sampled) == self.stop_at:
            raise RuntimeError("out of memory")
        self.sampled[case_key] += 1
        case = int(batch["image"].flatten()[0])
        samples = [{"text": f"case {case}: {number}", "whole": True, "tokens": number + 1} for number in range(4)]
        return [*samples, {**samples[1]}, {"text": f"case {case}: 9", "whole": False, "tokens": 9}]


class NumberJudge(Judge):
    """Sample n of an even case has n matched findings of 3; on odd cases all are alike. Fails where it is told."""

    name = "numbers"

    def __init__(self, stop_at: int | None = None, failing: tuple[str, ...] = (), version: str = "1") -> None:
        self.version = version
        self.judged: Counter[str] = Counter()
        self.stop_at = stop_at
        self.failing = failing

    def _judge(self, pairs: list[tuple[str, str]]) -> list[FindingErrors]:
        return [self._one(reference, candidate) for reference, candidate in pairs]

    def _one(self, reference: str, candidate: str) -> FindingErrors:
        case, number = (int(part) for part in candidate.removeprefix("case ").split(": "))
        assert reference == f"reference {case}"
        if sum(self.judged.values()) == self.stop_at:
            raise InputError("the judge is down")
        self.judged[candidate] += 1
        if candidate in self.failing:
            return FindingErrors(status="failed", explanation="refused")
        matched = number if case % 2 == 0 else 2
        return FindingErrors(matched=matched, missing_finding=3 - matched)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    rows = [
        {"image": f"{case}.nii.gz", "question": "What is seen?", "answer": f"reference {case}", "mine": case}
        for case in range(NUM_CASES)
    ]
    write_records(tmp_path / "data" / "train.jsonl", rows)
    (tmp_path / "model.pt").write_bytes(b"weights")
    return tmp_path / "data" / "train.jsonl"


def builder_of(records: Path, output: str = "out", **options: Any) -> PreferenceBuilder:
    arguments = {"sampler": NumberedSamples(), "judge": NumberJudge(), **options}
    folder = records.parents[1]
    return PreferenceBuilder(
        select_cases(records),
        NumberedCases(),
        output_dir=folder / output,
        model_file=folder / "model.pt",
        **arguments,
    )


@pytest.fixture
def expected(records: Path) -> str:
    return builder_of(records, "uninterrupted").run().read_text()


def test_pairs_have_the_record_and_what_they_come_from(records: Path) -> None:
    path = builder_of(records).run()
    pairs = load_records(path)
    assert [pair["mine"] for pair in pairs] == [0, 2, 4, 6]
    assert pairs[1] == {
        "image": str(records.parent / "2.nii.gz"),
        "question": "What is seen?",
        "answer": "reference 2",
        "mine": 2,
        "case_key": select_cases(records)[2]["case_key"],
        "chosen": "case 2: 3",
        "rejected": "case 2: 0",
        "chosen_score": 1.0,
        "rejected_score": 0.0,
        "judge": "numbers 1",
        "model_sha256": hashlib.sha256(b"weights").hexdigest(),
    }


def test_summary(records: Path) -> None:
    folder = builder_of(records, judge=NumberJudge(failing=("case 2: 1", "case 0: 3"))).run().parent
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["cases"], summary["cases_with_pairs"], summary["pairs"]) == (7, 4, 4)
    assert summary["cases_without_pairs"]["small_margin"] == 3
    assert summary["samples"] == 42
    assert summary["dropped_samples"] == {"empty": 0, "cut_off": 7, "repetition": 0, "near_duplicate": 7}
    assert summary["scores"]["count"] == 26 and summary["margins"]["count"] == 4
    assert summary["failed_judgements"] == {"truncated": 0, "unparsable": 0, "failed": 2}
    named = [(failure["image"], failure["sample"], failure["explanation"]) for failure in summary["failures"]]
    assert named == [("0.nii.gz", 3, "refused"), ("2.nii.gz", 1, "refused")]
    assert summary["judge"] == "numbers 1" and summary["sampling"]["seed"] == 3
    assert (folder / "summary.png").is_file()
    pairs = load_records(folder / "pairs.jsonl")
    assert pairs[0]["chosen"] == "case 0: 2"  # what failed isn't the worst


@pytest.mark.parametrize("stop_at", range(0, NUM_CASES, 2))
def test_a_sampling_that_breaks_off_goes_on(records: Path, expected: str, stop_at: int) -> None:
    first, second = NumberedSamples(stop_at), NumberedSamples()
    with pytest.raises(RuntimeError, match="out of memory"):
        builder_of(records, sampler=first).run()
    path = builder_of(records, sampler=second).run()
    assert path.read_text() == expected
    assert set((first.sampled + second.sampled).values()) == {1}


@pytest.mark.parametrize("stop_at", [0, 5, 17])
def test_a_judge_that_is_down_loses_nothing(
    records: Path, expected: str, stop_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monai_u2.preferences.builder._JUDGED_AT_ONCE", 2)
    first, second = NumberJudge(stop_at), NumberJudge()
    sampler = NumberedSamples()
    with pytest.raises(InputError, match="the judge is down"):
        builder_of(records, sampler=sampler, judge=first).run()
    assert not (records.parents[1] / "out" / "pairs.jsonl").exists()
    path = builder_of(records, sampler=sampler, judge=second).run()
    assert path.read_text() == expected
    assert set(sampler.sampled.values()) == {1}
    assert sum(second.judged.values()) == 28 - stop_at // 8 * 8  # whole chunks of two cases of four samples
    third = NumberJudge()
    assert builder_of(records, judge=third).run().read_text() == expected
    assert not third.judged


@pytest.mark.parametrize("name", ["samples", "judgements"])
def test_a_line_broken_off_by_a_kill_is_done_again(
    records: Path, expected: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = builder_of(records).run()
    path.unlink()
    journal = path.parent / f"{name}-00000.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    sampler, judge = NumberedSamples(), NumberJudge()
    with caplog.at_level(logging.WARNING):
        assert builder_of(records, sampler=sampler, judge=judge).run().read_text() == expected
    assert "was broken off" in caplog.text
    assert sum(sampler.sampled.values()) == (name == "samples")
    assert sum(judge.judged.values()) == 4 * (name == "judgements")


@pytest.mark.parametrize("shards", [2, 3])
def test_shares_make_the_same_pairs(records: Path, expected: str, shards: int) -> None:
    samplers = [NumberedSamples() for _ in range(shards)]
    paths = [
        builder_of(records, sampler=sampler, shard=shard, num_shards=shards).run()
        for shard, sampler in enumerate(samplers)
    ]
    assert paths[:-1] == [None] * (shards - 1)
    assert paths[-1].read_text() == expected
    assert sum((sampler.sampled for sampler in samplers), Counter()) == Counter(
        {case["case_key"]: 1 for case in select_cases(records)}
    )
    summaries = [json.loads((records.parents[1] / o / "summary.json").read_text()) for o in ("out", "uninterrupted")]
    assert summaries[0] == summaries[1]


def test_another_number_of_shares_goes_on(records: Path, expected: str) -> None:
    samplers = [NumberedSamples(), NumberedSamples()]
    assert builder_of(records, sampler=samplers[0], shard=1, num_shards=2).run() is None
    assert builder_of(records, sampler=samplers[1]).run().read_text() == expected
    assert [len(sampler.sampled) for sampler in samplers] == [3, 4]


def test_another_rule_filter_or_judge_takes_the_same_samples(records: Path) -> None:
    builder_of(records).run()
    sampler, judge = NumberedSamples(), NumberJudge()
    rule = PairRule(max_pairs_per_case=2)
    path = builder_of(records, sampler=sampler, judge=judge, rule=rule).run()
    assert len(load_records(path)) == 8 and not sampler.sampled and not judge.judged
    alike = SampleFilter(similarity_threshold=0.5)
    with pytest.raises(InputError, match="none of the 7 cases gives a preference pair: too_few_samples 7"):
        builder_of(records, sampler=sampler, judge=judge, sample_filter=alike).run()
    other = NumberJudge(version="2")
    path = builder_of(records, sampler=sampler, judge=other).run()
    assert sum(other.judged.values()) == 28 and not sampler.sampled
    assert load_records(path)[0]["judge"] == "numbers 2"


def test_failed_judgements_are_tried_again_when_asked(records: Path, expected: str) -> None:
    builder_of(records, judge=NumberJudge(failing=("case 2: 3",))).run()
    for retry, judged in ((False, 0), (True, 1), (True, 0)):
        judge = NumberJudge()
        path = builder_of(records, judge=judge, retry_failed=retry).run()
        assert sum(judge.judged.values()) == judged
    assert path.read_text() == expected


def test_other_settings_are_refused(records: Path) -> None:
    builder_of(records).run()
    sampler = NumberedSamples()
    sampler.settings["seed"] = 4
    with pytest.raises(InputError, match="another sampling .*'seed': 3.*'seed': 4"):
        builder_of(records, sampler=sampler).run()
    with pytest.raises(InputError, match="another preprocessing"):
        builder_of(records, preprocessing={"spacing_mm": [1, 1, 1]}).run()
    (records.parents[1] / "model.pt").write_bytes(b"other weights")
    with pytest.raises(InputError, match="another model_sha256"):
        builder_of(records).run()
    assert not sampler.sampled


def test_no_pair_at_all_is_an_error_with_a_summary(records: Path) -> None:
    judge = NumberJudge(failing=tuple(f"case {case}: {number}" for case in range(NUM_CASES) for number in range(3)))
    with pytest.raises(InputError, match="failed_judgements 7"):
        builder_of(records, judge=judge).run()
    summary = json.loads((records.parents[1] / "out" / "summary.json").read_text())
    assert summary["failed_judgements"]["failed"] == 21 and len(summary["failures"]) == 21


def test_arguments_are_checked(records: Path) -> None:
    with pytest.raises(InputError, match="shard is 2 of 2"):
        builder_of(records, shard=2, num_shards=2)
    (records.parents[1] / "model.pt").unlink()
    with pytest.raises(InputError, match="model file .* does not exist"):
        builder_of(records)
    with pytest.raises(ValueError, match="0 cases and a dataset of 7"):
        PreferenceBuilder([], NumberedCases(), NumberedSamples(), NumberJudge(), records.parent, records)


def test_a_judge_that_has_nothing_to_say_is_not_asked(records: Path) -> None:
    """Before anything is sampled: the scores of what its parser doesn't read are 1 for any text."""
    sampler = NumberedSamples()
    made = builder_of(records, sampler=sampler, judge=FindingsJudge(labels=["nodule"]))
    with pytest.raises(InputError, match="the judge reads no finding in any of"):
        made.run()
    assert not sampler.sampled
