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

"""From a 3-D CT to a radiology report: MONAI networks, transforms and a bundle around the U2Tokenizer."""

from __future__ import annotations

from monai_u2._lazy import lazy_attributes

__version__ = "0.2.0"

_SUBPACKAGES = (
    "apps",
    "data",
    "dicom",
    "engines",
    "evaluation",
    "evidence",
    "handlers",
    "inferers",
    "judges",
    "losses",
    "metrics",
    "networks",
    "preferences",
    "processes",
    "synthesis",
    "transforms",
)

__getattr__, __dir__ = lazy_attributes(__name__, {name: name for name in _SUBPACKAGES})
