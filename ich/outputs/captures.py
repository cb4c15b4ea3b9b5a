"""Key slices as DICOM Secondary Capture images (PS3.3 A.8), clearly marked as not for diagnosis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DS

from ich.dicom import read_header, read_hu
from ich.dicom.header import Header
from ich.dicom.orientation import UNKNOWN
from ich.files import for_owner_only, replacing
from ich.image.window import apply_window
from ich.outputs.refusal import OutputRefused
from ich.outputs.source import MANUFACTURER, building, derive_uid, describe_device, read_sources
from ich.schema import DISCLAIMER, SIDES, WINDOWS, ReadError
from ich.schema.codes import OutputRefusal
from ich.schema.labels import say_label
from ich.schema.results import StudyResult
from ich.tables import split_name

__all__ = ["write_key_images"]

SERIES_NUMBER = 9101
"""High, so that a scanner is unlikely to use it."""

WARNING = "NOT FOR DIAGNOSIS"
WINDOW = "brain"
MIN_SIDE = 512  # pixels: below it an image is enlarged, or the text would be wider than it
_MARGIN = 8  # pixels around a line of text
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def write_key_images(result: StudyResult, files: Mapping[str, Path], out_dir: Path) -> list[Path]:
    """Writes the key slices of a study as images in a new series of the study.

    Each image shows the slice in the brain window and in LPS. A strip above it says ``NOT FOR DIAGNOSIS`` and
    research use only. The strip also gives the number of the slice, its probability, and R and L above the
    patient's sides. It covers no pixel of the slice. If the head contradicts its geometry, there are no
    letters, and PatientOrientation is empty. The image refers to its source image. UIDs follow from the
    result, so a second run overwrites.

    Args:
        result: The study's result.
        files: Files by SOPInstanceUID, at least those of ``result.slices``.
        out_dir: Existing folder for ``key_image_1.dcm``, which shows the most probable slice, and so on;
            readable by the owner only.

    Returns:
        The files, the most probable slice first; none if the result has no key slices.

    Raises:
        OutputRefused: If the study has no result, or its slices lack required attributes; then nothing is
            written.
        OSError: If an image cannot be written.
    """
    sources = read_sources(result, files)
    with building():
        images = [
            _make_image(result, rank, sources[n], *_read(files, result.slices[n].SOPInstanceUID))
            for rank, n in enumerate(result.key_slices, 1)
        ]
        paths = [out_dir / f"key_image_{rank}.dcm" for rank in range(1, len(images) + 1)]
        for image, path in zip(images, paths, strict=True):
            with for_owner_only(), replacing(path) as partial:
                image.save_as(partial)
    return paths


def draw_key_image(
    hu: NDArray[np.int16], lines: Sequence[str], knows_sides: bool = True
) -> tuple[NDArray[np.uint8], int]:
    """Draws a slice in the brain window below lines of text, and R and L above its sides.

    Args:
        hu: (Rows, Columns) int16, in LPS.
        lines: Lines of text, each as large as the width allows; the first at most twice as large as the
            others.
        knows_sides: Whether the patient's left side is known.

    Returns:
        (H, W) uint8 of at least ``MIN_SIDE`` columns, and how many times the slice is enlarged.
    """
    times = math.ceil(MIN_SIDE / min(hu.shape))
    gray = (apply_window(torch.from_numpy(hu.copy()), *WINDOWS[WINDOW]) * 255).round().byte().numpy()
    rows, columns = hu.shape
    large = cv2.resize(gray, (columns * times, rows * times), interpolation=cv2.INTER_LINEAR)
    strips = [_draw_line(line, columns * times, 2.0 if n == 0 else 1.0) for n, line in enumerate(lines)]
    if knows_sides:
        strips.append(_draw_sides(columns * times))
    return np.concatenate([*strips, large]), times


def _draw_sides(columns: int) -> NDArray[np.uint8]:
    """Draws the letters of the patient's sides at the ends of a strip, (H, columns)."""
    right, left = (_draw_line(letter, columns, 2.0) for letter in SIDES)
    last = int(np.flatnonzero(left.any(axis=0))[-1])
    return np.maximum(right, np.roll(left, columns - _MARGIN - 1 - last, axis=1))


