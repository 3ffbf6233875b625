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

"""Reports of a model and of its image controls, greedy, in batches; resumable, and spread over processes."""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from monai_u2.data.collate import collate_reports
from monai_u2.data.journal import Journal
from monai_u2.data.shards import process_shard
from monai_u2.data.text_tokenizer import decode_answer
from monai_u2.engines.prepare_batch import PrepareReportBatch
from monai_u2.evaluation.controls import IMAGE_CONTROLS, MODEL, shuffled_partners
from monai_u2.exceptions import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from monai_u2.inferers import ReportInferer
    from monai_u2.networks import U2LLM

logger = logging.getLogger(__name__)

Answers = dict[str, dict[str, Any]]  # pass -> text, whole, tokens


class ReportGenerator:
    """Generates the answer to each case, and to it with the image controls, see :data:`IMAGE_CONTROLS`.

    A batch holds the same cases whatever the number of processes and wherever a run was broken off, and cases follow
    each other as :func:`shuffled_partners` says: a volume is loaded once in a process, also where it is the next one's
    partner. What is done stands in `generated-*.jsonl`, one file a process.

    Args:
        cases: see :func:`monai_u2.evaluation.evaluation_cases`.
        dataset: their images, each once, in the order of their first case; preprocessed, `image (T, D, H, W)`.
        prompt: from a dict with the list `question` to one with the lists `input_ids` and `question_ids`.
        network: the model; it is set to evaluation mode.
        inferer: generates the tokens.
        tokenizer: the model's text tokenizer.
        output_dir: folder of what is written.
        controls: some of :data:`IMAGE_CONTROLS`.
        batch_size: cases at once.
        num_workers: processes that load and preprocess images; 0 for none.
        seed: seed of the shuffled images.
        device: where the network is.
        shard: number of this process's share, see :func:`process_shard`.
        num_shards: number of shares.

    Raises:
        InputError: when `batch_size` isn't a number from 1 on, or shares don't fit.
        ValueError: when images and dataset differ in their number.

    Attributes:
        passes: what is generated: :data:`MODEL` and the controls.
        settings: what the answers depend on, beside model, cases and preprocessing.
        left_out: control -> why it can't be had.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[str, Any]],
        dataset: Dataset,
        prompt: Callable[[dict[str, Any]], dict[str, Any]],
        network: U2LLM,
        inferer: ReportInferer,
        tokenizer: PreTrainedTokenizerBase,
        output_dir: str | os.PathLike[str],
        *,
        controls: Sequence[str] = IMAGE_CONTROLS,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        device: str | torch.device = "cpu",
        shard: int | str | None = None,
        num_shards: int | None = None,
    ) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}; expected a whole number from 1 on.")
        self.cases = list(cases)
        places = {image: place for place, image in enumerate(dict.fromkeys(case["image"] for case in cases))}
        if len(places) != len(dataset):
            raise ValueError(f"{len(places)} images and a dataset of {len(dataset)}; expected as many.")
        self.dataset = dataset
        self.prompt = prompt
        self.network = network.eval()
        self.inferer = inferer
        self.tokenizer = tokenizer
        self.output_dir = Path(output_dir)
        self.num_workers = num_workers
        self.device = torch.device(device)
        self.shard, self.num_shards = process_shard(shard, num_shards)
        self.prepare_batch = PrepareReportBatch()
        self.left_out: dict[str, str] = {}

        image_of = [places[case["image"]] for case in self.cases]
        patients = {image: case["patient"] for image, case in zip(image_of, self.cases)}
        shuffled = shuffled_partners([patients[image] for image in range(len(places))], seed)
        order, self._partner = list(range(len(places))), {}
        if shuffled is not None:
            order, distance = shuffled
            self._partner = {image: order[(place + distance) % len(order)] for place, image in enumerate(order)}
        elif "shuffled_images" in controls:
            self.left_out["shuffled_images"] = "one patient has more than half of the images"
        self.passes = (MODEL, *(name for name in controls if name in IMAGE_CONTROLS and name not in self.left_out))
        rank = {image: place for place, image in enumerate(order)}
        ordered = sorted(range(len(self.cases)), key=lambda case: rank[image_of[case]])  # cases of an image in order
        self.settings = {**inferer.generation, "batch_size": batch_size, "seed": seed}
        self._image_of = image_of
        self._batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]

    def run(self) -> dict[str, dict[str, Any]] | None:
        """Generate this process's share.

        Returns:
            id -> `passes` (pass -> `text`, `whole`, `tokens`) and `seconds` that its generation took, of all cases. One
            process alone gets them, the one that is done last, or share 0 where all was done at the start; None in the
            others.
        """
        journal = Journal(self.output_dir, "generated", self.shard)
        done = self._done(journal)
        left = self._number_left(done)
        own = np.array_split(np.arange(len(self._batches)), self.num_shards)[self.shard]
        waiting = [
            (batch, missing) for batch in (self._batches[i] for i in own) if (missing := self._missing(batch, done))
        ]
        if waiting:
            self._generate(waiting, journal, done)
            done = self._done(journal)
            left = self._number_left(done)
        if left:
            logger.info("share %d of %d is done; %d cases of others are not", self.shard, self.num_shards, left)
            return None
        if not (self._is_first(done) if waiting else self.shard == 0):
            told = "another process has them" if waiting else "they go to share 0"
            logger.info("share %d of %d: all answers are there, %s", self.shard, self.num_shards, told)
            return None
        return {case["id"]: done[case["id"]] for case in self.cases}

    def _number_left(self, done: Mapping[str, Mapping[str, Any]]) -> int:
        return sum(bool(self._missing([case], done)) for case in range(len(self.cases)))

    def _is_first(self, done: Mapping[str, Any]) -> bool:
        """Whether no other process has seen these answers complete: two may be done at the same moment."""
        digest = hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()
        try:
            (self.output_dir / f"complete-{digest[:16]}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _done(self, journal: Journal) -> dict[str, dict[str, Any]]:
        done: dict[str, dict[str, Any]] = {}
        for entry in journal.entries():
            case = done.setdefault(entry["case_key"], {"passes": {}, "seconds": 0.0})
            case["passes"] |= entry["passes"]
            case["seconds"] += entry["seconds"]
        return done

    def _missing(self, batch: Sequence[int], done: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Passes that some case of a batch lacks."""
        have = [done.get(self.cases[case]["id"], {"passes": {}})["passes"] for case in batch]
        return [name for name in self.passes if any(name not in passes for passes in have)]

    def _needed(self, batch: Sequence[int], passes: Sequence[str]) -> list[int]:
        """Images of a batch's passes."""
        own = list(dict.fromkeys(self._image_of[case] for case in batch))
        partners = [self._partner[image] for image in own] if "shuffled_images" in passes else []
        return list(dict.fromkeys([*own, *partners]))

    def _generate(
        self, waiting: list[tuple[list[int], list[str]]], journal: Journal, done: Mapping[str, Mapping[str, Any]]
    ) -> None:
        from tqdm import tqdm

        needed = [self._needed(batch, passes) for batch, passes in waiting]
        last_use = {image: number for number, images in enumerate(needed) for image in images}
        loaded = self._load(needed)
        images: dict[int, torch.Tensor] = {}
        progress = tqdm(total=sum(len(batch) for batch, _ in waiting), desc="cases", disable=self.shard != 0)
        with progress:
            for number, (batch, passes) in enumerate(waiting):
                while not images.keys() >= set(needed[number]):
                    image, tensor = next(loaded)
                    images[image] = tensor
                start = time.perf_counter()
                answers = {name: self._answer(name, batch, images) for name in passes}
                seconds = (time.perf_counter() - start) / len(batch)
                for place, case in enumerate(batch):
                    new = {name: answers[name][place] for name in passes}
                    have = done.get(self.cases[case]["id"], {"passes": {}})["passes"]
                    if new := {name: answer for name, answer in new.items() if name not in have}:
                        journal.append({"case_key": self.cases[case]["id"], "passes": new, "seconds": seconds})
                images = {image: tensor for image, tensor in images.items() if last_use[image] > number}
                progress.update(len(batch))

    def _load(self, needed: list[list[int]]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the images in the order in which they are needed first, each once."""
        from monai.data import DataLoader

        order = list(dict.fromkeys(image for images in needed for image in images))
        loader = DataLoader(
            Subset(self.dataset, order), batch_size=1, num_workers=self.num_workers, collate_fn=operator.itemgetter(0)
        )
        for image, case in zip(order, loader):
            yield image, case["image"]

    def _answer(self, name: str, batch: Sequence[int], images: Mapping[int, torch.Tensor]) -> list[dict[str, Any]]:
        """Answers of one pass to a batch of cases, in their order."""
        groups: dict[int, list[int]] = {}
        for case in batch:
            groups.setdefault(self._image_of[case], []).append(case)  # they follow each other
        rows = []
        for image, cases in groups.items():
            tensor = images[self._partner[image] if name == "shuffled_images" else image]
            prompts = self.prompt({"question": [self.cases[case]["question"] for case in cases]})
            tensor = torch.zeros_like(tensor) if name == "zeroed_images" else tensor
            rows.append({"image": tensor, **{key: prompts[key] for key in ("input_ids", "question_ids")}})
        image, _, _, arguments = self.prepare_batch(collate_reports(rows), self.device)
        with torch.no_grad():
            ids = self.inferer(image, self.network, **arguments)
        return [decode_answer(row.tolist(), self.tokenizer) for row in ids]
