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

"""A cache of preprocessed cases that outlives a kill."""

from __future__ import annotations

import warnings
import zipfile
from typing import Any

from monai.data import PersistentDataset


class RecoveringPersistentDataset(PersistentDataset):
    """MONAI's `PersistentDataset`, which computes a cached file again where it was cut off.

    MONAI writes to the system's folder for temporary files first. From there to another file system a file is moved by
    copying: a process that is killed then leaves a part of it, which MONAI would try to load each time.
    """

    def _cachecheck(self, item_transformed: Any) -> Any:
        if self.cache_dir is not None:
            file = self.cache_dir / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
            if file.is_file() and not zipfile.is_zipfile(file):
                warnings.warn(f"{file} is cut off; it is computed again.", stacklevel=2)
                file.unlink(missing_ok=True)
        return super()._cachecheck(item_transformed)
