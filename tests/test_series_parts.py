"""Scouts, pages and second scans within the series of the head: what is read, and what is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from drawings import draw_once
from pydicom.uid import generate_uid

from ich.predict.reading import Reading, read_study
from ich.schema.codes import Note, Reason
from ich.studies import find_studies

Dataset = pydicom.Dataset


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """The slices of one series, from the feet to the head."""
    root = draw_once(tmp_path_factory, patients=1, seed=4, conformant=True)
    slices = [pydicom.dcmread(path) for path in sorted(root.rglob("*.dcm"))]
    slices = [ds for ds in slices if ds.SeriesInstanceUID == slices[0].SeriesInstanceUID]
    return sorted(slices, key=lambda ds: float(ds.ImagePositionPatient[2]))


def change(ds: Dataset, name: str, **changes: object) -> Dataset:
    other = copy.deepcopy(ds)
    uid = generate_uid(entropy_srcs=[name, str(ds.SOPInstanceUID)])
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = uid
    for keyword, value in changes.items():
        if value is None:
            del other[keyword]
        else:
            setattr(other, keyword, value)
    return other


def read(root: Path, slices: list[Dataset]) -> Reading:
    root.mkdir()
    for number, ds in enumerate(slices):
        ds.save_as(root / f"{number:03}.dcm")
    (study,) = find_studies([root], scratch=root, progress=False).studies
    with ThreadPoolExecutor(2) as pool:
        return read_study(study, {64}, pool)


def make_page(ds: Dataset) -> Dataset:
    page = change(ds, "page", ImageType=["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"])
    pixels = np.zeros((page.Rows, page.Columns), np.uint16)
    pixels[10:50:6, 8:50] = 4000
    page.PixelData = pixels.tobytes()
    del page.ImageOrientationPatient, page.ImagePositionPatient
    return page


def make_screen(ds: Dataset) -> Dataset:
    screen = change(
        ds,
        "screen",
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
    )
    screen.PixelData = bytes(3 * screen.Rows * screen.Columns)
    return screen


LATERAL = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [0, -110, 150]}
NOWHERE = {"ImageOrientationPatient": None, "ImagePositionPatient": None}
SCOUT = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("localizer", lambda ds: change(ds, "first", **SCOUT, **LATERAL)),
        ("across", lambda ds: change(ds, "silent", **LATERAL)),
        ("localizer", lambda ds: change(ds, "nogeo", **SCOUT, **NOWHERE)),
        ("no_geometry", lambda ds: change(ds, "nowhere", **NOWHERE)),
        ("secondary", make_page),
        ("no_ct_image", make_screen),
    ],
)
@pytest.mark.parametrize("number", [0, 7])
def test_an_image_that_is_not_a_slice_is_set_aside_and_the_head_is_read(
    tmp_path: Path, head: list[Dataset], code: str, make: Callable[[Dataset], Dataset], number: int
) -> None:
    slices = [change(ds, "a", InstanceNumber=n + (n >= number)) for n, ds in enumerate(head, 1)]
    extra = make(head[5])
    extra.InstanceNumber = number
    alone = read(tmp_path / "alone", [change(ds, "a", InstanceNumber=n) for n, ds in enumerate(head, 1)])
    mixed = read(tmp_path / "mixed", [*slices, extra])
    assert mixed.stack is not None
    assert alone.stack is not None
    np.testing.assert_array_equal(mixed.stack.hu[64], alone.stack.hu[64])
    assert mixed.reasons == alone.reasons
    (note,) = set(mixed.notes) - set(alone.notes)
    assert (note.code, note.detail) == (
        Note.MIXED_IMAGES,
        f"images of the series that are not slices: {code} 1",
    )


def test_of_two_reconstructions_the_one_for_soft_tissue_is_read_and_named(
    tmp_path: Path, head: list[Dataset]
) -> None:
    bone = [change(ds, "bone", ConvolutionKernel="H60s") for ds in head]
    soft = [change(ds, "soft", ConvolutionKernel="H30s") for ds in head]
    reading = read(tmp_path / "both", [*bone, *soft])
    assert reading.stack is not None
    assert set(reading.stack.slices["SOPInstanceUID"]) == {ds.SOPInstanceUID for ds in soft}
    (note,) = (note for note in reading.notes if note.code == Note.SEVERAL_STACKS)
    assert "ConvolutionKernel" in note.detail
    assert "'H30s'" in note.detail
    codes = {reason.code for reason in reading.reasons}
    assert not codes & {Reason.ONLY_BONE_KERNEL, Reason.GAP}


def test_two_scans_are_separated_only_if_their_headers_differ(tmp_path: Path, head: list[Dataset]) -> None:
    first = [change(ds, "first", AcquisitionNumber=1) for ds in head]
    second = [change(ds, "second", AcquisitionNumber=2) for ds in head]
    reading = read(tmp_path / "told", [*first, *second])
    assert reading.stack is not None
    assert len(reading.stack.slices) == len(head)
    same = [change(ds, "same", AcquisitionNumber=1) for ds in head]
    reading = read(tmp_path / "untold", [*first, *same])
    assert reading.stack is not None
    assert len(reading.stack.slices) == 2 * len(head)
    assert Note.SEVERAL_STACKS not in {note.code for note in reading.notes}


def test_two_blocks_of_one_head_are_one_stack(tmp_path: Path, head: list[Dataset]) -> None:
    half = len(head) // 2
    blocks = [change(ds, "block", AcquisitionNumber=1 + (n >= half)) for n, ds in enumerate(head)]
    reading = read(tmp_path / "blocks", blocks)
    assert reading.stack is not None
    assert len(reading.stack.slices) == len(head)
