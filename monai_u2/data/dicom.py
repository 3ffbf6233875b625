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


"""CT series in DICOM, read with pydicom: every slice is checked before a voxel is believed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_u2.data.dicom_frames import Frame, frames_of, stack_frames
from monai_u2.data.folders import files_below
from monai_u2.exceptions import InputError, SeriesReferenceError

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["SeriesHeaders", "SeriesInfo", "is_dicom", "list_series", "read_headers", "read_series"]

logger = logging.getLogger(__name__)

AIR_HU = -1024.0
# transfer syntaxes that pydicom can't decode alone, and what decodes them
_CODECS = {
    "1.2.840.10008.1.2.4.50": "python-gdcm",
    "1.2.840.10008.1.2.4.51": "python-gdcm",
    "1.2.840.10008.1.2.4.57": "python-gdcm",
    "1.2.840.10008.1.2.4.70": "python-gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.5": "pylibjpeg pylibjpeg-rle",
}
_CT_IMAGE_CLASSES = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
# screenshots such as dose reports, and segmentations: images, but no scans
_DERIVED_CLASSES = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.66.4")
_PREAMBLE = 128
_SCAN_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "SeriesDescription",
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "Rows",
    "NumberOfFrames",
]


@dataclass(frozen=True)
class SeriesInfo:
    """One series of a folder.

    Attributes:
        uid: SeriesInstanceUID ("" where the files have none).
        modality: as in the files: "CT", "MR", …
        num_files: how many files belong to it.
        num_images: how many slices or frames these files hold; 0 for reports, structure sets, and the like.
        description: SeriesDescription; free text of a scanner or a person, so never logged.
        patient: a digest that tells patients apart, never a name or id.
        study: a digest that tells studies apart ("" where the files don't name theirs).
        is_localizer: every image is a localizer (scout).
        is_derived: every image is a screenshot (secondary capture), such as a dose report, or a segmentation.
        files: the files, sorted by name.
    """

    uid: str
    modality: str
    num_files: int
    num_images: int
    description: str
    patient: str
    study: str
    is_localizer: bool
    is_derived: bool
    files: tuple[Path, ...]


@dataclass(frozen=True)
class SeriesHeaders:
    """What the files of one CT series say beside their pixels.

    Attributes:
        files: a header for each file, by the place of its first slice along the stack.
        frames: the slices, in the order of the volume's last axis.
        affine: (4, 4) float64, voxel index (column, row, slice) to RAS mm.
        series: 16 hex digits of a SHA-256, as :py:func:`read_series` gives them.
    """

    files: dict[Path, Dataset]
    frames: list[Frame]
    affine: np.ndarray
    series: str


def is_dicom(path: Path) -> bool:
    """Return whether a CT is read as DICOM: a folder, or a file with DICOM's preamble."""
    if path.is_dir():
        return True
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def list_series(folder: str | Path) -> list[SeriesInfo]:
    """List the DICOM series below a folder (or of one file), sorted by UID.

    Raises:
        InputError: nothing below ``folder`` is DICOM, or files that should be (by preamble or a name in ``.dcm``) are
            broken.
    """
    grouped: dict[str, list[tuple[Path, Dataset]]] = {}
    for file, header in _scan(Path(folder)):
        grouped.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((file, header))
    if not grouped:
        raise InputError(
            f"{folder}: no DICOM file found in it; expected the files of one CT series. "
            "Give the folder that holds them (it is searched recursively), or a NIfTI, NRRD, or MetaImage file."
        )
    return [_describe_series(uid, grouped[uid]) for uid in sorted(grouped)]


def read_series(folder: str | Path, series_uid: str | None = None) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Read one CT series as a volume in HU.

    Slices are sorted by position; the slice distance comes from the positions. Each slice's rescale slope and intercept
    are applied once. Padding (PixelPaddingValue) is raised to −1024 HU where it lies below. Localizers are dropped
    with a warning.

    Args:
        folder: folder of the series, searched recursively, or one multi-frame file.
        series_uid: which series to read where the folder holds several.

    Returns:
        The volume, float32, axes (column, row, slice) as nibabel and ITK order them; the affine, (4, 4) float64, voxel
        index to RAS mm; and a dict of ``series`` (16 hex digits of a SHA-256, never the UID) and ``warnings`` (texts).

    Raises:
        InputError: no DICOM file, a broken one, several series and no ``series_uid``, an unknown one, two patients or
            two studies, another modality than CT, slices missing, duplicate, or of different geometry, a tilted gantry,
            no rescale values, pixel data that are missing or can't be decoded.
    """
    series, datasets, frames, affine, warnings = _read_stack(Path(folder).resolve(), series_uid)
    volume = _read_voxels(datasets, frames)
    for text in warnings:
        logger.warning(text)
    identity = series.uid.encode() or np.ascontiguousarray(volume).data
    info = {"series": _digest(identity), "warnings": warnings}
    return volume.transpose(2, 1, 0), affine, info


def read_headers(folder: str | Path, series_uid: str | None = None) -> SeriesHeaders:
    """Read the headers of the series that :py:func:`read_series` reads with the same arguments.

    Raises:
        InputError: as :py:func:`read_series`, but for pixel data.
        SeriesReferenceError: a series without a UID.
    """
    root = Path(folder).resolve()
    series, datasets, frames, affine, _ = _read_stack(root, series_uid, with_pixels=False)
    if not series.uid:
        raise SeriesReferenceError(
            root.name,
            "the series has no SeriesInstanceUID, so nothing can refer to it; expected one. Export the series with its "
            "UIDs.",
        )
    files = {frame.file: datasets[frame.file] for frame in frames}
    return SeriesHeaders(files, frames, affine, _digest(series.uid.encode()))


def _read_stack(
    root: Path, series_uid: str | None, with_pixels: bool = True
) -> tuple[SeriesInfo, dict[Path, Dataset], list[Frame], np.ndarray, list[str]]:
    """Choose a series and read its files; their slices are sorted and make a regular stack."""
    series, warnings = _select_series(root, list_series(root), series_uid)
    datasets, num_localizers = _read_datasets(series, with_pixels)
    if num_localizers:
        warnings.append(f"{num_localizers} localizer image(s) of the series were left out")
    frames = [frame for file, dataset in datasets.items() for frame in frames_of(file, dataset)]
    if len(frames) < 2:
        raise InputError(
            f"{root.name}: the series has {len(frames)} slice; a volume needs at least 2. "
            "Give the folder that holds all slices of the series."
        )
    frames, affine = stack_frames(frames)
    return series, datasets, frames, affine, warnings


def _read_voxels(datasets: dict[Path, Dataset], frames: Sequence[Frame]) -> np.ndarray:
    """Decode the files into HU, (slice, row, column) float32. ``datasets`` is emptied, so that memory holds it once."""
    volume = np.empty((len(frames), *frames[0].size), dtype=np.float32)
    slots: dict[Path, list[tuple[int, Frame]]] = {}
    for slot, frame in enumerate(frames):
        slots.setdefault(frame.file, []).append((slot, frame))
    for file, own in slots.items():
        dataset = datasets.pop(file)
        stored = _decode(file, dataset)
        if len(stored) != len(own):
            raise InputError(
                f"{file.name}: {len(stored)} frames of pixel data, {len(own)} positions; expected one each. "
                "Export the series again."
            )
        padding = _padding_mask(dataset, stored)
        for slot, frame in own:
            volume[slot] = stored[frame.index]
            volume[slot] *= frame.slope
            volume[slot] += frame.intercept
            if padding is not None:
                volume[slot][padding[frame.index] & (volume[slot] < AIR_HU)] = AIR_HU
    return volume


def _scan(root: Path) -> list[tuple[Path, Dataset]]:
    """Read the headers of the DICOM files below a folder, or of one file; what plainly isn't DICOM is passed over."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    found: list[tuple[Path, Dataset]] = []
    broken: list[Path] = []
    for file in [root] if root.is_file() else files_below(root):
        is_directory = file.name.partition(";")[0].rstrip(".").upper() == "DICOMDIR"  # as discs are mounted: dicomdir;1
        if is_directory or (file.name.startswith("._") and file != root):  # macOS writes "._name" files
            continue
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_SCAN_TAGS)
        except InvalidDicomError:
            if _looks_like_dicom(file):
                broken.append(file)
            else:
                logger.debug("a file of the folder is not DICOM and was passed over")
        except Exception:  # pydicom raises nearly anything on a broken file
            broken.append(file)
        else:
            if _is_cut_off(header):
                broken.append(file)
            else:
                found.append((file, header))
    if broken:
        raise InputError(
            f"{_names(broken)}: can't be read as DICOM: empty, cut off, or damaged; expected whole files. "
            "Copy or export the series again, or take what doesn't belong to it out of the folder."
        )
    return found


