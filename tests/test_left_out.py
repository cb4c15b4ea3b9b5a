"""Slices that are not believable: what is left out, and what the rest of the study then says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from squares import bleed, count, edit, predict, set_pixels

from ich.image import prepare_series
from ich.schema import InputSpec
from ich.schema.codes import Note, Reason
from ich.schema.results import Outcome


def find_middle(folder: Path) -> int:
    return 3 * count(folder) // 5


def store_twice(folder: Path, number: int) -> None:
    ds = pydicom.dcmread(folder / f"{number:03d}.dcm")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.save_as(folder / "copy.dcm")


def turn_to_air(folder: Path, number: int) -> None:
    def change(ds: pydicom.Dataset) -> None:
        noise = np.random.default_rng(0).integers(-1010, -990, ds.pixel_array.shape)
        stored = (noise - float(ds.RescaleIntercept)) / float(ds.RescaleSlope)
        ds.PixelData = stored.astype(ds.pixel_array.dtype).tobytes()

    edit(folder, number, change)


def shift(folder: Path, number: int) -> None:
    edit(folder, number, lambda ds: setattr(ds, "RescaleIntercept", ds.RescaleIntercept + 100))


def lose_half(folder: Path, number: int) -> None:
    edit(folder, number, lambda ds: set_pixels(ds, (slice(80, None), slice(None)), -1000))


ODD = {"all air": turn_to_air, "off the scale": shift, "half empty": lose_half}


def test_a_whole_study_is_decided_by_its_slices(study: Path) -> None:
    result = predict(study)
    assert (result.outcome, result.reasons, result.notes) == (Outcome.NEGATIVE, (), ())
    assert [each.left_out for each in result.slices] == [None] * count(study)
    assert [each.InstanceNumber for each in result.slices] == [
        int(pydicom.dcmread(path).InstanceNumber) for path in sorted(study.iterdir())
    ]
    bleed(study, find_middle(study))
    assert predict(study).outcome is Outcome.POSITIVE


@pytest.mark.parametrize("name", ODD)
def test_one_odd_slice_takes_no_positive_back(study: Path, name: str) -> None:
    middle = find_middle(study)
    bleed(study, middle, middle + 1)
    odd = middle - 4
    ODD[name](study, odd)
    result = predict(study)
    assert result.outcome is Outcome.POSITIVE
    assert [reason.code for reason in result.reasons] == [Reason.IMPLAUSIBLE_SLICE]
    assert [n for n, each in enumerate(result.slices) if each.left_out] == [odd]
    assert result.slices[odd].left_out.code == Reason.IMPLAUSIBLE_SLICE
    assert odd not in result.key_slices


@pytest.mark.parametrize("name", ODD)
def test_a_study_with_slices_left_out_is_not_negative(study: Path, name: str) -> None:
    middle = find_middle(study)
    bleed(study, middle)
    ODD[name](study, middle)
    result = predict(study)
    assert result.outcome is Outcome.INDETERMINATE
    assert [reason.code for reason in result.reasons] == [Reason.IMPLAUSIBLE_SLICE]
    assert result.labels["any"].prob == pytest.approx(0.05)


def test_an_odd_slice_makes_no_positive(study: Path) -> None:
    middle = find_middle(study)
    bleed(study, middle)
    lose_half(study, middle)
    result = predict(study)
    assert result.slices[middle].probs["any"] == pytest.approx(0.95)
    assert result.outcome is Outcome.INDETERMINATE


def test_the_mean_of_a_study_is_that_of_the_slices_that_count(study: Path) -> None:
    middle = find_middle(study)
    bleed(study, *range(middle, middle + 3))
    shift(study, middle - 4)
    assert predict(study, "mean").labels["any"].prob == pytest.approx(
        (3 * 0.95 + (count(study) - 4) * 0.05) / (count(study) - 1)
    )


@pytest.mark.parametrize(("bleeds", "outcome"), [(False, Outcome.NEGATIVE), (True, Outcome.POSITIVE)])
def test_a_slice_that_is_stored_twice_is_read_once(study: Path, bleeds: bool, outcome: Outcome) -> None:
    middle = find_middle(study)
    slices = count(study)
    if bleeds:
        bleed(study, middle)
    store_twice(study, middle)
    result = predict(study, "mean" if not bleeds else "max")
    assert (result.outcome, result.reasons) == (outcome, ())
    assert {note.code for note in result.notes} == {Note.REPEATED_SLICE, Note.DUPLICATE_POSITION}
    (left_out,) = (each for each in result.slices if each.left_out)
    assert left_out.left_out.code == Note.REPEATED_SLICE
    assert len(result.slices) == slices + 1


def test_a_second_scan_of_a_part_is_read_and_noted(study: Path) -> None:
    middle, slices = find_middle(study), count(study)
    for number in range(middle, middle + 3):
        ds = pydicom.dcmread(study / f"{number:03d}.dcm")
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.InstanceNumber = slices + 10 + number
        pixels = ds.pixel_array
        ds.PixelData = (
            (pixels + np.arange(pixels.size).reshape(pixels.shape) % 3).astype(pixels.dtype).tobytes()
        )
        ds.save_as(study / f"again_{number}.dcm")
    result = predict(study)
    assert (result.outcome, result.reasons) == (Outcome.NEGATIVE, ())
    assert [note.code for note in result.notes] == [Note.DUPLICATE_POSITION]
    assert not any(each.left_out for each in result.slices)


@pytest.mark.parametrize("intercept", [1000, 150, -24])
def test_a_scale_that_is_wrong_in_all_slices_is_indeterminate(study: Path, intercept: int) -> None:
    for number in range(count(study)):
        edit(
            study,
            number,
            lambda ds: setattr(ds, "RescaleIntercept", float(ds.RescaleIntercept) + intercept),
        )
    result = predict(study)
    assert result.outcome is Outcome.INDETERMINATE
    assert Reason.IMPLAUSIBLE_HU in {reason.code for reason in result.reasons}


def test_slices_that_have_not_arrived_at_the_top_are_missed(study: Path) -> None:
    assert predict(study).outcome is Outcome.NEGATIVE
    top = max(float(pydicom.dcmread(path).ImagePositionPatient[2]) for path in study.iterdir())
    for path in list(study.iterdir()):
        if float(pydicom.dcmread(path).ImagePositionPatient[2]) > top - 45:
            path.unlink()
    result = predict(study)
    assert result.outcome is Outcome.INDETERMINATE
    assert [reason.code for reason in result.reasons] == [Reason.NO_VERTEX]


def test_a_slice_that_is_left_out_is_nobodys_neighbor() -> None:
    spec = InputSpec(size=16, neighbors=2)
    hu = np.arange(6, dtype=np.int16)[:, None, None] * np.ones((1, 16, 16), np.int16)
    found = prepare_series(hu, spec, left_out=[2])[:, :, 0, 0]
    assert found.tolist() == [
        [0, 0, 0, 1, 3],
        [0, 0, 1, 3, 4],
        [0, 1, 2, 3, 4],
        [0, 1, 3, 4, 5],
        [1, 3, 4, 5, 5],
        [3, 4, 5, 5, 5],
    ]
    assert (prepare_series(hu, spec, left_out=range(6)) == prepare_series(hu, spec)).all()
