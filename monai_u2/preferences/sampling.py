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

"""Several sampled reports for one case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from monai_u2.data.text_tokenizer import decode_answer
from monai_u2.engines.prepare_batch import PrepareReportBatch
from monai_u2.exceptions import InputError
from monai_u2.inferers.report import ReportInferer
from monai_u2.preferences.cases import case_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from monai_u2.networks import U2LLM


class ReportSampler:
    """Samples several reports for one case; its image is encoded once.

    Each case has a seed of its own, so that neither the order of the cases nor the number of processes matters. Top-k
    is off, whatever the model's generation configuration says.

    Args:
        network: the policy; it is set to evaluation mode.
        tokenizer: its text tokenizer.
        num_samples: reports for each case.
        temperature: of the sampling.
        top_p: share of the probability to sample from, in (0, 1].
        max_new_tokens: largest length of a report.
        seed: seed of the whole run.
        device: where the network is.

    Raises:
        InputError: for numbers out of range.
    """

    def __init__(
        self,
        network: U2LLM,
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_samples: int = 8,
        temperature: float = 1.0,
        top_p: float = 0.9,
        max_new_tokens: int = 512,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        if num_samples < 2:
            raise InputError(f"num_samples is {num_samples}; expected at least 2, of which one can be preferred.")
        if temperature <= 0 or not 0 < top_p <= 1 or max_new_tokens < 1:
            raise InputError(
                f"temperature {temperature}, top_p {top_p} and max_new_tokens {max_new_tokens}: expected above 0, in "
                "(0, 1] and at least 1."
            )
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.seed = seed
        self.device = torch.device(device)
        self.settings: dict[str, Any] = {
            "num_samples": num_samples,
            "temperature": float(temperature),
            "top_p": float(top_p),
            "max_new_tokens": max_new_tokens,
            "seed": seed,
        }
        self.prepare_batch = PrepareReportBatch()
        self.inferer = ReportInferer(
            do_sample=True,
            temperature=temperature,
            top_p=top_p,
            top_k=0,
            max_new_tokens=max_new_tokens,
            num_return_sequences=num_samples,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def __call__(self, batch: dict[str, Any], case_key: str) -> list[dict[str, Any]]:
        """Sample one case's reports.

        Args:
            batch: one case with one question, as :func:`monai_u2.data.collate_reports` gives it.
            case_key: what its seed follows from.

        Returns:
            what :func:`monai_u2.data.text_tokenizer.decode_answer` gives of each.
        """
        image, _, _, arguments = self.prepare_batch(batch, self.device)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(case_seed(self.seed, case_key))
            ids = self.inferer(image, self.network, **arguments)
        return [decode_answer(row.tolist(), self.tokenizer) for row in ids]
