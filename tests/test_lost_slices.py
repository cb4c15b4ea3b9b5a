"""Images beside the slices of a head: which of them may be slices of it that lost their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from squares import bleed, count, edit, predict

from ich.schema.codes import Note, Reason
from ich.schema.results import Outcome

Dataset = pydicom.Dataset
LATERAL = [0, 1, 0, 0, 0, -1]


def lose_place(ds: Dataset) -> None:
    del ds.ImagePositionPatient


def lose_orientation(ds: Dataset) -> None:
    ds.ImageOrientationPatient = [0, 0, 0, 0, 0, 0]


def turn_across(ds: Dataset) -> None:
    ds.ImageOrientationPatient = LATERAL


def find_end(study: Path) -> int:
    """The uppermost slice in which the network's square lies within bone; those above it are removed."""
    last = count(study) - 4
    for number in range(last + 1, count(study)):
        (study / f"{number:03d}.dcm").unlink()
    return last


@pytest.mark.parametrize(
    ("damage", "code"),
    [(lose_place, "no_geometry"), (lose_orientation, "no_geometry"), (turn_across, "across")],
)
@pytest.mark.parametrize("place", ["lowest", "uppermost"])
def test_a_slice_at_an_end_that_lost_its_place_prevents_a_negative(
    study: Path, damage: Callable[[Dataset], None], code: str, place: str
) -> None:
    number = 0 if place == "lowest" else find_end(study)
    bleed(study, number)
    assert predict(study).outcome is Outcome.POSITIVE
    edit(study, number, damage)
    result = predict(study)
    assert result.outcome is Outcome.INDETERMINATE
    (reason,) = (each for each in result.reasons if each.code == Reason.UNREAD_SLICE)
    assert reason.detail == f"1 file that may be a slice of a head: {code} 1"
    assert [note.code for note in result.notes] == [Note.MIXED_IMAGES]


def make_extra(study: Path, pixels: np.ndarray) -> Dataset:
    """An image more in the series, with these pixels in HU."""
    ds = pydicom.dcmread(study / f"{count(study) - 1:03d}.dcm")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    stored = (pixels - float(ds.RescaleIntercept)) / float(ds.RescaleSlope)
    ds.PixelData = stored.round().astype(ds.pixel_array.dtype).tobytes()
    ds.InstanceNumber = 0
    return ds


def project(study: Path) -> np.ndarray:
    """The head from its side, as a scout shows it: (S, S) mean HU of the rays from right to left."""
    slices = [pydicom.dcmread(path) for path in sorted(study.iterdir())]
    hu = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices])
    lateral = hu.mean(axis=2)[::-1]
    rows = np.linspace(0, len(lateral) - 1, hu.shape[1]).round().astype(int)
    return lateral[rows]


def draw_page() -> np.ndarray:
    page = np.full((128, 128), -1024.0)
    page[10:100:6, 10:110] = 2500
    return page


@pytest.mark.parametrize(
    ("draw", "changes"),
    [
        (project, {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        (project, {"ImageOrientationPatient": LATERAL}),
        (project, {"ImagePositionPatient": None}),
        (lambda study: draw_page(), {"ImageType": ["DERIVED", "SECONDARY"], "ImagePositionPatient": None}),
        (lambda study: draw_page(), {"ImagePositionPatient": None}),
    ],
)
def test_a_scout_or_a_page_prevents_nothing(
    study: Path, draw: Callable[[Path], np.ndarray], changes: dict[str, object]
) -> None:
    extra = make_extra(study, draw(study))
    for keyword, value in changes.items():
        if value is None:
            del extra[keyword]
        else:
            setattr(extra, keyword, value)
    extra.save_as(study / "extra.dcm")
    result = predict(study)
    assert (result.outcome, result.reasons) == (Outcome.NEGATIVE, ())
    assert [note.code for note in result.notes] == [Note.MIXED_IMAGES]


def test_the_pixels_of_a_slice_that_is_read_bar_nothing_where_they_stand_without_a_place(study: Path) -> None:
    ds = pydicom.dcmread(study / "007.dcm")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    lose_place(ds)
    ds.save_as(study / "extra.dcm")
    result = predict(study)
    assert (result.outcome, result.reasons) == (Outcome.NEGATIVE, ())


def test_an_image_without_a_place_that_cannot_be_decoded_prevents_a_negative(study: Path) -> None:
    ds = pydicom.dcmread(study / "007.dcm")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    lose_place(ds)
    ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    frame = bytes(ds.PixelData)
    ds.PixelData = frame[:200] + bytes(len(frame) - 208) + frame[-8:]
    ds.save_as(study / "extra.dcm")
    result = predict(study)
    assert result.outcome is Outcome.INDETERMINATE
    assert [reason.code for reason in result.reasons] == [Reason.UNREAD_SLICE]