def _draw_line(text: str, columns: int, size: float) -> NDArray[np.uint8]:
    """Draws white on black, (H, columns): ``size`` times as large as usual at this width, or as it fits."""
    font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(columns * size / MIN_SIDE))
    scale = 0.55 * size * columns / MIN_SIDE
    (width, _), _ = cv2.getTextSize(text, font, scale, thickness)
    scale *= min(1.0, (columns - 2 * _MARGIN) / width)
    (_, height), below = cv2.getTextSize(text, font, scale, thickness)
    strip = np.zeros((height + below + _MARGIN, columns), dtype=np.uint8)
    cv2.putText(strip, text, (_MARGIN, height + _MARGIN // 2), font, scale, 255, thickness, cv2.LINE_AA)
    return strip


def _read(files: Mapping[str, Path], name: str) -> tuple[Header, NDArray[np.int16]]:
    path, (_, frame) = files[name], split_name(name)
    try:
        return read_header(path, frame), read_hu(path, frame)
    except ReadError as error:
        raise OutputRefused(
            OutputRefusal.UNREADABLE_SOURCE, f"a key slice can no longer be read ({error.code})"
        ) from error


def _make_image(
    result: StudyResult, rank: int, source: Dataset, header: Header, hu: NDArray[np.int16]
) -> SCImage:
    if header.orientation == UNKNOWN:
        raise OutputRefused(
            OutputRefusal.MISSING_ATTRIBUTE,
            "a key slice has no ImageOrientationPatient that gives the patient's left and right",
        )
    n = result.key_slices[rank - 1]
    seen = "this slice" if len(result.list_slab(n)) == 1 else "this mean"
    finding = say_label(result.headline, result.labels).removeprefix("any ")
    prob = (result.slices[n].calibrated or result.slices[n].probs)[result.headline]
    line = (
        f"{MANUFACTURER} {result.algorithm.version}: {result.name_slice(n)}, {finding} in {seen} {prob:.0%}"
    )
    pixels, times = draw_key_image(hu, (WARNING, DISCLAIMER, line), result.knows_sides)
    image = SCImage.from_ref_dataset(
        source,
        pixel_array=pixels,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=derive_uid(result, "key images", "series"),
        series_number=SERIES_NUMBER,
        series_description=f"{MANUFACTURER} key images, {WARNING}",
        sop_instance_uid=derive_uid(result, "key images", header.SOPInstanceUID),
        instance_number=rank,
        patient_orientation=("L", "P"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **describe_device(result.algorithm),
    )
    if not result.knows_sides:
        image.PatientOrientation = []
    image.copy_patient_and_study_information(source)
    _describe(image, source, header, times)
    return image


def _describe(image: SCImage, source: Dataset, header: Header, times: int) -> None:
    """Describes how the image was made (PS3.3 C.7.6.1, General Image)."""
    center, width = WINDOWS[WINDOW]
    enlarged = f", enlarged {times} times by linear interpolation" if times > 1 else ""
    image.BodyPartExamined = "HEAD"  # no other part is read, and a head is not paired
    image.ConversionType = "WSD"  # a workstation; no film was scanned
    image.ImageComments = f"{WARNING}. {DISCLAIMER}."
    image.DerivationDescription = (
        f"{WINDOW} window, center {center:g} HU, width {width:g} HU{enlarged}; a strip with text on top. "
        f"{WARNING}"
    )
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if header.frame:
        reference.ReferencedFrameNumber = header.frame
    reference.PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    image.SourceImageSequence = [reference]
    spacing = (header.row_spacing, header.column_spacing)
    if all(map(math.isfinite, spacing)):
        image.PixelSpacing = [DS(each / times, auto_format=True) for each in spacing]
    # Burned-in annotation identifies the patient or the date (PS3.3 C.7.6.1). The strip does neither, and a
    # reconstruction from the scanner's data has none.
    if "BurnedInAnnotation" in source:
        image.BurnedInAnnotation = source.BurnedInAnnotation
    elif source.get("ImageType", [""])[0] == "ORIGINAL":
        image.BurnedInAnnotation = "NO"
    for keyword in _LOSSY:  # once lossy, always lossy (PS3.3 C.7.6.1.1.5)
        if keyword in source:
            setattr(image, keyword, source[keyword].value)
