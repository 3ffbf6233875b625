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

"""What has to be said to MLflow before MONAI imports it."""

from __future__ import annotations

import os


def keep_mlflow_silent() -> None:
    """MONAI imports mlflow, which calls home on import; processes started from here are silent, too."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
