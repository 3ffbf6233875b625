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

"""Several samples of one volume in one call of `generate`, against as many calls.

The image is encoded once for all samples. How much that gains depends on what the image costs beside the text, so both
are measured::

    python benchmarks/generate.py --output runs/generate.json
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import fire
import torch
from bundle_model import write_figures

from monai_u2.exceptions import InputError
from monai_u2.networks import U2LLM, U2LLMConfig

TEXT = {"model_type": "llama", "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 4, "num_key_value_heads": 4, "bos_token_id": None, "eos_token_id": None}
TEXT |= {"pad_token_id": 0}


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    out = run()
    return time.perf_counter() - begin, out


def benchmark(
    output: str | None = None,
    samples: int = 8,
    slabs: int = 2,
    vision: dict[str, Any] | None = None,
    num_queries: int = 64,
    new_tokens: int = 16,
    rounds: int = 3,
) -> None:
    """Print both times, their ratio, and whether the texts are the same under greedy decoding.

    Args:
        output: JSON file for the figures.
        samples: samples of the volume.
        slabs: slabs of the volume.
        vision: arguments of ViT3D; the paper's by default.
        num_queries: image tokens.
        new_tokens: tokens of each sample.
        rounds: rounds, alternating; the fastest counts.
    """
    if min(samples, slabs, num_queries, new_tokens, rounds) < 1:
        raise InputError("samples, slabs, num_queries, new_tokens and rounds must be at least 1")
    torch.manual_seed(0)
    config = U2LLMConfig(
        text_config=TEXT,
        vision=vision or {},
        u2_tokenizer={"num_heads": 4, "num_layers": 1, "num_selected": 2 * num_queries, "num_queries": num_queries},
        image_token_id=511,
    )
    model = U2LLM(config).eval()
    image = torch.rand(1, slabs, *model.model.vision_tower.image_size)
    prompt = torch.cat([torch.full((1, num_queries), 511), torch.randint(1, 500, (1, 12))], dim=1)
    question = prompt[:, num_queries:]
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}

    def together(**more: Any) -> torch.Tensor:
        return model.generate(image, prompt, question_ids=question, **options, **more)

    def one_by_one(**more: Any) -> torch.Tensor:
        return torch.cat([together(**more) for _ in range(samples)])

    encode = []
    joint, single = [], []
    for _ in range(rounds):
        with torch.no_grad():
            encode.append(seconds(lambda: model.model.encode_image(image))[0])
        torch.manual_seed(1)
        joint.append(seconds(lambda: together(do_sample=True, num_return_sequences=samples))[0])
        single.append(seconds(lambda: one_by_one(do_sample=True))[0])
    # one image for several prompts: the same texts as each prompt with its image
    rows = {"input_ids": prompt.expand(samples, -1), "question_ids": question.expand(samples, -1)}
    shared = model.generate(
        image, **rows, image_index=torch.zeros(samples, dtype=torch.long), do_sample=False, **options
    )
    same = bool(torch.equal(shared, one_by_one(do_sample=False)))
    figures = {
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "samples": samples,
        "seconds": {"encode the image": min(encode), "one call": min(joint), "separate calls": min(single)},
        "ratio": min(single) / min(joint),
        "the image's share of a separate call": min(encode) * samples / min(single),
        "same under greedy decoding": same,
    }
    for name, value in figures.items():
        print(f"{name}: {value}")
    write_figures(output, figures)


if __name__ == "__main__":
    fire.Fire(benchmark)
