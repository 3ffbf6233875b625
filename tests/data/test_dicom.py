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

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from monai_u2.data.dicom import list_series, read_series
from monai_u2.data.phantom.dicom_series import write_dicom_series
from monai_u2.exceptions import InputError
from tests.dicom_files import edit

REAL_SERIES = Path(__file__).parents[2] / ".." / "shared" / "ct" / "dicom_j2k"
SHAPE = (70, 66, 5)  # the smallest that JPEG 2000 encodes is about 64


def example(oblique: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """HU (X, Y, Z), and an affine with three different spacings."""
    hu = np.random.default_rng(7).integers(-1000, 2000, SHAPE, dtype=np.int16)
    affine = np.diag([-0.7, -0.9, 2.5, 1.0])
    if oblique:
        a, b = np.deg2rad([12.0, -7.0])
        about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
        affine[:3, :3] = about_z @ about_x @ affine[:3, :3]
    affine[:3, 3] = [31.5, -12.25, 104.0]
    return hu, affine


def write_enhanced_ct(file: Path, hu: np.ndarray, affine: np.ndarray) -> None:
    """Write (X, Y, Z) as one Enhanced CT whose frames stand in the reverse order, each with its own intercept."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = (lps[:3, :2] / spacing[:2]).T.ravel().tolist()
    measures.PixelSpacing = [spacing[1], spacing[0]]
    measures.SliceThickness = 9.0  # not the distance: it must not be used
    shared = Dataset()
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    groups, frames = [], []
    for index in reversed(range(hu.shape[2])):
        position, rescale, group = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = (lps @ [0, 0, index, 1])[:3].tolist()
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024 - index, "HU"
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [rescale]
        groups.append(group)
        frames.append((hu[:, :, index].T.astype(np.int32) + 1024 + index).astype("<u2"))
    dataset = FileDataset(str(file), {}, preamble=b"\0" * 128)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID, dataset.Modality = generate_uid(), "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.NumberOfFrames, (dataset.Rows, dataset.Columns) = len(frames), frames[0].shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.PixelData = np.stack(frames).tobytes()
    dataset.save_as(file, enforce_file_format=True)


@pytest.mark.parametrize("oblique", [False, True])
def test_volume_and_affine_agree_with_itk(tmp_path: Path, oblique: bool) -> None:
    itk = pytest.importorskip("itk")
    write_dicom_series(*example(oblique), tmp_path)
    volume, affine, _ = read_series(tmp_path)

    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(tmp_path))
    image = itk.imread(names.GetFileNames(names.GetSeriesUIDs()[0]), pixel_type=itk.F)
    expected = np.eye(4)
    expected[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    expected[:3, 3] = np.array(image.GetOrigin())
    np.testing.assert_array_equal(volume, itk.array_from_image(image).T)
    np.testing.assert_allclose(affine, np.diag([-1, -1, 1, 1]) @ expected, atol=1e-4)


@pytest.mark.parametrize("oblique", [False, True])
def test_volume_and_affine_are_those_written(tmp_path: Path, oblique: bool) -> None:
    hu, affine = example(oblique)
    files = write_dicom_series(hu, affine, tmp_path / "deep" / "er")
    for name, file in zip("ecadb", files, strict=True):  # the order of names must not matter
        file.rename(file.with_name(f"{name}.dcm"))
        edit(file.with_name(f"{name}.dcm"), SliceThickness=9, InstanceNumber=1)
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "deep" / "er" / "._a.dcm").write_bytes(b"\0\5\x16\7")  # macOS writes these
    volume, read_affine, info = read_series(tmp_path)
    assert volume.dtype == np.float32
    np.testing.assert_array_equal(volume, hu)
    np.testing.assert_allclose(read_affine, affine, atol=1e-4)
    assert info["warnings"] == [] and len(info["series"]) == 16


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_slices_are_decoded(tmp_path: Path, syntax: str) -> None:
    hu, affine = example()
    write_dicom_series(hu, affine, tmp_path, transfer_syntax=syntax)
    np.testing.assert_array_equal(read_series(tmp_path)[0], hu)


def test_missing_decoder_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom_series(*example(), tmp_path, transfer_syntax=JPEG2000Lossless)
    decoder = pydicom.pixels.get_decoder(JPEG2000Lossless)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(InputError, match=r"JPEG 2000.*no decoder.*pip install pylibjpeg pylibjpeg-openjpeg"):
        read_series(tmp_path)


def test_enhanced_ct_is_read_frame_by_frame(tmp_path: Path) -> None:
    hu, affine = example(oblique=True)
    write_enhanced_ct(tmp_path / "enhanced.dcm", hu, affine)
    for source in (tmp_path, tmp_path / "enhanced.dcm"):
        volume, read_affine, _ = read_series(source)
        np.testing.assert_array_equal(volume, hu)
        np.testing.assert_allclose(read_affine, affine, atol=1e-4)


def test_multi_frame_without_positions_is_refused(tmp_path: Path) -> None:
    write_enhanced_ct(tmp_path / "legacy.dcm", *example())
    edit(tmp_path / "legacy.dcm", PerFrameFunctionalGroupsSequence=None)
    with pytest.raises(
        InputError, match=r"legacy\.dcm: a multi-frame image of 5 frames without a position.*Enhanced CT"
    ):
        read_series(tmp_path)


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    hu, affine = example()
    files = write_dicom_series(hu, affine, tmp_path)
    edit(files[2], RescaleSlope=2, RescaleIntercept=-100)
    volume = read_series(tmp_path)[0]
    np.testing.assert_array_equal(volume[:, :, 2], (hu[:, :, 2].astype(float) + 1024) * 2 - 100)
    np.testing.assert_array_equal(volume[:, :, 3], hu[:, :, 3])


def test_padding_is_raised_to_air(tmp_path: Path) -> None:
    hu, affine = example()
    file = write_dicom_series(hu, affine, tmp_path)[0]
    dataset = pydicom.dcmread(file)
    dataset.add_new("PixelPaddingValue", "US", int(hu[0, 0, 0]) + 1024)
    dataset.RescaleIntercept = -3024
    dataset.save_as(file)
    lowest = hu[:, :, 0].astype(float)
    expected = np.where(lowest == hu[0, 0, 0], -1024, lowest - 2000)  # other values below -1024 stay
    np.testing.assert_array_equal(read_series(tmp_path)[0][:, :, 0], expected)


def test_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="no DICOM file found.*one CT series.*Give the folder"):
        read_series(tmp_path)


def test_several_series_are_listed(tmp_path: Path) -> None:
    for uid in ("1.2.3.1", "1.2.3.2"):
        write_dicom_series(*example(), tmp_path / uid, series_uid=uid, patient_id="DOE")
    with pytest.raises(InputError, match=r"2 image series of 1 patient") as error:
        read_series(tmp_path)
    assert "--series 1.2.3.1  CT, 5 slices" in str(error.value) and "--series 1.2.3.2" in str(error.value)
    assert "DOE" not in str(error.value)
    assert [one.uid for one in list_series(tmp_path)] == ["1.2.3.1", "1.2.3.2"]
    np.testing.assert_array_equal(read_series(tmp_path, "1.2.3.2")[0], example()[0])
    with pytest.raises(InputError, match=r"no series '1\.2\.3\.9'(.|\n)*--series 1\.2\.3\.1"):
        read_series(tmp_path, "1.2.3.9")


def test_two_patients_are_refused(tmp_path: Path) -> None:
    files = write_dicom_series(*example(), tmp_path, patient_id="DOE")
    edit(files[3], PatientID="ROE")
    with pytest.raises(InputError, match="slices belong to 2 patients.*Separate the files") as error:
        read_series(tmp_path)
    assert "DOE" not in str(error.value) and "ROE" not in str(error.value)


def test_two_studies_are_refused(tmp_path: Path) -> None:
    files = write_dicom_series(*example(), tmp_path)
    edit(files[3], StudyInstanceUID="1.2.3.4")
    with pytest.raises(InputError, match="slices belong to 2 studies.*Separate the files") as error:
        read_series(tmp_path)
    assert "1.2.3.4" not in str(error.value)


def test_two_frames_of_reference_are_refused(tmp_path: Path) -> None:
    files = write_dicom_series(*example(), tmp_path)
    edit(files[3], FrameOfReferenceUID="1.2.3.4")
    with pytest.raises(InputError, match="2 frames of reference.*Give the slices of one acquisition"):
        read_series(tmp_path)


def test_two_patients_in_two_series_are_counted(tmp_path: Path) -> None:
    for patient in ("DOE", "ROE"):
        write_dicom_series(*example(), tmp_path / patient, patient_id=patient)
    with pytest.raises(InputError, match="2 image series of 2 patient"):
        read_series(tmp_path)


def test_mr_series_is_refused(tmp_path: Path) -> None:
    for file in write_dicom_series(*example(), tmp_path):
        edit(file, Modality="MR")
    with pytest.raises(InputError, match="modality is MR; expected CT.*Give a CT series"):
        read_series(tmp_path)


def test_localizer_series_is_left_out_with_a_warning(tmp_path: Path) -> None:
    hu, affine = example()
    write_dicom_series(hu, affine, tmp_path / "ct", series_uid="1.2.3.1")
    for file in write_dicom_series(hu, affine, tmp_path / "scout", series_uid="1.2.3.2")[:1]:
        edit(file, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for file in sorted((tmp_path / "scout").glob("*"))[1:]:
        file.unlink()
    volume, _, info = read_series(tmp_path)
    np.testing.assert_array_equal(volume, hu)
    assert info["warnings"] == ["a localizer series of 1 image(s) in the folder was left out"]
    with pytest.raises(InputError, match=r"only localizers"):
        read_series(tmp_path / "scout")


def test_localizer_within_the_series_is_left_out_with_a_warning(tmp_path: Path) -> None:
    hu, affine = example()
    files = write_dicom_series(hu, affine, tmp_path)
    edit(files[4], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    volume, _, info = read_series(tmp_path)
    assert volume.shape == (*SHAPE[:2], 4)
    assert info["warnings"] == ["1 localizer image(s) of the series were left out"]


def test_one_slice_is_refused(tmp_path: Path) -> None:
    files = write_dicom_series(*example(), tmp_path)
    with pytest.raises(InputError, match="the series has 1 slice; a volume needs at least 2.*Give the folder"):
        read_series(files[0])


def test_cut_off_pixel_data_are_refused(tmp_path: Path) -> None:
    files = write_dicom_series(*example(), tmp_path)
    files[1].write_bytes(files[1].read_bytes()[:-40])
    with pytest.raises(InputError, match=r"slice_0002\.dcm: its pixel data .* can't be decoded.*cut off"):
        read_series(tmp_path)


@pytest.mark.parametrize("size", [0, 130, 132, 140, 150, 180, 300, 600, 900, -(2 * SHAPE[0] * SHAPE[1] + 6)])
def test_broken_slice_is_named(tmp_path: Path, size: int) -> None:
    """Cut anywhere before its pixels, the last slice must not vanish from a series that stays regular without it."""
    files = write_dicom_series(*example(), tmp_path)
    files[4].write_bytes(files[4].read_bytes()[:size])
    with pytest.raises(
        InputError, match=r"^slice_0005\.dcm: (can't be read as DICOM|no pixel data).*[Cc]opy or export"
    ):
        read_series(tmp_path)


def test_broken_file_without_suffix_is_named_by_its_preamble(tmp_path: Path) -> None:
    for file in write_dicom_series(*example(), tmp_path):
        file.rename(tmp_path / file.stem)
    broken = tmp_path / "slice_0005"
    broken.write_bytes(broken.read_bytes()[:400])
    for source in (tmp_path, broken):
        with pytest.raises(InputError, match=r"^slice_0005: can't be read as DICOM"):
            read_series(source)


def test_many_broken_files_are_counted(tmp_path: Path) -> None:
    for file in write_dicom_series(*example(), tmp_path):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"slice_0001\.dcm, slice_0002\.dcm, slice_0003\.dcm and 2 more: can't"):
        list_series(tmp_path)


def test_slice_without_pixel_data_is_named(tmp_path: Path) -> None:
    hu, affine = example()
    files = write_dicom_series(hu, affine, tmp_path, series_uid="1.2.3.1")
    edit(files[4], PixelData=None)
    with pytest.raises(InputError, match=r"^slice_0005\.dcm: no pixel data.*copy or export the series again"):
        read_series(tmp_path)
    edit(files[4], SeriesInstanceUID="1.2.3.2")  # of no concern where another series is chosen
    assert read_series(tmp_path, "1.2.3.1")[0].shape == (*SHAPE[:2], 4)


def test_object_without_image_is_left_out(tmp_path: Path) -> None:
    """A structured report, or the raw data that scanners keep beside a CT."""
    hu, affine = example()
    files = write_dicom_series(hu, affine, tmp_path)
    for modality, sop_class in (("SR", "1.2.840.10008.5.1.4.1.1.88.22"), ("CT", "1.2.840.10008.5.1.4.1.1.66")):
        dataset = pydicom.dcmread(files[0])
        for name in ("Rows", "Columns", "PixelData"):
            delattr(dataset, name)
        dataset.Modality, dataset.SOPClassUID, dataset.SeriesInstanceUID = modality, sop_class, generate_uid()
        dataset.save_as(tmp_path / f"{modality}.dcm")
    np.testing.assert_array_equal(read_series(tmp_path)[0], hu)


@pytest.mark.skipif(not REAL_SERIES.is_dir(), reason="needs the real CT beside the repository (shared/ct)")
def test_real_jpeg2000_series_agrees_with_itk() -> None:
    itk = pytest.importorskip("itk")
    volume, affine, info = read_series(REAL_SERIES)
    assert volume.shape == (512, 512, 20) and info["warnings"] == []
    assert volume.min() == -1024 and volume.max() > 1000
    # ITK's series reader needs the UIDs that these files lack, so slice by slice
    lowest = itk.imread(str(REAL_SERIES / "IM020.dcm"), pixel_type=itk.F)
    np.testing.assert_array_equal(volume[:, :, 0], itk.array_from_image(lowest)[0].T)
    origin = np.diag([-1, -1, 1]) @ np.array(lowest.GetOrigin())
    np.testing.assert_allclose(affine[:3, 3], origin)
    np.testing.assert_allclose(np.diag(affine), [-0.9765625, -0.9765625, 2.0, 1.0])


def make_empty(file: Path) -> None:
    file.write_bytes(b"")


def cut_in_the_preamble(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def fill_with_zeros(file: Path) -> None:
    file.write_bytes(b"\0" * file.stat().st_size)


def take_off_the_preamble(file: Path) -> None:
    file.write_bytes(file.read_bytes()[132:])


@pytest.mark.parametrize("damage", [make_empty, cut_in_the_preamble, fill_with_zeros, take_off_the_preamble])
def test_a_damaged_last_slice_is_no_foreign_file(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """As names of discs and archives have no .dcm, what is damaged must not pass for what isn't DICOM."""
    hu, affine = example()
    write_dicom_series(hu, affine, tmp_path)
    for number, file in enumerate(sorted(tmp_path.iterdir())):
        file = file.rename(tmp_path / f"IM{number:04d}")
    (tmp_path / "VERSION").write_text("7")
    (tmp_path / ".hidden").write_text("")
    assert read_series(tmp_path)[0].shape == SHAPE
    damage(file)
    with pytest.raises(InputError, match="IM0004: can't be read as DICOM"):
        read_series(tmp_path)


def test_slices_behind_links_are_read_once(tmp_path: Path) -> None:
    hu, affine = example()
    write_dicom_series(hu, affine, tmp_path / "all")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "linked").symlink_to(tmp_path / "all")
    (tmp_path / "series" / "again").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "above").symlink_to(tmp_path / "series")
    np.testing.assert_array_equal(read_series(tmp_path / "series")[0], hu)


