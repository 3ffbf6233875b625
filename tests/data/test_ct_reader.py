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

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage

from monai_u2.data.ct_reader import CTReader
from monai_u2.data.phantom.dicom_series import write_dicom_series
from monai_u2.exceptions import InputError

SHAPE = (9, 8, 7)
AFFINE = np.array([[-0.7, 0, 0, 11], [0, -0.9, 0, -5], [0, 0, 2.5, 300], [0, 0, 0, 1.0]])


def example() -> np.ndarray:
    return np.random.default_rng(3).integers(-1000, 2000, SHAPE, dtype=np.int16)


def write_nifti(file: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(array, affine), file)
    return file


def write_itk(file: Path, array: np.ndarray) -> Path:
    itk = pytest.importorskip("itk")
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    dimension = array.ndim
    image.SetSpacing([0.7, 0.9, 2.5, 1.0][:dimension])
    image.SetOrigin([-11.0, 5.0, 300.0, 0.0][:dimension])
    itk.imwrite(image, str(file), compression=True)
    return file


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.nrrd", "ct.nhdr", "ct.mha", "ct.mhd", "dicom"])
def test_every_format_gives_the_same_volume_and_affine(tmp_path: Path, name: str) -> None:
    path, hu = tmp_path / name, example()
    if name == "dicom":
        write_dicom_series(hu, AFFINE, path)
    elif ".nii" in name:
        write_nifti(path, hu)
    else:
        write_itk(path, hu)
    image = LoadImage(ensure_channel_first=True)(path, reader=CTReader())
    assert image.shape == (1, *SHAPE)
    np.testing.assert_array_equal(image.numpy()[0], hu)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    assert len(image.meta["series"]) == 16
    assert image.meta["source"] == {
        "nii": "nifti",
        "nrr": "nrrd",
        "nhd": "nrrd",
        "mha": "metaimage",
        "mhd": "metaimage",
    }.get(name[3:6], "dicom")


def test_scl_slope_is_applied_once(tmp_path: Path) -> None:
    hu = example() + np.float32(0.25)
    image = nib.Nifti1Image(hu, AFFINE)
    image.set_data_dtype(np.int16)  # nibabel then stores integers with a slope and an intercept
    nib.save(image, tmp_path / "ct.nii.gz")
    proxy = nib.load(tmp_path / "ct.nii.gz").dataobj
    assert proxy.slope != 1 and proxy.inter != 0
    array = CTReader().read(tmp_path / "ct.nii.gz").array
    np.testing.assert_allclose(array, proxy.get_unscaled() * proxy.slope + proxy.inter, rtol=1e-5)
    np.testing.assert_allclose(array, hu, atol=0.1)


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    file = write_nifti(tmp_path / "ct.nii", example()[..., None, None])
    np.testing.assert_array_equal(CTReader().read(file).array, example())


def test_nifti_without_orientation_is_read_with_a_warning(tmp_path: Path) -> None:
    image = nib.Nifti1Image(example(), None)
    image.header["pixdim"][1:4] = [0.7, 0.9, 2.5]
    nib.save(image, tmp_path / "ct.nii")
    assert "left and right may be swapped" in CTReader().read(tmp_path / "ct.nii").warnings[0]
    assert CTReader().read(write_nifti(tmp_path / "good.nii", example())).warnings == []


def test_nifti_with_two_orientations_is_read_with_a_warning(tmp_path: Path) -> None:
    image = nib.Nifti1Image(example(), AFFINE)
    image.set_qform(np.diag([-1, 1, 1, 1]) @ AFFINE, code=1)
    nib.save(image, tmp_path / "ct.nii")
    assert "sform LPS, qform RPS" in CTReader().read(tmp_path / "ct.nii").warnings[0]


def replace_header_line(file: Path, key: bytes, line: bytes) -> Path:
    """Replace the header line that starts with ``key``, and drop those that only make sense with it."""
    lines = file.read_bytes().split(b"\n")
    lines = [line if one.startswith(key) else one for one in lines if not one.startswith((b"space origin", b"kinds"))]
    file.write_bytes(b"\n".join(lines))
    return file


