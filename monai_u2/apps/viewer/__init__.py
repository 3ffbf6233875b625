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


"""The viewer: a report beside its CT in the browser, each sentence with the place that it rests on."""

from __future__ import annotations

from monai_u2._lazy import lazy_attributes

# public name -> module that defines it
_NAMES: dict[str, str] = {
    "ViewedReport": "viewed_report",
    "ViewerServer": "server",
    "export_page": "page",
    "nifti_of": "ct",
    "preview_of": "ct",
    "remember_image": "ct",
    "remembered_image": "ct",
}

__getattr__, __dir__ = lazy_attributes(__name__, _NAMES)
