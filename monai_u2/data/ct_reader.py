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


"""One reader for the volumes a CT comes in: NIfTI, NRRD, MetaImage, and DICOM."""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from monai_u2.data.dicom import is_dicom, read_series
from monai_u2.exceptions import ConstantImageError, ImageGeometryError, InputError

__all__ = ["CTReader", "CTVolume"]

_SOURCES = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "metaimage",
    ".mhd": "metaimage",
}
_EXPECTED = (
    "a NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), or MetaImage (.mha, .mhd) file, or a folder of a DICOM series"
)
_SAVE_NIFTI_VOLUME = "img = nibabel.load(...); nibabel.save(img.slicer[..., 0], 'volume.nii.gz')"
_SAVE_ITK_VOLUME = (
    "image = itk.imread({name!r}); "
    "volume = itk.image_from_array(itk.array_from_image(image)[0]); "  # NumPy's axes are ITK's in the reverse order
    "volume.SetSpacing(list(image.GetSpacing())[:3]); volume.SetOrigin(list(image.GetOrigin())[:3]); "
    "volume.SetDirection(itk.array_from_matrix(image.GetDirection())[:3, :3].copy()); "
    "itk.imwrite(volume, 'volume{suffix}') (NumPy's axis 0 is this axis; check left and right: ITK takes them as LPS)"
)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SIZE_TOLERANCE = 0.01  # relative
_ZLIB_OR_GZIP = 47  # window bits of zlib that take both


@dataclass(frozen=True)
class CTVolume:
    """What :meth:`CTReader.read` returns.

    Attributes:
        array: (X, Y, Z), numbers in HU.
        affine: (4, 4) float64, voxel index to RAS mm.
        source: "nifti", "nrrd", "metaimage", or "dicom".
        series: 16 hex digits that tell scans apart: SHA-256 of the file's bytes or of the SeriesInstanceUID.
        warnings: texts for the report.
    """

    array: np.ndarray
    affine: np.ndarray
    source: str
    series: str
    warnings: list[str] = field(default_factory=list)


class CTReader(ImageReader):
    """Reader of one CT volume that refuses what isn't whole, 3-D, or finite.

    :py:class:`monai_u2.transforms.LoadCT` reads with it. MONAI's ``LoadImage`` hides the errors of the readers that it
    was built with, so give it this one at call time: ``LoadImage()(filename, reader=CTReader())``.

    Args:
        series_uid: SeriesInstanceUID to read where a DICOM folder holds several.
    """

    def __init__(self, series_uid: str | None = None) -> None:
        super().__init__()
        self.series_uid = series_uid

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Return whether every path is a folder or has a suffix that this reader knows."""
        return all(Path(name).is_dir() or _source(Path(name)) is not None for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | Path] | str | Path, volume_index: int | None = None, **kwargs: Any) -> CTVolume:
        """Read one volume completely.

        Args:
            data: the path.
            volume_index: which volume of a 4-D NIfTI file; None refuses such files.
            kwargs: not used; MONAI's interface.

        Raises:
            InputError: the file or folder is missing, of an unknown kind, broken or cut off; the image is not 3-D, not
                gray, has NaN or infinite voxels, one value only, or an affine that can't be inverted; or what
                :py:func:`monai_u2.data.read_series` refuses in a DICOM series.
        """
        paths = [Path(name) for name in ensure_tuple(data)]
        if len(paths) != 1:
            raise InputError(f"{len(paths)} paths given as one image; expected one: a report describes one CT.")
        path = paths[0]
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; expected {_EXPECTED}. Check the path.")
        source = "dicom" if is_dicom(path) else _source(path)
        if source is None:
            raise InputError(f"{path.name}: unknown kind of file; expected {_EXPECTED}. Convert it to one of these.")
        if source != "nifti":
            _check_volume_index(path, volume_index or 0, 1)
        if source == "dicom":
            array, affine, info = read_series(path, self.series_uid)
            volume = CTVolume(array, affine, source, info["series"], info["warnings"])
        elif self.series_uid is not None:
            raise InputError(f"{path.name}: a series was chosen ({self.series_uid}), but this is a file, not DICOM.")
        else:
            volume = _read_nifti(path, volume_index) if source == "nifti" else _read_itk(path, source)
        _check_geometry(path, volume.affine)
        _check_voxels(path, volume.array)
        return volume

    def get_data(self, img: CTVolume) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the array (X, Y, Z) and MONAI's metadata, plus ``source``, ``series``, and ``warnings`` (lines)."""
        return img.array, {
            MetaKeys.AFFINE: img.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: img.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(img.array.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),  # MONAI's "no channel"
            MetaKeys.SPACE: SpaceKeys.RAS,
            "source": img.source,
            "series": img.series,
            "warnings": "\n".join(img.warnings),  # MONAI can't collate lists of different lengths
        }


def _source(path: Path) -> str | None:
    name = path.name.lower()
    return next((source for suffix, source in _SOURCES.items() if name.endswith(suffix)), None)


