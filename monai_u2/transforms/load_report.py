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

"""Reports in text files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_u2.data.report_text import is_report_text
from monai_u2.exceptions import InputError


class LoadReportd(MapTransform):
    """The path of a report's text file, as MONAI Label gives it as an image's label, to what records hold: `question`,
    `answer`, `conversations` and, with a parser, `findings`. Cases that have a `question` or `conversations` stay as
    they are.

    Args:
        keys: key of the path of a `.txt` file, UTF-8.
        question: what the report answers.
        parser: from the report to the labels of its findings; None for no findings.
        allow_missing_keys: whether a missing key is no error.
    """

    def __init__(
        self,
        keys: KeysCollection,
        question: str,
        parser: Callable[[str], Sequence[str]] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.question = question
        self.parser = parser

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """
        Raises:
            InputError: when the file is no text file, isn't there, holds no text, or more than a report.
        """
        d = dict(data)
        if "question" in d or "conversations" in d:
            return d
        for key in self.key_iterator(d):
            answer = _read_report(Path(d[key]))
            d |= {"question": self.question, "answer": answer}
            d["conversations"] = [{"question": self.question, "answer": answer}]
            if self.parser is not None:
                d["findings"] = list(self.parser(answer))
        return d


def _read_report(path: Path) -> str:
    if path.suffix != ".txt":
        raise InputError(
            f"{path}: is no text file; expected a report in a .txt file. Save the image's report as its label, or "
            "remove this label."
        )
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); expected a report in a .txt file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: isn't UTF-8 text; expected a report in a .txt file. Save it as UTF-8.") from error
    if is_report_text(text):
        raise InputError(
            f"{path}: is a report.txt with its question, warnings and who wrote it; expected the report alone, since "
            "the model would learn to write these, too. Take the lines above and below the report away."
        )
    if not text:
        raise InputError(f"{path}: is empty; expected a report. Save the image's report as its label, or remove it.")
    return text
