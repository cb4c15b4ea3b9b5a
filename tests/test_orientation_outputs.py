"""What is said and shown of a study does not depend on the orientation that it is stored in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
from networks import make_model
from results import make_result
from test_predict import write_model
from turning import EVERY, PRONE, Stored, read_slice, turn_files

from ich.explain.folder import write_heatmaps
from ich.index import build_index
from ich.models import SliceNet
from ich.outputs.captures import draw_key_image, write_key_images
from ich.outputs.pages import write_study_page
from ich.outputs.pages.views import make_views
from ich.phantom import write_phantom
from ich.predict import Predictor
from ich.schema import InputSpec
from ich.schema.codes import Reason
from ich.schema.results import Remark, StudyResult

SHOWN = Stored("P", "R", reverse=True)
"""Transposed, mirrored, and from the head to the feet."""


class Folders(NamedTuple):
    """One study, as it is mostly stored and otherwise."""

    usual: Path
    turned: dict[Stored, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A study whose slices are not square."""
    root = tmp_path_factory.mktemp("study")
    write_phantom(root / "phantom", patients=1, seed=6, size=96, conformant=True)
    (root / "usual").mkdir()
    paths = []
    for path in sorted((root / "phantom" / "stage_2_train").iterdir()):
        ds = read_slice(path)
        dtype = np.dtype("<i2" if ds.PixelRepresentation else "<u2")
        pixels = np.frombuffer(ds.PixelData, dtype).reshape(ds.Rows, ds.Columns)[:, 2:-4]
        ds.Columns, ds.PixelData = pixels.shape[1], pixels.tobytes()
        ds.save_as(root / "usual" / path.name)
        paths.append(root / "usual" / path.name)
    first = read_slice(paths[0]).StudyInstanceUID
    paths = [path for path in paths if read_slice(path).StudyInstanceUID == first]
    for path in set((root / "usual").iterdir()) - set(paths):
        path.unlink()
    turned = {}
    for number, stored in enumerate(EVERY):
        turn_files(paths, root / str(number), stored)
        turned[stored] = root / str(number)
    return Folders(root / "usual", turned)


def predict(predictor: Predictor, folder: Path) -> StudyResult:
    (result,) = predictor.predict(folder)
    return result


