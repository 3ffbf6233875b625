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

"""The evaluation of a bundle's model: generation, controls, metrics, files."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine, Events

from monai_u2.data.fingerprint import fingerprint
from monai_u2.data.journal import check_settings
from monai_u2.data.records import HEADER_KEYS, load_records, question_kind
from monai_u2.data.transform_description import describe_transforms
from monai_u2.engines.run import attach_handlers
from monai_u2.evaluation.controls import CONTROLS, MODEL, check_controls, most_frequent_reports, swapped_questions
from monai_u2.evaluation.generation import ReportGenerator
from monai_u2.evaluation.html_page import write_html_page
from monai_u2.evaluation.results import Evaluation, evaluate_reports, write_json
from monai_u2.evaluation.scoring import ReportScorer
from monai_u2.exceptions import InputError
from monai_u2.handlers.run_record import RunRecord
from monai_u2.metrics.cases import is_missing
from monai_u2.networks.checkpoints import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from monai_u2.networks import U2LLM

logger = logging.getLogger(__name__)


class ReportEvaluator:
    """Generates the reports of a model and of its controls, scores them, and writes what :meth:`Evaluation.write` does
    and the page of :func:`write_html_page`.

    With several processes each one generates its share, without talking to the others; the one that is done last scores
    and writes, or share 0 where all reports were there at the start. A run that was broken off goes on where it
    stopped. The metrics can be computed again with another judge or other labels: no report is generated twice.

    Beside that, `output_dir` holds `settings.json`, what the reports depend on, and `generation.json`: tokens per
    second, reports that were cut off at their largest length, controls that were left out.

    Args:
        generator: generates the reports; it holds the cases.
        scorer: scores them.
        records: file of the cases, for its hash.
        model_file: file of the model's weights, likewise.
        controls: some of :data:`CONTROLS`.
        train_records: records of which the most frequent report is taken; the evaluated ones without.
        preprocessing: values of the preprocessing, plain JSON types, to tell runs apart by more than the fingerprint of
            the dataset's transforms.
        shown_cases: number of the best, of the middle and of the worst cases on the page.
        val_handlers: handlers of MONAI or ignite that get the metrics at the end of an epoch, such as `MLFlowHandler`.

    Raises:
        InputError: for an unknown control, `shown_cases` below 1, or when a file isn't there.
    """

    def __init__(
        self,
        generator: ReportGenerator,
        scorer: ReportScorer,
        records: str | os.PathLike[str],
        model_file: str | os.PathLike[str],
        *,
        controls: Sequence[str] = CONTROLS,
        train_records: str | os.PathLike[str] | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        shown_cases: int = 2,
        val_handlers: Sequence[Any] = (),
    ) -> None:
        if not isinstance(shown_cases, int) or isinstance(shown_cases, bool) or shown_cases < 1:
            raise InputError(f"shown_cases is {shown_cases!r}; expected a whole number from 1 on.")
        self.generator = generator
        self.scorer = scorer
        self.records = Path(records)
        self.controls = check_controls(controls)
        self.train_records = train_records
        self.shown_cases = shown_cases
        self.handlers = list(val_handlers)
        self.output_dir = generator.output_dir
        self.settings = {
            "model_sha256": file_sha256(model_file),
            "network_sha256": _network_fingerprint(generator.network),
            "tokenizer_sha256": _tokenizer_fingerprint(generator.tokenizer),
            "transforms_sha256": _transform_fingerprint(getattr(generator.dataset, "transform", None)),
            "records_sha256": hashlib.sha256(self.records.read_bytes()).hexdigest(),
            "cases_sha256": hashlib.sha256("\n".join(case["id"] for case in generator.cases).encode()).hexdigest(),
            "preprocessing": dict(preprocessing or {}),
            "generation": generator.settings,
        }

    def run(self) -> Evaluation | None:
        """Generate this process's share; score and write all where no other share is left.

        Returns:
            the evaluation; None in all processes but one.

        Raises:
            InputError: when `output_dir` holds reports of another model or other settings, or as the scorer says.
        """
        check_settings(self.output_dir, self.settings, "reports")
        generated = self.generator.run()
        if generated is None:
            return None
        notes: dict[str, Any] = {"left_out_controls": dict(self.generator.left_out)}
        predictions = self._predictions(generated, notes)
        cases = self.generator.cases
        keys = ("id", "patient", "kind", "question", "image", *HEADER_KEYS)
        references = [
            {**{key: case[key] for key in keys if key in case}, "report": case["reference"]} for case in cases
        ]
        controls = {"most_frequent_report": self._source} if "most_frequent_report" in predictions else {}
        settings = {**self.settings, "generation": {**self.generator.settings, **controls}}
        evaluation = evaluate_reports(predictions, references, self.scorer, settings)
        evaluation.write(self.output_dir)
        write_html_page(self.output_dir, parse_findings=self.scorer.parser, num_cases=self.shown_cases)
        self._write_generation(generated, notes)
        logger.info("%d cases, %g %% intervals:\n%s", len(cases), 100 * self.scorer.confidence, evaluation.table())
        self._tell_handlers(evaluation)
        return evaluation

    @property
    def _source(self) -> str:
        return "records" if self.train_records is None else "train_records"

    def _predictions(self, generated: Mapping[str, Any], notes: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """Predictions of the model and of its controls, in their order; what can't be had goes to the notes."""
        cases, left_out = self.generator.cases, notes["left_out_controls"]
        runs: dict[str, list[dict[str, Any]]] = {}
        for name in (MODEL, *self.controls):
            if name in self.generator.passes:
                runs[name] = [_generated(case["id"], generated[case["id"]]["passes"][name]) for case in cases]
            elif name == "swapped_questions":
                runs[name] = self._swapped(generated, notes)
            elif name == "most_frequent_report":
                runs[name] = self._most_frequent(left_out)
        for name, why in left_out.items():
            logger.warning("control %s is left out: %s", name, why)
        return {name: predictions for name, predictions in runs.items() if predictions}

    def _swapped(self, generated: Mapping[str, Any], notes: dict[str, Any]) -> list[dict[str, Any]]:
        cases = self.generator.cases
        partners = swapped_questions(cases)
        if all(case["id"] not in partners or is_missing(case["reference"]) for case in cases):
            notes["left_out_controls"]["swapped_questions"] = "no image has two questions other than for the report"
            return []
        alone = [case["id"] for case in cases if case["kind"] != "report" and case["id"] not in partners]
        if alone:
            notes["not_swapped"] = alone
            logger.warning("swapped_questions: without %d cases, their images have no other question", len(alone))
        # the others would have the model's own answers
        swapped = [case["id"] for case in cases if case["id"] in partners]
        return [_generated(case, generated[partners[case]]["passes"][MODEL]) for case in swapped]

    def _most_frequent(self, left_out: dict[str, str]) -> list[dict[str, Any]]:
        cases = self.generator.cases
        records = cases if self.train_records is None else load_records(self.train_records)
        texts = most_frequent_reports((question_kind(record), record["answer"]) for record in records)
        if missing := {case["kind"] for case in cases if not is_missing(case["reference"])} - texts.keys():
            left_out["most_frequent_report"] = (
                f"train_records have no answers of the kinds {', '.join(sorted(missing))}"
            )
            return []
        return [{"id": case["id"], "report": texts.get(case["kind"], ""), "new_tokens": None} for case in cases]

    def _write_generation(self, generated: Mapping[str, Mapping[str, Any]], notes: Mapping[str, Any]) -> None:
        answers = [answer for entry in generated.values() for answer in entry["passes"].values()]
        tokens, seconds = sum(a["tokens"] for a in answers), sum(entry["seconds"] for entry in generated.values())
        cut = [case for case, entry in generated.items() if not entry["passes"][MODEL]["whole"]]
        if cut:
            logger.warning("%d reports were cut off at their largest length; generation.json names them", len(cut))
        told = {
            "new_tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "device": str(self.generator.device),
            "cut_reports": cut,
            **notes,
        }
        write_json(self.output_dir / "generation.json", told)
        logger.info(
            "generated %d tokens in %.1f s of one process, %.0f tokens per second", tokens, seconds, tokens / seconds
        )

    def _tell_handlers(self, evaluation: Evaluation) -> None:
        """Show the model's metrics to the handlers, as an evaluator that has run one epoch does."""
        if not self.handlers:
            return
        metrics = {}
        for name, interval in evaluation.metrics["runs"][0]["metrics"].items():
            numbers = {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
            metrics |= {key: number for key, number in numbers.items() if number is not None}
        engine = Engine(lambda engine, batch: None)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: engine.state.metrics.update(metrics))
        record = RunRecord(self.output_dir, {"records": self.records}, self.handlers)
        attach_handlers(engine, *self.handlers, record)
        engine.run([0])


def _network_fingerprint(network: U2LLM) -> str:
    """Of its configuration, without the folder and the library's version that it comes from."""
    return fingerprint(_settings_of(network.config.to_dict()))


def _settings_of(config: Any) -> Any:
    if not isinstance(config, Mapping):
        return str(config) if isinstance(config, torch.dtype) else config
    return {
        str(key): _settings_of(value)
        for key, value in config.items()
        if key != "transformers_version" and not str(key).startswith("_")
    }


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of its vocabulary and rules, chat template and special tokens; of a tokenizer in Python, of its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    changing = dict.fromkeys(("padding", "truncation"))  # which calls set
    ids = tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id
    return fingerprint({**rules, **changing}, tokenizer.chat_template, ids)


def _transform_fingerprint(transform: Callable[..., Any] | None) -> str | None:
    """Of the settings of a dataset's transforms; None where there is none, or where they can't be described."""
    if transform is None:
        return None
    try:
        return fingerprint(describe_transforms([transform])["transforms"])
    except InputError as error:
        logger.warning("a change of the preprocessing would go unnoticed when this evaluation goes on: %s", error)
        return None


def _generated(case: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": case, "report": answer["text"], "new_tokens": answer["tokens"]}