def _read_nifti(path: Path, volume_index: int | None = None) -> CTVolume:
    import nibabel as nib
    from isal import igzip, isal_zlib  # unpacks twice as fast as Python's own

    content = path.read_bytes()
    series = hashlib.sha256(content).hexdigest()[:16]
    if path.name.lower().endswith(".gz"):
        try:
            # unpacked at once: nibabel stops at the last voxel and never checks the sum at the end
            content = igzip.decompress(content)
        except gzip.BadGzipFile as error:
            raise InputError(
                f"{path.name}: not a gzip file or damaged ({error}); expected a compressed NIfTI. "
                "Copy it again, or write it with nib.save."
            ) from error
        except (EOFError, isal_zlib.error) as error:
            raise InputError(
                f"{path.name}: the compressed file is cut off or damaged ({error}); expected a whole NIfTI. "
                "Copy or download it again."
            ) from error
    image_class = nib.Nifti2Image if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image
    try:
        image = image_class.from_bytes(content)
        if image.get_data_dtype().fields or image.get_data_dtype().kind not in "iuf":
            raise InputError(
                f"{path.name}: its voxels are {image.get_data_dtype()} (color or complex); "
                "expected one number in HU each. Give the CT itself."
            )
        if volume_index is not None and len(image.shape) in (3, 4):
            _check_volume_index(path, volume_index, image.shape[3] if len(image.shape) == 4 else 1)
            image = image.slicer[..., volume_index] if len(image.shape) == 4 else image
        _check_dimensions(path, image.shape, source="nifti")
        array = np.asarray(image.dataobj, dtype=np.float32)  # applies scl_slope and scl_inter
    except InputError:
        raise
    except (
        nib.filebasedimages.ImageFileError,
        nib.spatialimages.HeaderDataError,
        nib.wrapstruct.WrapStructError,
        ValueError,
        OSError,
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path.name}: can't be read as NIfTI ({reason}); expected a whole NIfTI-1 or NIfTI-2 file. "
            "It may be cut off or of another kind: copy it again, or convert it."
        ) from error
    return CTVolume(
        array.reshape(image.shape[:3]), np.array(image.affine), "nifti", series, _nifti_warnings(image.header)
    )


def _nifti_warnings(header: Any) -> list[str]:
    import nibabel as nib

    sform, scode = header.get_sform(coded=True)
    try:
        qform, qcode = header.get_qform(coded=True)
    except (ValueError, nib.spatialimages.HeaderDataError):  # a quaternion rounded to more than a unit
        if not scode:
            raise
        return ["the NIfTI header's qform can't be read: sform was used"]
    warnings = []
    if scode:
        sizes, told = nib.affines.voxel_sizes(sform), np.array(header.get_zooms()[:3])
        if not np.allclose(sizes, told, rtol=_SIZE_TOLERANCE):
            shown = [" × ".join(f"{size:.3g}" for size in three) for three in (sizes, told)]
            warnings.append(
                f"the NIfTI header's two voxel sizes differ (sform {shown[0]} mm, pixdim {shown[1]} mm): sform was "
                "used, and sizes may be wrong"
            )
    if not qcode and not scode:
        return [
            "the NIfTI header says nothing about orientation (sform and qform codes are 0): "
            "left and right may be swapped"
        ]
    if qcode and scode:
        codes = ["".join(nib.aff2axcodes(affine)) for affine in (sform, qform)]
        if codes[0] != codes[1]:
            warnings.append(
                f"the NIfTI header's two orientations differ (sform {codes[0]}, qform {codes[1]}): sform was used, "
                "and left and right may be swapped"
            )
    return warnings


def _check_compressed_metaimage(path: Path, num_bytes: int) -> None:
    """Refuse a MetaImage whose compressed voxels aren't whole: ITK gives what lies in memory in their place."""
    header: dict[str, str] = {}
    with path.open("rb") as file:
        for line in file:
            key, _, value = re.sub(rb"[=:]", b"\0", line, count=1).partition(b"\0")
            header[key.strip().decode("latin-1")] = value.strip().decode("latin-1")
            if "ElementDataFile" in header:  # the header's last line
                break
        start = file.tell()
    if header.get("CompressedData", "").lower() not in ("true", "1"):
        return
    name = header.get("ElementDataFile", "")
    is_local = name.upper() == "LOCAL"
    data = path if is_local else path.parent / name
    if not data.is_file():
        return  # a list or a pattern, or missing, as ITK says then
    size, unpacker = 0, zlib.decompressobj(_ZLIB_OR_GZIP)
    problem = "" if header.get("CompressedDataSize", "").isdigit() else "CompressedDataSize is missing"
    try:
        with data.open("rb") as stream:
            stream.seek(start if is_local else 0)
            while not problem and not unpacker.eof and (chunk := stream.read(1 << 20)):
                size += len(unpacker.decompress(chunk))
    except zlib.error:
        problem = "its compressed voxels are damaged"
    if not problem and (not unpacker.eof or size != num_bytes):
        problem = f"its compressed voxels are {size} bytes{'' if unpacker.eof else ', cut off'}"
    if problem:
        raise InputError(
            f"{path.name}: can't be read as metaimage: {problem}; expected {num_bytes} bytes of voxels and their "
            "compressed size in the header. Copy it again, or convert it."
        )


