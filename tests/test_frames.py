"""Enhanced CT, one slice a frame: as highdicom converts slices, beside these slices themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import highdicom
import numpy as np
import pandas as pd
import pydicom
import pytest
from command import call
from drawings import draw_once
from highdicom.sr import srread
from networks import DEEP, make_model
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from ich.calibration import Decision, NotFitted, OperatingPoint
from ich.data import HeadCTDataModule
from ich.data.slices import SliceReader, to_arrays
from ich.dicom import list_headers, read_geometry, read_header, read_hu
from ich.index import build_index, read_labels
from ich.index.identical import find_identical
from ich.index.joining import join_labels
from ich.model_files.bundle import write_bundle
from ich.networks import TorchNetwork
from ich.predict import Predictor
from ich.predict.run import predict_folder
from ich.schema import LABELS, InputSpec, ReadError
from ich.schema.codes import Refusal
from ich.schema.results import Outcome
from ich.studies import find_studies

CHANGING = ["position", "tilt", "row_spacing", "column_spacing", "RescaleSlope", "RescaleIntercept"]


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of one series, from the feet to the head, each with a rescale of its own."""
    root = draw_once(tmp_path_factory, patients=1, seed=4, conformant=True)
    table = build_index(root).table.drop_duplicates(["SeriesInstanceUID", "position"])
    rows = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"][0]]
    return copy_with_a_rescale_each([root / path for path in rows["path"]], tmp_path_factory.mktemp("slices"))


