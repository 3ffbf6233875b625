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

"""The command line in this process."""

from __future__ import annotations

import sys

import pytest

from monai_u2 import cli


def run_command_line(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run `monai-u2 ARGUMENTS` in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["monai-u2", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0