def test_the_directory_of_a_disc_is_passed_over(tmp_path: Path) -> None:
    hu, affine = example()
    write_dicom_series(hu, affine, tmp_path)
    (tmp_path / "dicomdir.;1").write_bytes(b"\0" * 128 + b"DICM")
    np.testing.assert_array_equal(read_series(tmp_path)[0], hu)


def test_screenshots_and_segmentations_are_left_out(tmp_path: Path) -> None:
    hu, affine = example()
    write_dicom_series(hu, affine, tmp_path / "ct")
    uids = {"SeriesInstanceUID": "1.2.3", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}
    write_dicom_series(hu, affine, tmp_path / "dose")
    edit(tmp_path / "dose", **uids)
    volume, _, info = read_series(tmp_path)
    np.testing.assert_array_equal(volume, hu)
    assert info["warnings"] == ["a series of screenshots or segmentations of 5 image(s) in the folder was left out"]
    with pytest.raises(InputError, match="only localizers"):
        read_series(tmp_path / "dose")


def test_names_that_differ_in_empty_components_are_one_patient(tmp_path: Path) -> None:
    hu, affine = example()
    write_dicom_series(hu, affine, tmp_path)
    first, second, *_ = sorted(tmp_path.iterdir())
    edit(tmp_path, PatientName="Doe^Jane")
    edit(first, PatientName="Doe^Jane^^^")
    edit(second, PatientName="Doe^Jane=")
    np.testing.assert_array_equal(read_series(tmp_path)[0], hu)
    edit(first, PatientName="Doe^^Jane")
    with pytest.raises(InputError, match="belong to 2 patients"):
        read_series(tmp_path)


def test_a_slope_of_zero_is_refused(tmp_path: Path) -> None:
    hu, affine = example()
    write_dicom_series(hu, affine, tmp_path)
    edit(sorted(tmp_path.iterdir())[2], RescaleSlope=0)
    with pytest.raises(InputError, match="RescaleSlope is 0"):
        read_series(tmp_path)
