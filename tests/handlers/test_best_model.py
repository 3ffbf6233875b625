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

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from monai_u2.handlers import BestModelSaver


def validate(
    folder: Path,
    scores: list[float],
    state: dict[str, Any] | None = None,
    weights: list[float] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Validations with these metrics, each of a model with its metric as weight, or with another one."""
    weights = scores if weights is None else weights
    network = torch.nn.Linear(1, 1, bias=False)
    saver = BestModelSaver(str(folder), {"model": network}, **more)
    if state is not None:
        saver.load_state_dict(state)

    def score(engine: Engine) -> None:
        engine.state.key_metric_name = "f1"
        engine.state.metrics["f1"] = scores[engine.state.epoch - 1]
        network.weight.data.fill_(weights[engine.state.epoch - 1])

    evaluator = Engine(lambda engine, batch: None)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, score)
    saver.attach(evaluator)
    evaluator.run([0], max_epochs=len(scores))
    return saver.state_dict()


def test_best_model_is_kept_over_a_resume(tmp_path: Path) -> None:
    def saved() -> float:
        return torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item()

    state = validate(tmp_path, [0.2, 0.5, 0.4])
    assert saved() == pytest.approx(0.5)
    validate(tmp_path, [0.3, 0.45], state)
    assert saved() == pytest.approx(0.5)
    validate(tmp_path, [0.3, 0.6], state)
    assert saved() == pytest.approx(0.6)
    (tmp_path / "model.pt").unlink()
    validate(tmp_path, [0.1], state)  # nothing to keep
    assert saved() == pytest.approx(0.1)


@pytest.mark.parametrize(("newer", "kept"), [(False, 2.0), (True, 3.0)])
def test_of_equal_models_the_one_asked_for_is_kept(tmp_path: Path, newer: bool, kept: float) -> None:
    validate(tmp_path, [0.0, 0.1, 0.1, 0.0], weights=[1.0, 2.0, 3.0, 4.0], newer=newer)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == kept


def test_several_objects_keep_their_names(tmp_path: Path) -> None:
    parts = {"vision_tower": torch.nn.Linear(1, 1), "finding_head": torch.nn.Linear(2, 1)}
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.key_metric_name = "f1"
    evaluator.state.metrics = {"f1": 0.0}
    BestModelSaver(tmp_path, parts, filename="vision.pt")(evaluator)
    saved = torch.load(tmp_path / "vision.pt", weights_only=True)
    assert torch.equal(saved["finding_head"]["weight"], parts["finding_head"].weight)
    assert saved.keys() == parts.keys()