def _read_itk(path: Path, source: str) -> CTVolume:
    import itk

    try:
        image_io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        if image_io is None:
            raise InputError(f"{path.name}: not a {source} file, whatever its suffix says. Convert or copy it again.")
        image_io.SetFileName(str(path))
        image_io.ReadImageInformation()
        shape = [image_io.GetDimensions(axis) for axis in range(image_io.GetNumberOfDimensions())]
        _check_dimensions(path, shape, source=source)
        if image_io.GetNumberOfComponents() != 1:
            raise InputError(
                f"{path.name}: {image_io.GetNumberOfComponents()} values a voxel (color or complex); "
                "expected one number in HU each. Give the CT itself."
            )
        if source == "metaimage":
            _check_compressed_metaimage(path, int(image_io.GetImageSizeInBytes()))
        image = itk.imread(str(path))
        array = itk.array_from_image(image)
    except InputError:
        raise
    except Exception as error:  # ITK's wrapping raises RuntimeError, KeyError, and TypeError
        raise InputError(
            f"{path.name}: can't be read as {source} ({_itk_reason(error)}); expected a whole file. "
            "It may be cut off, or its data file missing: copy it again."
        ) from error
    series = hashlib.sha256(array.data).hexdigest()[:16]
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection())[:3, :3] * np.array(image.GetSpacing())[:3]
    affine[:3, 3] = np.array(image.GetOrigin())[:3]
    array = array.T
    space = dict(image).get("NRRD_space")
    warnings = _metaimage_warnings(path) if source == "metaimage" else _nrrd_warnings(space)
    return CTVolume(array.reshape(array.shape[:3]), _LPS_TO_RAS @ affine, source, series, warnings)


def _nrrd_warnings(space: str | None) -> list[str]:
    if space in ("left-posterior-superior", "left-posterior-superior-time"):  # RAS and LAS, too: ITK turns them into it
        return []
    return [
        f"the NRRD header's space is {space or 'missing'}, not LPS, RAS, or LAS; LPS was assumed: "
        "left and right may be swapped"
    ]


def _metaimage_warnings(path: Path) -> list[str]:
    with path.open("rb") as file:
        for line in file:
            key = re.split(rb"[=:]", line, maxsplit=1)[0].strip()
            if key in (b"TransformMatrix", b"Rotation", b"Orientation"):  # three names of one thing
                return []
            if key == b"ElementDataFile":  # the header's last line
                break
    return ["the MetaImage header says nothing about orientation (no TransformMatrix): left and right may be swapped"]


def _itk_reason(error: Exception) -> str:
    """Return what ITK says went wrong, without the places in its own source."""
    lines = [line for line in str(error).splitlines() if "ITK ERROR" in line]
    return lines[0].split("ITK ERROR:", 1)[1].split("):", 1)[-1].strip() if lines else type(error).__name__


def _check_volume_index(path: Path, volume_index: int, count: int) -> None:
    if volume_index >= count:
        raise InputError(
            f"{path.name}: holds {count} volume{'' if count == 1 else 's'}; asked for is volume_index {volume_index}. "
            "Correct the record."
        )


def _check_dimensions(path: Path, shape: Sequence[int], source: str) -> None:
    extra = [axis for axis, size in enumerate(shape) if axis > 2 and size != 1]
    if extra:
        raise InputError(
            f"{path.name}: {len(shape)}-D image of shape {tuple(shape)}; expected one 3-D volume. Choose an index "
            f"of axis {extra[0]}, 0 to {shape[extra[0]] - 1}, and save that volume alone: "
            + (_SAVE_NIFTI_VOLUME if source == "nifti" else _SAVE_ITK_VOLUME.format(name=path.name, suffix=path.suffix))
        )
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise InputError(
            f"{path.name}: 2-D image of shape {tuple(shape)}; expected a 3-D volume with at least 2 voxels along each "
            "axis. Give the whole CT, not one slice."
        )


def _check_geometry(path: Path, affine: np.ndarray) -> None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    # the volume of a voxel against that of a box with its edges: 1 for right angles, 0 for a flat one
    if not np.isfinite(affine).all() or not spacing.all() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
        raise ImageGeometryError(
            f"{path.name}: the affine {affine[:3].round(3).tolist()} can't be inverted, so voxels have no place in the "
            "patient; expected three independent axes in mm. Export or convert the image again."
        )


def _check_voxels(path: Path, array: np.ndarray) -> None:
    low, high = array.min(), array.max()  # NaN wins in both
    if not (np.isfinite(low) and np.isfinite(high)):
        num_nan, num_infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        raise InputError(
            f"{path.name}: {num_nan} NaN and {num_infinite} infinite voxels of {array.size}; expected HU everywhere. "
            "Export the image again, or fill them with -1024 where they lie outside the scan."
        )
    if low == high:
        raise ConstantImageError(
            f"{path.name}: all {array.size} voxels are {low}; expected a CT in HU. Check the export."
        )