def _looks_like_dicom(file: Path) -> bool:
    """Tell whether a file that pydicom can't read was meant to be DICOM: of that suffix, or named as discs and archives
    name slices (IM0005, 1.2.840.5) and empty, begun with zeros as a preamble is, or without that preamble."""
    import pydicom

    if file.suffix.lower() == ".dcm":
        return True
    if file.name.startswith(".") or file.suffix[1:].isalpha():
        return False
    with file.open("rb") as stream:
        if not stream.read(_PREAMBLE).strip(b"\0"):
            return True
    try:
        return "SOPClassUID" in pydicom.dcmread(
            file, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"]
        )
    except Exception:  # pydicom raises nearly anything on what isn't DICOM
        return False


def _is_cut_off(header: Dataset) -> bool:
    """Return whether a header ends before an image's size: pydicom takes a file's end for the end of its header."""
    if "Rows" in header:
        return False
    return "Modality" not in header or header.get("SOPClassUID", _CT_IMAGE_CLASSES[0]) in _CT_IMAGE_CLASSES


def _names(files: Sequence[Path]) -> str:
    shown = ", ".join(file.name for file in files[:3])
    return shown if len(files) <= 3 else f"{shown} and {len(files) - 3} more"


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _is_localizer(header: Dataset) -> bool:
    return "LOCALIZER" in [str(value).upper() for value in header.get("ImageType") or []]