@pytest.mark.parametrize("space", [b"RAS", b"left-anterior-superior", b"LPS"])
def test_nrrd_with_a_known_space_is_read_without_a_warning(tmp_path: Path, space: bytes) -> None:
    file = replace_header_line(write_itk(tmp_path / "ct.nrrd", example()), b"space:", b"space: " + space)
    volume = CTReader().read(file)
    assert volume.warnings == []
    signs = {b"RAS": [1, 1], b"LPS": [-1, -1]}.get(space, [-1, 1])
    np.testing.assert_allclose(np.diag(volume.affine)[:2], np.array([0.7, 0.9]) * signs)


@pytest.mark.parametrize(
    ("line", "named"), [(b"space: scanner-xyz", "scanner-xyz"), (b"space dimension: 3", "missing")]
)
def test_nrrd_without_a_known_space_is_read_with_a_warning(tmp_path: Path, line: bytes, named: str) -> None:
    file = replace_header_line(write_itk(tmp_path / "ct.nrrd", example()), b"space:", line)
    assert CTReader().read(file).warnings == [
        f"the NRRD header's space is {named}, not LPS, RAS, or LAS; LPS was assumed: left and right may be swapped"
    ]


@pytest.mark.parametrize("name", ["ct.mha", "ct.mhd"])
def test_metaimage_without_orientation_is_read_with_a_warning(tmp_path: Path, name: str) -> None:
    file = write_itk(tmp_path / name, example())
    assert CTReader().read(file).warnings == []
    replace_header_line(file, b"TransformMatrix", b"Comment = TransformMatrix")
    (warning,) = CTReader().read(file).warnings
    assert "no TransformMatrix" in warning and "left and right may be swapped" in warning
    replace_header_line(file, b"Comment", b"Orientation = 1 0 0 0 1 0 0 0 1")
    assert CTReader().read(file).warnings == []


@pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
def test_the_way_out_of_4d_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The code of the message, run with another index than 0, gives the volume and its geometry."""
    itk = pytest.importorskip("itk")
    volumes = [example() + number for number in range(3)]
    write_itk(tmp_path / name, np.stack(volumes, axis=-1))
    with pytest.raises(InputError) as error:
        CTReader().read(tmp_path / name)
    (code,) = re.findall(r"image = itk\.imread.*'volume\.\w+'\)", str(error.value))
    monkeypatch.chdir(tmp_path)
    exec(code.replace("(image)[0]", "(image)[2]"), {"itk": itk})
    volume = CTReader().read(tmp_path / f"volume{Path(name).suffix}")
    np.testing.assert_array_equal(volume.array, volumes[2])
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-4)


def missing(folder: Path) -> Path:
    return folder / "ct.nii.gz"


def text(folder: Path) -> Path:
    (folder / "ct.nii.gz").write_text("this is not an image\n" * 50)
    return folder / "ct.nii.gz"


def text_without_gz(folder: Path) -> Path:
    (folder / "ct.nii").write_text("this is not an image\n" * 50)
    return folder / "ct.nii"


def truncated(folder: Path) -> Path:
    file = write_nifti(folder / "ct.nii.gz", example())
    file.write_bytes(file.read_bytes()[:-200])
    return file


def truncated_checksum(folder: Path) -> Path:
    file = write_nifti(folder / "ct.nii.gz", example())
    file.write_bytes(file.read_bytes()[:-4])
    return file


def truncated_before_packing(folder: Path) -> Path:
    file = write_nifti(folder / "ct.nii", example())
    (folder / "ct.nii.gz").write_bytes(gzip.compress(file.read_bytes()[:-100]))
    return folder / "ct.nii.gz"


def empty(folder: Path) -> Path:
    (folder / "ct.nii.gz").write_bytes(b"")
    return folder / "ct.nii.gz"


def truncated_nii(folder: Path) -> Path:
    file = write_nifti(folder / "ct.nii", example())
    file.write_bytes(file.read_bytes()[:-100])
    return file


def truncated_mha(folder: Path) -> Path:
    file = write_itk(folder / "ct.mha", example())
    file.write_bytes(file.read_bytes()[:-100])
    return file


def text_nrrd(folder: Path) -> Path:
    (folder / "ct.nrrd").write_text("hello")
    return folder / "ct.nrrd"


def two_d(folder: Path) -> Path:
    return write_nifti(folder / "ct.nii.gz", example()[:, :, 0])


def one_slice(folder: Path) -> Path:
    return write_nifti(folder / "ct.nii.gz", example()[:, :, :1])


def four_d(folder: Path) -> Path:
    return write_nifti(folder / "ct.nii.gz", np.stack([example()] * 3, axis=-1))


def four_d_nrrd(folder: Path) -> Path:
    return write_itk(folder / "ct.nrrd", np.stack([example()] * 3, axis=-1))


def four_d_mha(folder: Path) -> Path:
    return write_itk(folder / "ct.mha", np.stack([example()] * 3, axis=-1))


def not_finite(folder: Path) -> Path:
    array = example().astype(np.float32)
    array[0, 0, :2], array[1, 1, 1] = np.nan, np.inf
    return write_nifti(folder / "ct.nii.gz", array)


def infinite(folder: Path) -> Path:
    array = example().astype(np.float32)
    array[1, 1, 1] = -np.inf
    return write_nifti(folder / "ct.nii.gz", array)


def constant(folder: Path) -> Path:
    return write_nifti(folder / "ct.nii.gz", np.full(SHAPE, -1024, dtype=np.int16))


def flat(folder: Path) -> Path:
    affine = AFFINE.copy()
    affine[:3, 1] = affine[:3, 0]
    image = nib.Nifti1Image(example(), AFFINE)
    image.header.set_sform(affine, code=1)
    image.header.set_qform(AFFINE, code=0)
    image._affine = affine
    nib.save(image, folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def color(folder: Path) -> Path:
    array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return write_nifti(folder / "ct.nii.gz", array)


def complex_numbers(folder: Path) -> Path:
    return write_nifti(folder / "ct.nii.gz", example().astype(np.complex64))


def unknown_kind(folder: Path) -> Path:
    (folder / "ct.png").write_bytes(b"\x89PNG")
    return folder / "ct.png"


def one_dicom_slice(folder: Path) -> Path:
    return write_dicom_series(example(), AFFINE, folder)[2]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (missing, r"ct\.nii\.gz: no such file or folder; expected a NIfTI .* Check the path"),
        (text, r"ct\.nii\.gz: not a gzip file or damaged .*; expected a compressed NIfTI"),
        (text_without_gz, r"ct\.nii: can't be read as NIfTI .*; expected a whole NIfTI-1 or NIfTI-2 file"),
        (truncated, r"ct\.nii\.gz: the compressed file is cut off .*; expected a whole NIfTI"),
        (truncated_checksum, r"ct\.nii\.gz: the compressed file is cut off .*; expected a whole NIfTI"),
        (truncated_before_packing, r"ct\.nii\.gz: can't be read as NIfTI .*It may be cut off"),
        (empty, r"ct\.nii\.gz: can't be read as NIfTI .*It may be cut off"),
        (truncated_nii, r"ct\.nii: can't be read as NIfTI .*It may be cut off"),
        (truncated_mha, r"ct\.mha: can't be read as metaimage: .* are 892 bytes, cut off; expected 1008"),
        (text_nrrd, r"ct\.nrrd: not a nrrd file, whatever its suffix says"),
        (two_d, r"ct\.nii\.gz: 2-D image of shape \(9, 8\); expected a 3-D volume"),
        (one_slice, r"ct\.nii\.gz: 2-D image of shape \(9, 8, 1\); expected a 3-D volume"),
        (four_d, r"4-D image of shape \(9, 8, 7, 3\).*Choose an index of axis 3, 0 to 2.*img\.slicer\[\.\.\., 0\]"),
        (
            four_d_nrrd,
            r"ct\.nrrd: 4-D image of shape \(9, 8, 7, 3\).*index of axis 3, 0 to 2.*itk\.imread\('ct\.nrrd'\)",
        ),
        (four_d_mha, r"ct\.mha: 4-D image of shape \(9, 8, 7, 3\).*index of axis 3, 0 to 2.*NumPy's axis 0"),
        (not_finite, r"ct\.nii\.gz: 2 NaN and 1 infinite voxels of 504; expected HU everywhere"),
        (infinite, r"ct\.nii\.gz: 0 NaN and 1 infinite voxels of 504"),
        (constant, r"ct\.nii\.gz: all 504 voxels are -1024\.0; expected a CT in HU"),
        (flat, r"ct\.nii\.gz: the affine .* can't be inverted"),
        (color, r"ct\.nii\.gz: its voxels are .* \(color or complex\); expected one number"),
        (complex_numbers, r"ct\.nii\.gz: its voxels are complex64 \(color or complex\)"),
        (unknown_kind, r"ct\.png: unknown kind of file; expected a NIfTI"),
        (one_dicom_slice, r"the series has 1 slice.*Give the folder"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, bad: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CTReader().read(bad(tmp_path))


def test_series_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a series was chosen \(1\.2\.3\), but this is a file"):
        CTReader(series_uid="1.2.3").read(write_nifti(tmp_path / "ct.nii", example()))


def test_one_volume_is_read_at_a_time(tmp_path: Path) -> None:
    file = write_nifti(tmp_path / "ct.nii", example())
    with pytest.raises(InputError, match="2 paths given as one image"):
        CTReader().read([file, file])


def test_suffixes(tmp_path: Path) -> None:
    assert CTReader().verify_suffix([tmp_path, "A.NII.GZ", "b.mha"])
    assert not CTReader().verify_suffix("a.png")


def flip_a_byte(content: bytes) -> bytes:
    place = len(content) - 200
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def leave_a_hole(content: bytes) -> bytes:
    return content[:-300] + b"\0" * 300


def leave_out_the_size(content: bytes) -> bytes:
    return re.sub(rb"CompressedDataSize = \d+\n", b"", content)


@pytest.mark.parametrize("name", ["ct.mha", "ct.mhd"])
@pytest.mark.parametrize("damage", [flip_a_byte, leave_a_hole, leave_out_the_size])
def test_damaged_voxels_of_a_compressed_metaimage_are_refused(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    """ITK gives what lies in memory in their place."""
    file = write_itk(tmp_path / name, example())
    damaged = file if name == "ct.mha" or damage is leave_out_the_size else tmp_path / "ct.zraw"
    content = damaged.read_bytes()
    damaged.write_bytes(damage(content))
    assert damaged.read_bytes() != content
    with pytest.raises(InputError, match="can't be read as metaimage: .*Copy it again"):
        CTReader().read(file)


def test_two_voxel_sizes_are_said(tmp_path: Path) -> None:
    image = nib.Nifti1Image(example(), AFFINE)
    image.header.set_zooms([0.7, 0.7, 5.0])
    nib.save(image, tmp_path / "ct.nii")
    header = nib.load(tmp_path / "ct.nii").header
    assert not np.allclose(header.get_zooms(), nib.affines.voxel_sizes(header.get_sform()))
    (warned,) = CTReader().read(tmp_path / "ct.nii").warnings
    assert "two voxel sizes differ" in warned and "sform was used" in warned


def test_a_rounded_quaternion_is_no_obstacle(tmp_path: Path) -> None:
    file = write_nifti(tmp_path / "ct.nii", example())
    content = bytearray(file.read_bytes())
    content[252:254] = np.int16(1).tobytes()  # qform_code
    content[256:268] = np.array([0.8, 0.6001, 0.0], np.float32).tobytes()  # a little more than a unit
    file.write_bytes(content)
    (warned,) = CTReader().read(file).warnings
    assert "qform can't be read: sform was used" in warned


def test_no_warning_hides_another(tmp_path: Path) -> None:
    image = nib.Nifti1Image(example(), AFFINE)
    image.set_qform(np.diag([-1, 1, 1, 1]) @ AFFINE, code=1)
    image.header.set_zooms([0.7, 0.7, 5.0])
    nib.save(image, tmp_path / "ct.nii")
    warned = CTReader().read(tmp_path / "ct.nii").warnings
    assert ["two voxel sizes differ" in text for text in warned] == [True, False]
    assert "sform LPS, qform RPS" in warned[1]
