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

import numpy as np

from monai_u2.evidence.files import evidence_levels


def test_a_level_begins_at_its_share() -> None:
    levels = evidence_levels(np.array([[0.0, 0.2499], [0.25, 0.4999], [0.5, 0.7499], [0.75, 1.0]], np.float32))
    assert levels.dtype == np.uint8 and levels.tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
