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

"""The mixture of questions that a model is trained on: which kinds there are, how often each is drawn, and checks of
the data before the training starts."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from monai_u2.data.records import question_kind
from monai_u2.exceptions import InputError

CT_RATE_LABELS: tuple[str, ...] = (
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
)
"""The 18 abnormalities of CT-RATE (https://arxiv.org/abs/2403.17834), in the order of its label files' columns."""

Cases = TypeVar("Cases", bound=Sequence[Mapping[str, Any]])


def drawn_kinds(weights: Mapping[str, float]) -> dict[str, float]:
    """Return the kinds of questions with a weight above 0.

    Args:
        weights: weight of each kind, relative to the others.

    Raises:
        ValueError: when a weight is negative or no finite number, or none is above 0.
    """
    for kind, weight in weights.items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise ValueError(f"weight of the kind {kind!r} is {weight!r}; expected a number, 0 or more.")
    drawn = {kind: float(weight) for kind, weight in weights.items() if weight > 0}
    if not drawn:
        raise ValueError(f"weights {dict(weights)} hold none above 0; give at least one kind of question a weight.")
    return drawn


def check_mixture(cases: Cases, weights: Mapping[str, float]) -> Cases:
    """Check that the data has what the mixture of questions draws from.

    Args:
        cases: as :func:`~monai_u2.data.group_by_image` returns them.
        weights: weight of each kind of question, as
            :class:`~monai_u2.transforms.RandSelectConversationsd` takes them.

    Returns:
        the cases, unchanged.

    Raises:
        InputError: when a kind with a weight has no record at all, or a case has no record of a kind with a weight.
        ValueError: for weights that are no weights.
    """
    drawn = drawn_kinds(weights)
    of_cases = [Counter(question_kind(conversation) for conversation in case["conversations"]) for case in cases]
    counts = sum(of_cases, Counter())
    for kind, weight in drawn.items():
        if kind not in counts:
            raise InputError(
                f"the data has no record of the kind {kind!r}, which has the weight {weight:g} in the mixture of "
                f"questions; its kinds are: {_counted(counts)}. Add records of this kind, or set its weight to 0."
            )
    for case, kinds in zip(cases, of_cases):
        if not drawn.keys() & kinds.keys():
            raise InputError(
                f"{_file_name(case)}: its records are of the kinds: {_counted(kinds)}; expected at least one of "
                f"{', '.join(drawn)}, the kinds with a weight. Give one of its kinds a weight, or drop its records."
            )
    return cases


def check_batch_size(cases: Cases, batch_size: int) -> Cases:
    """Check that there are cases enough for one batch.

    Returns:
        the cases, unchanged.

    Raises:
        InputError: when there are fewer cases than ``batch_size``.
    """
    if len(cases) < batch_size:
        raise InputError(
            f"batch_size is {batch_size}, but the data has {len(cases)} case{'' if len(cases) == 1 else 's'}; expected "
            "at least as many cases as a batch holds. Lower --batch_size, or add cases."
        )
    return cases


def check_finding_labels(cases: Cases, labels: Sequence[str]) -> Cases:
    """Check that the cases' findings are among the labels that a model is trained on.

    Args:
        cases: as :func:`~monai_u2.data.group_by_image` returns them, or records; those without ``findings`` pass.
        labels: the finding labels.

    Returns:
        the cases, unchanged.

    Raises:
        InputError: at the first finding that is not among the labels.
    """
    known = set(labels)
    for case in cases:
        for finding in case.get("findings", ()):
            if finding not in known:
                raise InputError(
                    f"{_file_name(case)}: its finding {finding!r} is not among the {len(labels)} finding labels"
                    f"{_close_matches(finding, labels)}. Correct the record, or add the label to finding_labels."
                )
    return cases


def check_training_cases(cases: Cases, labels: Sequence[str], weights: Mapping[str, float], batch_size: int) -> Cases:
    """Check all that a training needs of its cases before it starts.

    Args:
        cases: as :func:`~monai_u2.data.group_by_image` returns them.
        labels: the finding labels.
        weights: weight of each kind of question, see :func:`check_mixture`.
        batch_size: cases in a batch.

    Returns:
        the cases, unchanged.

    Raises:
        InputError: as :func:`check_finding_labels`, :func:`check_mixture` and :func:`check_batch_size` do, and when
            some cases have finding labels or a lesion mask and others don't.
        ValueError: for weights that are no weights.
    """
    for key in ("findings", "lesion_mask"):
        lacking = [case for case in cases if key not in case]
        if lacking and len(lacking) < len(cases):
            raise InputError(
                f"{_file_name(lacking[0])} and {len(lacking) - 1} more of {len(cases)} cases have no {key!r}, the "
                f"others do; a batch can't hold both. Give all cases {key!r} (of findings an empty list where there "
                "are none), or drop it from all."
            )
    return check_batch_size(check_mixture(check_finding_labels(cases, labels), weights), batch_size)


def validation_reports(records: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> list[Mapping[str, Any]]:
    """The records that a validation counts findings on: whole reports with finding labels.

    Args:
        records: as :func:`~monai_u2.data.load_records` returns them.
        labels: the finding labels; without any, reports need no `findings`.

    Returns:
        the records of the kind "report".

    Raises:
        InputError: when there is none, one of them has no ``findings``, or a finding is not among the labels.
    """
    reports = [record for record in records if question_kind(record) == "report"]
    if not reports:
        raise InputError(
            f"the validation data has no record of the kind 'report'; its kinds are: "
            f"{_counted(Counter(map(question_kind, records)))}. Add whole reports to validation_records."
        )
    for record in reports:
        if labels and "findings" not in record:
            raise InputError(
                f"{_file_name(record)}: its report has no 'findings', by which a validation chooses the best model. "
                "Give each report of validation_records its finding labels, an empty list where there are none."
            )
    return check_finding_labels(reports, labels)


def conversation_lengths(cases: Sequence[Mapping[str, Any]], weights: Mapping[str, float]) -> list[int]:
    """Characters of each case's longest question and answer, by which batches of similar length are made.

    Args:
        cases: as :func:`~monai_u2.data.group_by_image` returns them.
        weights: weight of each kind of question; kinds without one don't count.
    """
    drawn = drawn_kinds(weights)
    return [
        max(
            len(conversation["question"]) + len(conversation.get("answer", ""))
            for conversation in case["conversations"]
            if question_kind(conversation) in drawn
        )
        for case in cases
    ]


def presence_questions(
    labels: Sequence[str],
    findings: Sequence[str],
    names: Mapping[str, str] | None = None,
    wording: str = "Is there {name}?",
) -> list[dict[str, str]]:
    """Turn a volume's labels into yes-or-no questions, one for each label, in the labels' order.

    Most of a data set's labels are absent in most of its volumes, so most answers are "No."

    Args:
        labels: all labels of the data set, such as :data:`CT_RATE_LABELS`.
        findings: the labels that are present in the volume.
        names: how a label stands in the question, such as ``{"Lung nodule": "a lung nodule"}``; other labels stand
            there with a small first letter.
        wording: the question, ``{name}`` in the label's place.

    Returns:
        dicts of ``question``, ``answer`` ("Yes." or "No.") and ``kind`` ("presence").

    Raises:
        InputError: when a finding is not among the labels.
        ValueError: when the wording has no ``{name}``.

    Example::

        >>> presence_questions(["Cardiomegaly", "Pericardial effusion"], ["Pericardial effusion"])[1]
        {'question': 'Is there pericardial effusion?', 'answer': 'Yes.', 'kind': 'presence'}
    """
    if "{name}" not in wording:
        raise ValueError(f"wording {wording!r} must contain {{name}}, the place of the finding's name.")
    for finding in findings:
        if finding not in labels:
            raise InputError(
                f"finding {finding!r} is not among the {len(labels)} labels{_close_matches(finding, labels)}. "
                "Correct the finding, or add it to the labels."
            )
    names = names or {}
    return [
        {
            "question": wording.replace("{name}", names.get(label, _in_sentence(label))),
            "answer": "Yes." if label in findings else "No.",
            "kind": "presence",
        }
        for label in labels
    ]


def _in_sentence(label: str) -> str:
    """Return a label with a small first letter, an abbreviation as it is."""
    return label if label[1:2].isupper() else label[:1].lower() + label[1:]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} ({number})" for kind, number in counts.items()) or "none"


def _file_name(case: Mapping[str, Any]) -> str:
    """Return the image's name without its folders, which may name more than the image."""
    return Path(case["image"]).name


def _close_matches(finding: str, labels: Sequence[str]) -> str:
    """Return the labels that are spelled alike, as they stand in a message; "" where none is."""
    spelled = {label.casefold(): label for label in labels}
    close = [spelled[match] for match in difflib.get_close_matches(finding.casefold(), spelled)]
    return f" (close to it: {', '.join(map(repr, close))})" if close else ""
