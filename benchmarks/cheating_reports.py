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

"""Reports of a model that was told the findings: one short sentence for each label, in the order of the labels.

It names everything that is there and nothing else, without sizes, degrees or a word on what is normal. Metrics of
clinical content should place it first, whatever its wording. Its reports are scored like those of any other system::

    monai-u2 phantom runs/phantoms --test 300 --questions 12
    python benchmarks/cheating_reports.py runs/phantoms/test.jsonl --output runs/cheating.jsonl
    monai-u2 evaluate runs/cheating.jsonl runs/phantoms/test.jsonl --labels phantom --output runs/cheating
"""

from __future__ import annotations

import fire

from monai_u2.data import write_records
from monai_u2.data.phantom import FINDING_LABELS
from monai_u2.data.phantom.report import all_sentences
from monai_u2.evaluation import evaluation_cases


def cheating_reports(records: str, output: str) -> None:
    """Write the reports as JSON Lines with `id` and `report`.

    Args:
        records: a phantom's JSON Lines file of records.
        output: file to write.
    """
    # the last sentence of a label is that of the impression
    wordings = {labels[0]: text for text, labels in all_sentences() if labels}
    normal = [text for text, labels in all_sentences() if not labels][-1]
    predictions = []
    for case in evaluation_cases(records):
        sentences = [wordings[label] for label in FINDING_LABELS if label in case["findings"]]
        predictions.append({"id": case["id"], "report": " ".join(sentences) or normal})
    write_records(output, predictions)
    print(f"{len(predictions)} reports in {output}")


if __name__ == "__main__":
    fire.Fire(cheating_reports)
