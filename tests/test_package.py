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

import importlib
import pkgutil
import subprocess
import sys

import monai_u2


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, monai_u2; print([m for m in ('torch', 'monai', 'mlflow', 'trl', 'itk') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_lazy_name_resolves() -> None:
    count = 0
    for module in pkgutil.walk_packages(monai_u2.__path__, "monai_u2."):
        if not module.ispkg:
            continue
        package = importlib.import_module(module.name)
        for name in getattr(package, "_NAMES", {}):
            assert getattr(package, name) is not None
            count += 1
    assert count > 20


def test_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(monai_u2, "no_such_room")