def test_predictions_are_the_same_to_the_bit(folders: Folders, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.zip", spec=InputSpec(size=64, neighbors=1))
    predictor = Predictor.load(model)
    wanted = predict(predictor, folders.usual)
    assert wanted.outcome is not None
    for stored, folder in folders.turned.items():
        found = predict(predictor, folder)
        assert (found.outcome, found.labels, found.reasons) == (wanted.outcome, wanted.labels, wanted.reasons)
        assert (found.key_slices, found.distance) == (wanted.key_slices, wanted.distance), stored
        for ours, theirs in zip(found.slices, wanted.slices, strict=True):
            assert ours.SOPInstanceUID == theirs.SOPInstanceUID
            assert ours.probs == theirs.probs
            assert ours.position == pytest.approx(theirs.position, abs=2e-3)


def test_without_its_geometry_the_same_study_reads_otherwise(folders: Folders, tmp_path: Path) -> None:
    """That it is the geometry that makes the difference: what an orientation is worth to this network."""
    predictor = Predictor.load(write_model(tmp_path / "model.zip", spec=InputSpec(size=64)))
    for path in folders.turned[PRONE].iterdir():
        ds = read_slice(path)
        ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.save_as(tmp_path / path.name)
    (tmp_path / "model.zip").unlink()
    wrong, right = predict(predictor, tmp_path), predict(predictor, folders.usual)
    assert {each.SOPInstanceUID: each.probs for each in wrong.slices} != {
        each.SOPInstanceUID: each.probs for each in right.slices
    }


@pytest.mark.parametrize("stored", [PRONE, SHOWN], ids=["prone", "transposed"])
def test_blocks_that_were_lost_are_found_as_they_are_stored(
    folders: Folders, tmp_path: Path, stored: Stored
) -> None:
    predictor = Predictor.load(write_model(tmp_path / "model.zip", spec=InputSpec(size=64)))
    (tmp_path / "slices").mkdir()
    paths = sorted(
        folders.turned[stored].iterdir(), key=lambda path: float(read_slice(path).ImagePositionPatient[2])
    )
    damaged = paths[len(paths) // 2]
    for path in paths:
        ds = read_slice(path)
        if path == damaged:
            pixels = bytearray(ds.PixelData)
            row = 2 * ds.Columns
            pixels[ds.Rows // 2 * row : (ds.Rows // 2 + 12) * row] = bytes(12 * row)
            ds.PixelData = bytes(pixels)
        ds.save_as(tmp_path / "slices" / path.name)
    uid = read_slice(damaged).SOPInstanceUID
    result = predict(predictor, tmp_path / "slices")
    assert [each.SOPInstanceUID for each in result.slices if each.left_out] == [uid]


@pytest.fixture(scope="module")
def network() -> SliceNet:
    return make_model(InputSpec(size=64, neighbors=1))


def explain(network: SliceNet, folder: Path, out: Path) -> Path:
    """Writes heat maps of some slices, of which one has both of its neighbors among them."""
    paths = sorted(folder.iterdir(), key=lambda path: float(read_slice(path).ImagePositionPatient[2]))
    write_heatmaps(network, "0" * 64, paths[9:12], out, ["any"], "brain", "all")
    return out


@pytest.fixture(scope="module")
def usual_maps(network: SliceNet, folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explain(network, folders.usual, tmp_path_factory.mktemp("maps") / "usual")


@pytest.mark.parametrize("stored", [PRONE, SHOWN], ids=["prone", "transposed"])
def test_heat_maps_are_the_same(
    network: SliceNet, folders: Folders, usual_maps: Path, tmp_path: Path, stored: Stored
) -> None:
    wanted, found = usual_maps, explain(network, folders.turned[stored], tmp_path / "turned")
    names = sorted(path.name for path in wanted.iterdir() if path.suffix in (".png", ".npz"))
    assert len(names) == 6
    for name in names:
        if name.endswith(".png"):
            assert (found / name).read_bytes() == (wanted / name).read_bytes()
            continue
        with np.load(found / name) as ours, np.load(wanted / name) as theirs:
            np.testing.assert_array_equal(ours["any"], theirs["any"])
            assert ours["any"].shape == (96, 90)
            for key in ("spacing", "orientation", "position"):
                np.testing.assert_allclose(ours[key], theirs[key], atol=2e-3)


class Written(NamedTuple):
    """What is written of a study to look at."""

    page: str
    images: list[pydicom.Dataset]


def write_outputs(network: SliceNet, folder: Path, scratch: Path) -> Written:
    table = build_index(folder, index_dir=scratch / "index").table
    result = make_result(table)
    write_study_page(result, make_views(result, folder, table, network), scratch / "page.html")
    files = {row.SOPInstanceUID: folder / row.path for row in table.itertuples()}
    images = [pydicom.dcmread(path) for path in write_key_images(result, files, scratch)]
    return Written((scratch / "page.html").read_text(encoding="utf-8"), images)


@pytest.fixture(scope="module")
def usual_outputs(network: SliceNet, folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_outputs(network, folders.usual, tmp_path_factory.mktemp("outputs"))


@pytest.mark.parametrize("stored", [PRONE, SHOWN], ids=["prone", "transposed"])
def test_pages_and_key_images_are_the_same(
    network: SliceNet, folders: Folders, usual_outputs: Written, tmp_path: Path, stored: Stored
) -> None:
    wanted, found = usual_outputs, write_outputs(network, folders.turned[stored], tmp_path)
    assert found.page == wanted.page
    assert "the patient's left (L) is on the right of a picture" in found.page.replace("&#39;", "'")
    for usual, turned in zip(wanted.images, found.images, strict=True):
        np.testing.assert_array_equal(turned.pixel_array, usual.pixel_array)
        assert turned.SOPInstanceUID == usual.SOPInstanceUID
        for image in (usual, turned):
            assert list(image.PatientOrientation) == ["L", "P"]
            assert "ImageOrientationPatient" not in image
            np.testing.assert_allclose(image.PixelSpacing, usual.PixelSpacing)


def test_files_that_tell_no_sides_are_shown_without_letters(folders: Folders, tmp_path: Path) -> None:
    for path in folders.usual.iterdir():
        ds = read_slice(path)
        del ds.ImageOrientationPatient
        ds.save_as(tmp_path / path.name)
    table = build_index(tmp_path, index_dir=tmp_path / "index").table
    result = make_result(table)
    views = make_views(result, tmp_path, table, None)
    assert not any(view.knows_sides for view in views)
    write_study_page(result, views, tmp_path / "page.html")
    assert "In the others the left side is unknown" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_sides_that_the_pixels_contradict_are_not_marked(folders: Folders, tmp_path: Path) -> None:
    table = build_index(folders.usual, index_dir=tmp_path / "index").table
    result = make_result(table, reasons=[Remark(Reason.TURNED, "the face is behind")])
    assert not any(view.knows_sides for view in make_views(result, folders.usual, table, None))
    files = {row.SOPInstanceUID: folders.usual / row.path for row in table.itertuples()}
    usual = [pydicom.dcmread(path) for path in write_key_images(make_result(table), files, tmp_path)]
    turned = [pydicom.dcmread(path) for path in write_key_images(result, files, tmp_path)]
    for one, other in zip(usual, turned, strict=True):
        assert other.PatientOrientation is None or len(other.PatientOrientation) == 0
        assert other.Rows < one.Rows  # by the strip with the letters


def test_a_key_image_has_the_letters_above_the_sides() -> None:
    pixels, _ = draw_key_image(np.full((512, 512), -1000, np.int16), ["NOT FOR DIAGNOSIS"])
    other, _ = draw_key_image(np.full((512, 512), -1000, np.int16), ["OTHER"])
    letters = pixels[-512 - 30 : -512]
    np.testing.assert_array_equal(letters, other[-512 - 30 : -512])
    ink = np.flatnonzero(letters.max(axis=0) > 200)
    assert ink.min() < 16
    assert ink.max() > 512 - 16
    assert len(ink[(ink > 40) & (ink < 472)]) == 0
    # An R has more ink in its upper half than an L, which is a line and a foot.
    rows = np.flatnonzero(letters.max(axis=1) > 200)
    top = letters[rows.min() : rows.min() + len(rows) // 2].astype(float)
    assert top[:, :40].sum() > 1.5 * top[:, -40:].sum()
