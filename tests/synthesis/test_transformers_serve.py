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

"""The protocol as `transformers serve` speaks it, with a tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from monai_u2.chat_client import ChatClient
from monai_u2.data import load_records
from monai_u2.data.phantom import draw_case, write_report
from monai_u2.data.records import write_records
from monai_u2.synthesis import FilterStage, Synthesizer, load_sources, make_stages
from monai_u2.synthesis.stage import Row

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("fastapi", "openai", "uvicorn"))),
    reason="transformers serve needs transformers[serving]",
)


AFFIRMED = '{"reason": "It agrees.", "proper_question": true, "right_answer": true}'


def answered_rows() -> list[Row]:
    """Rows as the stage of answers writes them."""
    reports = [write_report(draw_case(number)).text for number in range(4)]
    asked = {
        "question": "What is seen in the lungs?",
        "thinking": "Clear lungs [1].",
        "answer": "The lungs are clear [1].",
    }
    origin = {"report_question": "Describe this CT.", "stage": "answers", "stream": "questions"}
    return [
        {
            "image": f"{number}.nii.gz",
            "case_key": str(number),
            "row": f"{number}-00",
            "report": report,
            **asked,
            **origin,
        }
        for number, report in enumerate(reports)
    ]


@pytest.fixture(scope="module")
def model(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny language model that has learned to affirm what the filter asks, and nothing else."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from monai_u2.data import load_text_tokenizer

    tokenizer = load_text_tokenizer(bundle / "models" / "text_tokenizer")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **sizes, **ids))
    asked = [FilterStage().messages(row, with_schema=True) for row in answered_rows()]
    prompts = [tokenizer(tokenizer.apply_chat_template(messages, tokenize=False)).input_ids for messages in asked]
    answer = [*tokenizer(AFFIRMED).input_ids, tokenizer.eos_token_id]
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(240):
        prompt = prompts[step % len(prompts)][-50 - 150 * (step % 7) :]  # short ones are learned first
        labels = torch.tensor([[-100] * len(prompt) + answer])
        network(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("model")
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    code = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; sys.exit(main())"
    command = [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    local = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    with log.open("w") as file:
        process = subprocess.Popen(command, env={**os.environ, **local}, stdout=file, stderr=subprocess.STDOUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        try:
            deadline = time.monotonic() + 120
            while not _is_up(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _is_up(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def client_of(url: str, model: str, response_format: str, max_tokens: int) -> ChatClient:
    options = {"temperature": 0, "max_tokens": max_tokens}
    return ChatClient(
        url, model, api_key_variable=None, response_format=response_format, concurrency=2, options=options
    )


@pytest.mark.parametrize("response_format", ["none", "json_object", "json_schema"])
def test_an_answer_is_understood(url: str, model: str, response_format: str) -> None:
    client = client_of(url, model, response_format, 8)
    answers = [client.complete([{"role": "user", "content": "nodule"}], {"type": "object"}) for _ in range(2)]
    assert answers[0] == answers[1] and answers[0].text  # greedy, so always the same
    assert answers[0].finish_reason == "length" and answers[0].completion_tokens == 8
    cost = client.cost
    assert (cost["requests"], cost["answered"], cost["without_usage"]) == (2, 2, 0) and cost["prompt_tokens"] > 0


def test_a_stage_keeps_what_the_model_affirms(url: str, model: str, tmp_path: Path) -> None:
    write_records(tmp_path / "answers.jsonl", answered_rows())
    client = client_of(url, model, "none", 100)
    sources = load_sources(tmp_path / "answers.jsonl")
    path = Synthesizer(sources, make_stages(["filter"]), client, tmp_path / "out", shard="1/1").run()
    counts = json.loads(path.read_text())["stages"]["filter"]
    assert counts["kept"] == counts["requests"] == 4 and counts["rejected"] == {} and counts["failed"] == 0
    assert len(load_records(tmp_path / "out" / "vqa.jsonl")) == 4


def test_what_the_model_cannot_do_is_rejected_and_counted(
    url: str, model: str, phantom_records: Path, tmp_path: Path
) -> None:
    stages = make_stages(["questions", "report_thinking"])
    client = client_of(url, model, "none", 16)
    run = Synthesizer(load_sources(phantom_records), stages, client, tmp_path, shard="1/10")
    assert run.run() is None
    summary = json.loads((tmp_path / "parts" / "00000-of-00010" / "summary.json").read_text())
    for counts in summary.values():
        assert counts["input"] == 5 and counts["kept"] == counts["failed"] == counts["without_usage"] == 0
        assert sum(counts["rejected"].values()) == 5 and counts["completion_tokens"] <= 16 * counts["requests"]
    assert client.cost["requests"] == sum(counts["requests"] for counts in summary.values())
