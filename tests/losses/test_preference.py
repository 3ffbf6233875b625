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

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from monai_u2.data import load_text_tokenizer
from monai_u2.losses import PreferenceLoss, ReportPreferenceLoss
from monai_u2.losses.preference import LOSS_TYPES, PREFERENCE_STATISTICS
from monai_u2.networks.log_probs import label_log_probs

TEXTS = Path(__file__).parents[2] / "bundles" / "u2llm" / "models" / "text_tokenizer"
PAIRS = [
    {"prompt": "Describe.", "chosen": " No nodule in either lung.", "rejected": " A nodule in the right lung."},
    {"prompt": "Is there an effusion?", "chosen": " Yes.", "rejected": " No, there is no pleural effusion here."},
    {"prompt": "Where?", "chosen": " In the left lower lobe of the lung.", "rejected": " In the liver."},
    {"prompt": "How large is it?", "chosen": " It measures 12 mm.", "rejected": " It measures 30 mm."},
]


def tiny(seed: int, vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # at the initialization all texts are about equally likely
    return model.eval()


def log_probs(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    states = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    return label_log_probs(states, model.lm_head, labels, chunk_size=7)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(
    ("options", "of_trl"),
    [
        ({"loss_type": "sigmoid"}, {"loss_type": ["sigmoid"]}),
        ({"loss_type": "hinge"}, {"loss_type": ["hinge"]}),
        ({"loss_type": "ipo"}, {"loss_type": ["ipo"]}),
        ({"loss_type": "robust", "label_smoothing": 0.2}, {"loss_type": ["robust"], "label_smoothing": 0.2}),
        ({"loss_type": "apo_zero"}, {"loss_type": ["apo_zero"]}),
        ({"loss_type": "sigmoid", "sft_weight": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    ],
)
def test_same_as_trl(options: dict[str, Any], of_trl: dict[str, Any], beta: float, tmp_path: Path) -> None:
    """Loss and gradients of trl's trainer on the same batch."""
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    texts = load_text_tokenizer(TEXTS)
    policy, reference = tiny(0, len(texts)), tiny(1, len(texts))
    arguments = trl.DPOConfig(
        output_dir=str(tmp_path),
        beta=beta,
        **of_trl,
        per_device_train_batch_size=len(PAIRS),
        max_length=None,
        bf16=False,
        use_cpu=True,
        report_to=[],
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments,
        train_dataset=datasets.Dataset.from_list(PAIRS),
        processing_class=texts,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.compute_loss(policy, dict(batch))
    expected.backward()
    gradients = {name: value.grad.clone() for name, value in policy.named_parameters()}
    policy.zero_grad()

    sums, counts = log_probs(policy, batch)
    with torch.no_grad():
        of_reference, _ = log_probs(reference, batch)
    pairs = len(PAIRS)
    assert counts.tolist() == batch["completion_mask"].sum(dim=1).tolist()
    loss = PreferenceLoss(beta, **options)(
        sums[:pairs], sums[pairs:], of_reference[:pairs], of_reference[pairs:], counts[:pairs], counts[pairs:]
    )
    torch.testing.assert_close(loss.float(), expected.float(), rtol=1e-5, atol=1e-6)
    loss.backward()
    for name, value in policy.named_parameters():
        scale = gradients[name].abs().max().item()
        assert (value.grad - gradients[name]).abs().max().item() <= 1e-5 * scale + 1e-9, name


def test_sigmoid_starts_at_the_logarithm_of_two() -> None:
    torch.manual_seed(0)
    chosen, rejected = torch.randn(2, 5)
    assert PreferenceLoss()(chosen, rejected, chosen, rejected).item() == pytest.approx(math.log(2), abs=1e-7)


def test_values_by_hand() -> None:
    """One pair with log-ratios c = 2 and r = -1, so d = 3; β = 0.5; 4 and 2 tokens."""
    given = tuple(torch.tensor([value]) for value in (-3.0, -4.0, -5.0, -3.0, 4.0, 2.0))
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = {
        "sigmoid": -math.log(sigmoid(1.5)),
        "hinge": 0.0,
        "ipo": (2 / 4 + 1 / 2 - 1.0) ** 2,
        "apo_zero": 1 - sigmoid(1.0) + sigmoid(-0.5),
    }
    for loss_type, value in expected.items():
        assert PreferenceLoss(0.5, loss_type)(*given).item() == pytest.approx(value, abs=1e-6), loss_type
    smooth = PreferenceLoss(0.5, "robust", label_smoothing=0.1)(*given).item()
    assert smooth == pytest.approx((-0.9 * math.log(sigmoid(1.5)) + 0.1 * math.log(sigmoid(-1.5))) / 0.8, abs=1e-6)
    with_sft = PreferenceLoss(0.5, sft_weight=2.0)(*given).item()
    assert with_sft == pytest.approx(expected["sigmoid"] + 2.0 * 3 / 4, abs=1e-6)


def pairs(number: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What the inferer gives for so many random pairs, and their labels."""
    draw = torch.Generator().manual_seed(0)
    names = ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    output = {name: -20 * torch.rand(number, generator=draw, dtype=torch.float64) for name in names}
    labels = torch.randint(100, (2 * number, 12), generator=draw)
    labels[torch.arange(12) >= torch.randint(2, 13, (2 * number, 1), generator=draw)] = -100
    lengths = (labels[:, 1:] != -100).sum(dim=1)
    return output | {"chosen_lengths": lengths[0::2], "rejected_lengths": lengths[1::2]}, {"labels": labels}


@pytest.mark.parametrize(
    "options", [{"loss_type": name} for name in LOSS_TYPES] + [{"sft_weight": 0.7}], ids=[*LOSS_TYPES, "sft"]
)
def test_losses_and_statistics_of_parts_add_up(options: dict[str, Any]) -> None:
    output, targets = pairs(5)
    loss = ReportPreferenceLoss(PreferenceLoss(0.3, **options))
    whole = loss.normalizers(targets)
    assert whole["num_pairs"] == 5 and whole["num_chosen_tokens"] == output["chosen_lengths"].sum()
    parts = [({name: value[a:b] for name, value in output.items()}) for a, b in ((0, 2), (2, 3), (3, 5))]
    assert loss(output, targets) == loss.loss(**output)
    total = sum(loss(part, None, whole) for part in parts).item()
    assert total == pytest.approx(loss(output, targets).item(), rel=1e-12)
    statistics = loss.statistics(output, whole)
    for name, value in statistics.items():
        total = sum(loss.statistics(part, whole)[name] for part in parts)
        assert total.item() == pytest.approx(value.item(), rel=1e-12), name


def test_statistics_by_hand() -> None:
    values = {"policy_chosen": -3.0, "policy_rejected": -8.0, "reference_chosen": -4.0, "reference_rejected": -6.0}
    values |= {"chosen_lengths": 2.0, "rejected_lengths": 4.0}
    output = {name: torch.tensor([value]) for name, value in values.items()}
    found = ReportPreferenceLoss(PreferenceLoss(0.5)).statistics(output, {"num_pairs": torch.tensor(1)})
    assert {name: value.item() for name, value in found.items()} == {
        "reward_chosen": 0.5,
        "reward_rejected": -1.0,
        "reward_margin": 1.5,
        "reward_accuracy": 1.0,
        "kl": 0.5,
        "log_prob_chosen": -1.5,
        "log_prob_rejected": -2.0,
        "chosen_fall": -0.5,
        "length_chosen": 2.0,
        "length_rejected": 4.0,
    }
    assert tuple(found) == PREFERENCE_STATISTICS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_type": "sigmoide"}, "loss_type 'sigmoide' must be one of 'sigmoid', 'hinge'"),
        ({"beta": 0.0}, "beta 0.0 must be above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing 0.5 must be at least 0 and below 0.5"),
        ({"label_smoothing": 0.1}, "works with loss_type 'robust' alone, not 'sigmoid'"),
        ({"sft_weight": -1.0}, "sft_weight -1.0 must be at least 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceLoss(**options)


def test_lengths_that_are_needed_and_shapes() -> None:
    values = [torch.zeros(3)] * 4
    with pytest.raises(ValueError, match=r"'ipo' with sft_weight 0.0 needs \['chosen_lengths', 'rejected_lengths'\]"):
        PreferenceLoss(loss_type="ipo")(*values)
    with pytest.raises(ValueError, match=r"sft_weight 1.0 needs \['chosen_lengths'\]"):
        PreferenceLoss(sft_weight=1.0)(*values)
    with pytest.raises(ValueError, match=r"reference_chosen \(2,\) must be \(3,\)"):
        PreferenceLoss()(values[0], values[1], torch.zeros(2), values[3])