def copy_with_a_rescale_each(slices: Sequence[Path], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for number, path in enumerate(slices):
        ds = pydicom.dcmread(path)
        ds.RescaleIntercept = -1024 - number
        ds.RescaleType = "HU"
        copies.append(folder / path.name)
        ds.save_as(copies[-1])
    return copies


def convert(slices: list[Path], path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Writes the slices as one Legacy Converted Enhanced CT, by highdicom."""
    sources = [pydicom.dcmread(each) for each in slices]
    for source in sources:  # so that all of it is the frames' own
        source.FrameOfReferenceUID = sources[0].FrameOfReferenceUID
    enhanced = highdicom.legacy.LegacyConvertedEnhancedCTImage(
        sources, generate_uid(), 9, generate_uid(), 1, transfer_syntax_uid=syntax
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    enhanced.save_as(path)
    return path


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_each_frame_is_the_slice_that_it_was(tmp_path: Path, slices: list[Path], syntax: str) -> None:
    path = convert(slices, tmp_path / "enhanced.dcm", syntax)
    headers = list_headers(path)
    assert [header.frame for header in headers] == list(range(1, len(slices) + 1))
    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    assert [header.SOPInstanceUID for header in headers] == [f"{uid}#{n}" for n in range(1, len(slices) + 1)]
    by_position = {round(read_header(each).position, 3): each for each in slices}
    for header in headers:
        source = by_position[round(header.position, 3)]
        expected = read_header(source)
        for name in CHANGING:
            assert getattr(header, name) == pytest.approx(getattr(expected, name)), name
        np.testing.assert_array_equal(read_hu(path, header.frame), read_hu(source))
        np.testing.assert_allclose(read_geometry(path, header.frame).position, read_geometry(source).position)
    assert len({header.RescaleIntercept for header in headers}) == len(slices)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_an_index_holds_a_row_a_frame_that_reads_as_the_slice(
    tmp_path: Path, slices: list[Path], syntax: str
) -> None:
    root = tmp_path / "data"
    convert(slices, root / "enhanced.dcm", syntax)
    table = build_index(root).table
    pd.testing.assert_frame_equal(build_index(root).table, table)
    assert len(table) == len(slices)
    assert table["SOPInstanceUID"].is_unique
    assert table["position"].is_monotonic_increasing
    assert not table["stack"].any()
    assert (table["pixel_offset"] >= 0).all() == (syntax == ExplicitVRLittleEndian)
    reader = SliceReader(root, to_arrays(table))
    out = np.empty((64, 64), np.int16)
    for row, path in enumerate(sorted(slices, key=lambda path: read_header(path).position)):
        reader.read(row, out)
        np.testing.assert_array_equal(out, read_hu(path))


def test_frames_of_one_file_under_two_patients_are_found(tmp_path: Path, slices: list[Path]) -> None:
    root = tmp_path / "data"
    convert(slices, root / "a.dcm")
    other = pydicom.dcmread(root / "a.dcm")
    other.PatientID, other.SOPInstanceUID = "other", generate_uid()
    other.save_as(root / "b.dcm")
    table = build_index(root).table
    groups = find_identical(root, table, tmp_path, progress=False)
    assert (groups >= 0).all()
    assert len(set(groups)) == len(slices)


def test_a_study_has_a_row_a_frame(tmp_path: Path, slices: list[Path]) -> None:
    root = tmp_path / "data"
    convert(slices, root / "enhanced.dcm")
    (study,) = find_studies([root], scratch=tmp_path, progress=False).studies
    assert len(study.files) == len(slices)
    assert (study.files["code"] == "").all()
    assert (study.files["ImageOrientationPatient"] != "").all()
    assert study.files["SliceThickness"].astype(float).gt(0).all()


def list_references(ds: pydicom.Dataset) -> list[pydicom.Dataset]:
    """All references of a report to images with what it says of them."""
    found = list(ds.get("ReferencedSOPSequence", ())) if ds.get("ValueType") == "IMAGE" else []
    return found + [each for item in ds.get("ContentSequence", ()) for each in list_references(item)]


def test_frames_are_predicted_as_the_slices_and_outputs_refer_to_them(study: Path, tmp_path: Path) -> None:
    path = convert(sorted(study.iterdir()), tmp_path / "enhanced" / "enhanced.dcm")
    missing = dict.fromkeys(LABELS, NotFitted("too few cases"))
    points = missing | {"any": OperatingPoint(0.0, "sensitivity>=0.95", 1.0, 0.5)}
    decisions = {"study": Decision("max", missing, points)}
    predictor = Predictor([TorchNetwork(make_model(DEEP), "0" * 64, gpus=0)], decisions=decisions)
    (expected,) = predictor.predict(study)
    summary = predict_folder(predictor, [path.parent], tmp_path / "out", outputs=("page", "sr", "sc"))
    (result,) = summary.results
    assert summary.refused.empty
    assert summary.refused_outputs.empty
    assert result.outcome is expected.outcome is Outcome.POSITIVE
    assert (result.reasons, result.labels) == (expected.reasons, expected.labels)
    assert [each.probs for each in result.slices] == [each.probs for each in expected.slices]
    assert [each.position for each in result.slices] == [each.position for each in expected.slices]

    uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    frames = [int(result.slices[place].SOPInstanceUID.removeprefix(f"{uid}#")) for place in result.key_slices]
    objects = tmp_path / "out" / "dicom" / "0001"
    references = list_references(srread(objects / "report.dcm"))
    assert {(str(each.ReferencedSOPInstanceUID), each.ReferencedFrameNumber) for each in references} == {
        (uid, frame) for frame in frames
    }
    for rank, frame in enumerate(frames, 1):
        (reference,) = pydicom.dcmread(objects / f"key_image_{rank}.dcm").SourceImageSequence
        assert (reference.ReferencedSOPInstanceUID, reference.ReferencedFrameNumber) == (uid, frame)


class Twins(NamedTuple):
    """The same slices of several patients in two folders: a file each, and a file for those of a patient."""

    slices: Path
    frames: Path


@pytest.fixture(scope="module")
def twins(conformant: Path, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    """With labels beside them, in ``labels.csv``."""
    root = tmp_path_factory.mktemp("twins")
    twins = Twins(root / "slices", root / "frames")
    table, _ = join_labels(build_index(conformant).table, read_labels(conformant / "stage_2_train.csv"))
    labels: dict[Path, list[pd.DataFrame]] = {folder: [] for folder in twins}
    for number, (_, series) in enumerate(table.groupby("SeriesInstanceUID")):
        rows = series.drop_duplicates("position").sort_values("position")
        paths = copy_with_a_rescale_each(
            [conformant / path for path in rows["path"]], twins.slices / str(number)
        )
        frames = pd.DataFrame(list_headers(convert(paths, twins.frames / f"{number}.dcm"))).sort_values(
            "position"
        )
        np.testing.assert_allclose(frames["position"], rows["position"])
        for folder, uids in ((twins.slices, rows), (twins.frames, frames)):
            known = rows[list(LABELS)].assign(SOPInstanceUID=uids["SOPInstanceUID"].to_numpy())
            labels[folder].append(known)
    for folder, known in labels.items():
        pd.concat(known).to_csv(folder / "labels.csv", index=False)
    return twins


def test_frames_are_explored_as_the_slices(twins: Twins, tmp_path: Path) -> None:
    pictures = []
    for name, root in twins._asdict().items():
        out = tmp_path / name
        command = ["explore", str(root), "--labels", str(root / "labels.csv"), "--out", str(out)]
        assert call(*command, "--index-dir", str(tmp_path / f"{name}_index")) == 0
        pictures.append({path.name: path.read_bytes() for path in out.glob("*.png")})
    assert {"hu.png", "series.png", "windows.png"} <= set(pictures[0])
    assert pictures[0] == pictures[1]


def read_slices(root: Path, cache: Path | None) -> dict[tuple[str, float], NDArray[np.int16]]:
    """The HU of all slices as the data module has them, by patient and position."""
    datamodule = HeadCTDataModule(
        str(root),
        InputSpec(size=48, neighbors=1),
        labels=str(root / "labels.csv"),
        cache=None if cache is None else str(cache),
        num_workers=0,
    )
    datamodule.prepare_data()
    datamodule.setup()
    slices = pd.concat([datamodule.part(part) for part in ("val", "test")])
    hu = np.concatenate([batch["hu"].numpy() for batch in datamodule.predict_dataloader()])
    places = zip(slices["PatientID"], slices["position"].round(3), strict=True)
    return dict(zip(places, hu, strict=True))


def test_the_cache_holds_frames_as_the_slices(twins: Twins, tmp_path: Path) -> None:
    expected = read_slices(twins.slices, None)
    assert len(expected) > 20
    for root in twins:
        found = read_slices(root, tmp_path / root.name)
        assert found.keys() == expected.keys()
        for place, hu in found.items():
            np.testing.assert_array_equal(hu, expected[place])


def test_frames_are_explained_as_the_slices(twins: Twins, tmp_path: Path) -> None:
    model = make_model(DEEP)
    write_bundle(model.metadata, model.state_dict(), tmp_path / "model.zip")
    for name, path in (("slices", twins.slices / "0"), ("frames", twins.frames / "0.dcm")):
        command = ["explain", str(tmp_path / "model.zip"), str(path), "--out", str(tmp_path / name)]
        assert call(*command, "--limit", "4") == 0
    made = sorted(path.name for path in (tmp_path / "slices").iterdir() if path.suffix in (".npz", ".png"))
    assert len(made) == 8
    for name in made:
        slices, frames = tmp_path / "slices" / name, tmp_path / "frames" / name
        if slices.suffix == ".png":
            assert slices.read_bytes() == frames.read_bytes()
        else:
            with np.load(slices) as expected, np.load(frames) as found:
                assert set(found) == set(expected)
                for key in expected:
                    np.testing.assert_array_equal(found[key], expected[key], key)


def test_a_frame_has_to_be_named_and_to_be_there(tmp_path: Path, slices: list[Path]) -> None:
    path = convert(slices, tmp_path / "enhanced.dcm")
    with pytest.raises(ReadError, match="none of them is named") as caught:
        read_hu(path)
    assert caught.value.code == Refusal.MULTI_FRAME
    with pytest.raises(ReadError):
        read_hu(path, len(slices) + 1)
    with pytest.raises(ReadError):
        read_hu(slices[0], 2)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(), Refusal.CORRUPT),
        (lambda ds: setattr(ds, "PixelData", ds.PixelData[:-300]), Refusal.TRUNCATED),
        (
            lambda ds: delattr(ds.PerFrameFunctionalGroupsSequence[3], "PixelValueTransformationSequence"),
            Refusal.NO_RESCALE,
        ),
        (lambda ds: delattr(ds, "SharedFunctionalGroupsSequence"), Refusal.MULTI_FRAME),
    ],
)
def test_what_cannot_be_read_right_stays_refused(
    tmp_path: Path, slices: list[Path], spoil, code: str
) -> None:
    ds = pydicom.dcmread(convert(slices, tmp_path / "whole.dcm"))
    spoil(ds)
    ds.save_as(tmp_path / "spoiled.dcm")
    with pytest.raises(ReadError) as caught:
        list_headers(tmp_path / "spoiled.dcm")
    assert caught.value.code == code
