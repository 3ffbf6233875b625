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

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_u2.data import read_series
from monai_u2.dicom import SourceSeries, structured_report
from monai_u2.exceptions import InputError
from tests.dicom.conftest import MakeDocument, rewrite

NAMES = [
    ("ISO_IR 100", "Müller^Jörg"),
    ("ISO_IR 144", "Люкceмбypг"),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ("GB18030", "Wang^XiaoDong=王^小东"),
    ("ISO_IR 192", "Yamada^Tarou=山田^太郎"),
]


def test_geometry_is_that_of_the_volume(series: Path, source: SourceSeries) -> None:
    volume, affine, info = read_series(series)
    np.testing.assert_array_equal(source.affine, affine)
    assert len(source.frames) == volume.shape[2] and source.series == info["series"]
    for index, frame in enumerate(source.frames):
        header, number = source.reference(index)
        assert number is None and [float(mm) for mm in header.ImagePositionPatient] == frame.position.tolist()


@pytest.mark.parametrize(("charset", "name"), NAMES)
def test_names_of_all_scripts_are_kept(
    series: Path, make_document: MakeDocument, charset: str | list[str], name: str
) -> None:
    def set_name(image: pydicom.Dataset) -> None:
        image.SpecificCharacterSet = charset
        image.PatientName = name

    rewrite(series, set_name)
    stream = io.BytesIO()
    structured_report(make_document(), SourceSeries.read(series)).save_as(stream)
    stream.seek(0)
    written = pydicom.dcmread(stream)
    assert written.SpecificCharacterSet == "ISO_IR 192" and str(written.PatientName) == name


def test_what_may_be_empty_may_be_missing(series: Path, make_document: MakeDocument) -> None:
    def remove(image: pydicom.Dataset) -> None:
        for keyword in ("PatientBirthDate", "AccessionNumber", "StudyID", "StudyTime", "ReferringPhysicianName"):
            delattr(image, keyword)
        image.PatientSex = "U"

    rewrite(series, remove)
    written = structured_report(make_document(), SourceSeries.read(series))
    assert not written.PatientSex and not written.StudyID and "AccessionNumber" in written


def test_a_file_without_study_is_named(series: Path) -> None:
    rewrite(series, lambda image: delattr(image, "StudyInstanceUID"))
    with pytest.raises(InputError, match=r"slice_0001.dcm: StudyInstanceUID missing.*Export the series again"):
        SourceSeries.read(series)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("PatientBirthDate", "19500000"), ("PatientBirthDate", "1950-01-01"), ("StudyTime", "10:10:10")],
)
def test_dates_that_are_none_are_left_out(
    series: Path, make_document: MakeDocument, caplog: pytest.LogCaptureFixture, keyword: str, value: str
) -> None:
    def set_value(image: pydicom.Dataset) -> None:
        image[keyword] = pydicom.DataElement(image[keyword].tag, image[keyword].VR, value, validation_mode=0)

    rewrite(series, set_value)
    written = structured_report(make_document(), SourceSeries.read(series))
    assert not written[keyword].value
    assert caplog.text.count(keyword) == 1 and value not in caplog.text