def _is_derived(header: Dataset) -> bool:
    sop_class = str(header.get("SOPClassUID", ""))
    return any(sop_class == one or sop_class.startswith(f"{one}.") for one in _DERIVED_CLASSES)


def _patient(header: Dataset) -> tuple[str, str]:
    """PatientID and PatientName, the name without the empty components at its end, which DICOM lets writers omit."""
    groups = str(header.get("PatientName") or "").split("=")
    groups = ["^".join(part.strip() for part in group.split("^")).rstrip("^") for group in groups]
    return str(header.get("PatientID") or "").strip(), "=".join(groups).rstrip("=")


def _describe_series(uid: str, items: Sequence[tuple[Path, Dataset]]) -> SeriesInfo:
    images = [header for _, header in items if "Rows" in header]
    first = images[0] if images else items[0][1]
    return SeriesInfo(
        uid=uid,
        modality=str(first.get("Modality") or "unknown"),
        num_files=len(items),
        num_images=sum(int(header.get("NumberOfFrames") or 1) for header in images),
        description=str(first.get("SeriesDescription") or ""),
        patient=_digest("|".join(_patient(first)).encode()),
        study=_digest(str(first.StudyInstanceUID).encode()) if first.get("StudyInstanceUID") else "",
        is_localizer=bool(images) and all(_is_localizer(header) for header in images),
        is_derived=bool(images) and all(_is_derived(header) for header in images),
        files=tuple(file for file, _ in items),
    )


def _table(series: Sequence[SeriesInfo]) -> str:
    return "\n".join(f"  --series {one.uid or '(none)'}  {one.modality}, {one.num_images} slices" for one in series)


