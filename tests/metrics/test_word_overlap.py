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

import pytest
import torch

from monai_u2.metrics import word_f1, word_f1_of_cases


@pytest.mark.parametrize(
    ("report", "reference", "expected"),
    [
        ("No nodule.", "no nodule", 1.0),
        ("The heart is normal.", "The liver is normal.", 0.75),  # three of four words
        ("normal normal normal", "normal", 0.5),  # one shared, three and one
        ("", "normal", 0.0),
        ("", "", 0.0),
    ],
)
def test_word_f1(report: str, reference: str, expected: float) -> None:
    assert word_f1(report, reference) == expected


def test_cases_are_averaged_by_ignite() -> None:
    from ignite.engine import Engine
    from ignite.metrics import Average

    batches = [
        [{"report": "a b", "reference": "a b"}, {"report": "a", "reference": "b"}],
        [{"report": "a c", "reference": "a b"}],
    ]
    assert torch.equal(word_f1_of_cases(batches[0]), torch.tensor([[1.0], [0.0]]))
    engine = Engine(lambda engine, batch: batch)
    Average(output_transform=word_f1_of_cases).attach(engine, "word_f1")
    assert float(engine.run(batches).metrics["word_f1"]) == pytest.approx((1 + 0 + 0.5) / 3)
