"""Key slices as DICOM Secondary Capture images (PS3.3 A.8), clearly marked as not for diagnosis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
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
from ich.schema.shares import show_percent, show_prob
from ich.tables import split_name

__all__ = ["write_key_images"]

SERIES_NUMBER = 9101
"""High, so that a scanner is unlikely to use it."""

WARNING = "NOT FOR DIAGNOSIS"
WINDOW = "brain"
OUTLINE = 0.5
"""Share of a heat map's peak that is outlined."""

MIN_SIDE = 512  # pixels: below it an image is enlarged, or the text would be wider than it
_DASH = 6  # pixels of a picture of ``MIN_SIDE`` columns, as is the gap after it
_SHORTEST = 4 * _DASH  # pixels
_LINE = 50  # characters; a longer line would be smaller than the others
_MARGIN = 8  # pixels around a line of text
_NO_HEATS: Mapping[int, NDArray[np.float32]] = {}
_NO_BREAK = "\N{NO-BREAK SPACE}"
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def write_key_images(
    result: StudyResult,
    files: Mapping[str, Path],
    out_dir: Path,
    heats: Mapping[int, NDArray[np.float32]] = _NO_HEATS,
) -> list[Path]:
    """Writes the key slices of a study as images in a new series of the study.

    Each image shows the slice in the brain window and in LPS. A thin line surrounds where its heat map
    reaches ``OUTLINE`` of the peak. A strip above it says ``NOT FOR DIAGNOSIS`` and research use only. The
    strip also gives the number of the slice, its probabilities of the finding and of the subtypes that are
    present, and R and L above the patient's sides. It covers no pixel of the slice. If the head contradicts
    its geometry, there are no letters, and PatientOrientation is empty. The image refers to its source
    image. UIDs follow from the result, so a second run overwrites.

    Args:
        result: The study's result.
        files: Files by SOPInstanceUID, at least those of ``result.slices``.
        out_dir: Existing folder for ``key_image_1.dcm``, which shows the most probable slice, and so on;
            readable by the owner only.
        heats: (Rows, Columns) heat maps in [0, 1] by place in ``result.slices``. A slice without one gets no
            outline.

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
            _make_image(
                result, rank, sources[n], heats.get(n), *_read(files, result.slices[n].SOPInstanceUID)
            )
            for rank, n in enumerate(result.key_slices, 1)
        ]
        paths = [out_dir / f"key_image_{rank}.dcm" for rank in range(1, len(images) + 1)]
        for image, path in zip(images, paths, strict=True):
            with for_owner_only(), replacing(path) as partial:
                image.save_as(partial)
    return paths


def draw_key_image(
    hu: NDArray[np.int16],
    lines: Sequence[str],
    knows_sides: bool = True,
    heat: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.uint8], int]:
    """Draws a slice in the brain window below lines of text, R and L above its sides, and an outline in it.

    Args:
        hu: (Rows, Columns) int16, in LPS.
        lines: Lines of text, each as large as the width allows; the first at most twice as large as the
            others.
        knows_sides: Whether the patient's left side is known.
        heat: (Rows, Columns) in [0, 1]; its outline at ``OUTLINE`` is drawn.

    Returns:
        (H, W) uint8 of at least ``MIN_SIDE`` columns, and how many times the slice is enlarged.
    """
    times = math.ceil(MIN_SIDE / min(hu.shape))
    gray = (apply_window(torch.from_numpy(hu.copy()), *WINDOWS[WINDOW]) * 255).round().byte().numpy()
    rows, columns = hu.shape
    enlarged = cv2.resize(gray, (columns * times, rows * times), interpolation=cv2.INTER_LINEAR)
    large: NDArray[np.uint8] = np.asarray(enlarged, np.uint8)
    if heat is not None:
        _outline(large, heat)
    strips = [_draw_line(line, columns * times, 2.0 if n == 0 else 1.0) for n, line in enumerate(lines)]
    if knows_sides:
        strips.append(_draw_sides(columns * times))
    return np.concatenate([*strips, large]), times


def _outline(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> None:
    """Draws a dashed line around the part of a map at or above ``OUTLINE``, white with a black edge.

    Between the dashes the picture shows, so that the line hides nothing that is larger than a dash.
    """
    large = cv2.resize(heat, picture.shape[::-1], interpolation=cv2.INTER_LINEAR)
    above = (large >= OUTLINE).astype(np.uint8)
    outlines, _ = cv2.findContours(above, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    width = max(1, picture.shape[1] // MIN_SIDE)  # pixels
    dash = _DASH * width
    longest = max(outlines, key=len, default=None)
    for line in outlines:
        if len(line) < _SHORTEST * width and line is not longest:
            continue  # a speck, where the map is cut off at the skull
        points = line[:, 0]  # (N, 2) neighbors along the outline, columns and rows
        pieces = [points[start : start + dash, None] for start in range(0, len(points), 2 * dash)]
        cv2.polylines(picture, pieces, False, 0, 3 * width)
        cv2.polylines(picture, pieces, False, 255, width)


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
    result: StudyResult,
    rank: int,
    source: Dataset,
    heat: NDArray[np.float32] | None,
    header: Header,
    hu: NDArray[np.int16],
) -> SCImage:
    if header.orientation == UNKNOWN:
        raise OutputRefused(
            OutputRefusal.MISSING_ATTRIBUTE,
            "a key slice has no ImageOrientationPatient that gives the patient's left and right",
        )
    n = result.key_slices[rank - 1]
    has_outline = heat is not None and bool(heat.any())
    lines = (WARNING, DISCLAIMER, *_list_lines(result, n, has_outline))
    pixels, times = draw_key_image(hu, lines, result.knows_sides, heat if has_outline else None)
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
    _describe(image, source, header, times, has_outline)
    return image


def _list_lines(result: StudyResult, n: int, has_outline: bool) -> Iterator[str]:
    """Yields lines about a slice: its number, its probabilities, and what is outlined."""
    yield f"{MANUFACTURER} {result.algorithm.version}: {result.name_slice(n)}"
    probs = result.slices[n].calibrated or result.slices[n].probs
    seen = "this slice" if len(result.list_slab(n)) == 1 else "this mean"
    finding = say_label(result.headline, result.labels).removeprefix("any ")
    names = {result.headline: finding} | {name: name for name in result.subtypes}
    said = [f"{shown} {show_prob(probs[name])}".replace(" ", _NO_BREAK) for name, shown in names.items()]
    yield from (
        line.replace(_NO_BREAK, " ") for line in textwrap.wrap(f"In {seen}: {', '.join(said)}", _LINE)
    )
    if has_outline:
        yield f"Dashed: evidence of {finding}, {show_percent(OUTLINE)} of its peak"


def _describe(image: SCImage, source: Dataset, header: Header, times: int, has_outline: bool) -> None:
    """Describes how the image was made (PS3.3 C.7.6.1, General Image)."""
    center, width = WINDOWS[WINDOW]
    enlarged = f", enlarged {times} times by linear interpolation" if times > 1 else ""
    image.BodyPartExamined = "HEAD"  # no other part is read, and a head is not paired
    image.ConversionType = "WSD"  # a workstation; no film was scanned
    image.ImageComments = f"{WARNING}. {DISCLAIMER}."
    outline = f"; a dashed line at {show_percent(OUTLINE)} of the peak of a heat map" if has_outline else ""
    image.DerivationDescription = (
        f"{WINDOW} window, center {center:g} HU, width {width:g} HU{enlarged}{outline}; a strip with text on "
        f"top. {WARNING}"
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
