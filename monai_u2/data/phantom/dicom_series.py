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

"""A volume as a series of DICOM CT images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_INTERCEPT = -1024


def write_dicom_series(
    hu: np.ndarray,
    affine: np.ndarray,
    folder: str | Path,
    *,
    series_uid: str | None = None,
    patient_id: str = "PHANTOM",
    transfer_syntax: str = EXPLICIT_LITTLE_ENDIAN,
) -> list[Path]:
    """Write a volume as one CT Image Storage series of axial slices, ``slice_0001.dcm`` being the lowest.

    Args:
        hu: int16 (X, Y, Z) in HU, at least -1024, in any axis order.
        affine: (4, 4) from voxel index to patient mm, RAS+, as nibabel's.
        folder: where the files go; made where needed.
        series_uid: SeriesInstanceUID; without it one follows from ``patient_id``. All other UIDs follow from it.
        patient_id: PatientID and PatientName.
        transfer_syntax: UID of the transfer syntax; compressed ones need an encoder that pydicom finds.

    Returns:
        the files' paths, from the feet to the head.

    Raises:
        ValueError: when ``hu`` isn't 3-D or leaves the range that 16 bits with an intercept of -1024 hold.
    """
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    if hu.ndim != 3:
        raise ValueError(f"hu has shape {hu.shape}; expected three axes")
    if hu.min() < _INTERCEPT or hu.max() > 65535 + _INTERCEPT:
        raise ValueError(f"hu reaches from {hu.min()} to {hu.max()}; expected {_INTERCEPT} to {65535 + _INTERCEPT}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    volume, to_patient = _to_axial(hu, affine)
    series = series_uid or generate_uid(entropy_srcs=[patient_id])
    spacing = np.linalg.norm(to_patient[:3, :3], axis=0)
    directions = to_patient[:3, :3] / spacing
    syntax = UID(transfer_syntax)
    paths = []
    for index in range(volume.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = _CT_IMAGE_STORAGE
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(index)])
        meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE_ENDIAN) if syntax.is_compressed else syntax
        path = folder / f"slice_{index + 1:04d}.dcm"
        image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID = meta.MediaStorageSOPClassUID
        image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        image.StudyInstanceUID = generate_uid(entropy_srcs=[series, "study"])
        image.SeriesInstanceUID = series
        image.FrameOfReferenceUID = generate_uid(entropy_srcs=[series, "frame"])
        _describe(image, patient_id, index)
        corner = to_patient @ np.array([0.0, 0.0, index, 1.0])
        image.ImagePositionPatient = _decimals(corner[:3])
        image.ImageOrientationPatient = _decimals([*directions[:, 0], *directions[:, 1]])
        image.PixelSpacing = _decimals([spacing[1], spacing[0]])
        image.SliceThickness = _decimals([spacing[2]])[0]
        _set_pixels(image, volume[:, :, index])
        if syntax.is_compressed:
            image.compress(syntax)
        pydicom.dcmwrite(path, image, enforce_file_format=True)
        paths.append(path)
    return paths


def _to_axial(hu: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the volume with axes to the left, the back and the head, and its affine to patient mm in LPS+."""
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    transform = ornt_transform(io_orientation(affine), axcodes2ornt("LPS"))
    reoriented = affine @ inv_ornt_aff(transform, hu.shape)
    return apply_orientation(hu, transform), np.diag([-1.0, -1.0, 1.0, 1.0]) @ reoriented


def _describe(image: Any, patient_id: str, index: int) -> None:
    """Fill in what the CT image module asks for beside geometry and pixels; dates and times stay empty."""
    image.Modality = "CT"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.Manufacturer = "monai_u2 phantom"
    image.SeriesDescription = "Phantom, chest and abdomen"
    image.BodyPartExamined = "CHEST"
    image.PatientName = patient_id
    image.PatientID = patient_id
    image.PatientBirthDate = ""
    image.PatientSex = ""
    image.PatientPosition = "HFS"
    image.StudyDate = ""
    image.StudyTime = ""
    image.StudyID = ""
    image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.PositionReferenceIndicator = ""
    image.SeriesNumber = 1
    image.AcquisitionNumber = 1
    image.InstanceNumber = index + 1
    image.KVP = "120"


def _set_pixels(image: Any, plane: np.ndarray) -> None:
    """Store a slice (columns, rows) in HU as unsigned 16-bit pixels."""
    pixels = np.ascontiguousarray((plane.T.astype(np.int32) - _INTERCEPT).astype("<u2"))
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated = 16
    image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    image.RescaleIntercept = _INTERCEPT
    image.RescaleSlope = 1
    image.RescaleType = "HU"
    image.WindowCenter, image.WindowWidth = 40, 400
    image.PixelData = pixels.tobytes()


def _decimals(values: Any) -> list[str]:
    """Return numbers as decimal strings of at most 16 characters, as DICOM wants them."""
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(value)) for value in values]