def _select_series(root: Path, found: Sequence[SeriesInfo], series_uid: str | None) -> tuple[SeriesInfo, list[str]]:
    images = [one for one in found if one.num_images]
    warnings: list[str] = []
    if series_uid is not None:
        chosen = [one for one in found if one.uid == series_uid]
        if not chosen:
            raise InputError(f"{root.name}: no series {series_uid!r} in it; expected one of\n{_table(images)}")
    else:
        chosen = [one for one in images if not (one.is_localizer or one.is_derived)]
        if len(chosen) > 1:
            num_patients = len({one.patient for one in chosen})
            raise InputError(
                f"{root.name}: it holds {len(chosen)} image series of {num_patients} patient(s); a report describes "
                f"one series. Choose it:\n{_table(chosen)}"
            )
        if not chosen:
            what = "only localizers (scouts), screenshots or segmentations" if images else "no images"
            raise InputError(f"{root.name}: its DICOM files are {what}; expected the slices of one CT series.")
        warnings = [
            f"a {'localizer series' if one.is_localizer else 'series of screenshots or segmentations'} of "
            f"{one.num_images} image(s) in the folder was left out"
            for one in images
            if one is not chosen[0]
        ]
    if chosen[0].modality != "CT":
        raise InputError(
            f"{root.name}: the series' modality is {chosen[0].modality}; expected CT, whose voxels are in HU. "
            "Give a CT series: the model can't read another modality."
        )
    if chosen[0].is_localizer:
        raise InputError(f"{root.name}: series {series_uid} is a localizer (scout); expected a volume's slices.")
    return chosen[0], warnings


def _read_datasets(series: SeriesInfo, with_pixels: bool) -> tuple[dict[Path, Dataset], int]:
    """Read a series' files without its localizers; the second value counts these."""
    import pydicom

    datasets: dict[Path, Dataset] = {}
    without_pixels: list[Path] = []
    num_localizers = 0
    for file in series.files:
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=not with_pixels)
        except (EOFError, OSError) as error:
            raise InputError(
                f"{file.name}: can't be read as DICOM ({error}). Copy or export the series again."
            ) from error
        if _is_localizer(dataset):
            num_localizers += 1
        elif "Rows" in dataset:
            datasets[file] = dataset
            if with_pixels and "PixelData" not in dataset:
                without_pixels.append(file)
    if without_pixels:
        raise InputError(
            f"{_names(without_pixels)}: no pixel data, so the series has a hole; expected them in every slice. "
            "The files may be cut off: copy or export the series again."
        )
    patients = {_patient(one) for one in datasets.values()}
    if len(patients) > 1:
        raise InputError(
            f"{series.files[0].parent.name}: the series' slices belong to {len(patients)} patients (PatientID and "
            "PatientName differ); expected one. Separate the files and give a folder with one patient's series."
        )
    if len(studies := {str(one.get("StudyInstanceUID", "")) for one in datasets.values()}) > 1:
        raise InputError(
            f"{series.files[0].parent.name}: the series' slices belong to {len(studies)} studies; expected one. "
            "Separate the files and give a folder with one study's series."
        )
    worlds = {str(one.get("FrameOfReferenceUID", "")) for one in datasets.values()}
    if len(worlds) > 1:
        raise InputError(
            f"{series.files[0].parent.name}: the series' slices have {len(worlds)} frames of reference, so their "
            "positions can't be compared; expected one. Give the slices of one acquisition."
        )
    return datasets, num_localizers


def _decode(file: Path, dataset: Dataset) -> np.ndarray:
    """Return a file's stored values, (frames, rows, columns)."""
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        stored = dataset.pixel_array
    except Exception as error:  # pydicom and its plugins raise nearly anything on a broken stream
        if syntax in _CODECS and not get_decoder(syntax).is_available:
            raise InputError(
                f"{file.name}: compressed with {syntax.name}, and no decoder for it is installed. "
                f"Install one: pip install {_CODECS[syntax]}"
            ) from error
        raise InputError(
            f"{file.name}: its pixel data ({syntax.name}) can't be decoded ({error}); expected "
            f"{dataset.Rows} x {dataset.Columns} values a slice. The file may be cut off: copy or export it again."
        ) from error
    return stored.reshape(-1, int(dataset.Rows), int(dataset.Columns))


def _padding_mask(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return None
    bounds = sorted((int(padding), int(dataset.get("PixelPaddingRangeLimit", padding))))
    return (stored >= bounds[0]) & (stored <= bounds[1])
