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

"""The protocol as `transformers serve` speaks it, with a tiny random model."""

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
from monai_u2.synthesis import Synthesizer, load_sources, make_stages

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("fastapi", "openai", "uvicorn"))),
    reason="transformers serve needs transformers[serving]",
)


@pytest.fixture(scope="module")
def model(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a language model of random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from monai_u2.data import load_text_tokenizer

    tokenizer = load_text_tokenizer(bundle / "models" / "text_tokenizer")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    network = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=8192, **sizes, **ids))
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


def test_what_a_random_model_writes_is_rejected_and_counted(
    url: str, model: str, phantom_records: Path, tmp_path: Path
) -> None:
    stages = make_stages(["questions", "report_thinking"])
    client = client_of(url, model, "none", 16)
    run = Synthesizer(load_sources(phantom_records), stages, client, tmp_path, shard="0/10")
    assert run.run() is None
    summary = json.loads((tmp_path / "parts" / "00000-of-00010" / "summary.json").read_text())
    for counts in summary.values():
        assert counts["input"] == 5 and counts["kept"] == counts["failed"] == counts["without_usage"] == 0
        assert sum(counts["rejected"].values()) == 5 and counts["completion_tokens"] <= 16 * counts["requests"]
    assert client.cost["requests"] == sum(counts["requests"] for counts in summary.values())
