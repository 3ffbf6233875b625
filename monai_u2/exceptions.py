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

"""Errors that are the user's to mend."""

from __future__ import annotations


class InputError(ValueError):
    """The user's input (a file, a record, a question, a folder) can't be used.

    The message names the thing, its value, what was expected and the way out. The command line shows it without a
    traceback.
    """


class NonFiniteError(InputError):
    """A training diverged: its loss or its gradients are no finite numbers."""


class ConstantImageError(InputError):
    """An image holds one value only."""


class ImageGeometryError(InputError):
    """An image's affine gives its voxels no place in the patient."""


class SeriesReferenceError(InputError):
    """A DICOM document can't refer to a series.

    Args:
        name: of its folder or file, which may name the patient.
        reason: what is wrong and the way out, without that name.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.reason = reason

    def __str__(self) -> str:
        return "{}: {}".format(*self.args)


def find_input_error(error: BaseException) -> InputError | None:
    """Return the :class:`InputError` in an exception's chain of causes (MONAI wraps what a transform raises), or
    None."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, InputError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
