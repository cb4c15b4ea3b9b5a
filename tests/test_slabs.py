"""Thin slices are averaged to the thickness that a model knows, in prediction and in training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from command import call

from ich.data import HeadCTDataModule
from ich.dicom import read_hu
from ich.evaluate.pooling import METHODS, pool
from ich.image import average_hu, average_slabs
from ich.image.resize import resize_hu
from ich.index import build_index
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier
from ich.outputs.records import read_json
from ich.phantom import write_phantom
from ich.predict import Predictor
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.codes import Note
from ich.schema.results import list_middles
from ich.tables import read_predictions
from ich.tables.slabs import find_slabs, measure_thickness, number_slabs

SPEC = InputSpec(size=48, neighbors=1)
STEP = 2.0  # mm
THICKNESS = 6.0  # mm


def group(positions: list[float], thickness: float | None, left_out: tuple[int, ...] = ()) -> list[list[int]]:
    return find_slabs(np.array(positions, np.float64), thickness, left_out)


def test_thirds_of_a_slice_are_averaged_by_three() -> None:
    positions = [-40 + 5 / 3 * n for n in range(12)]
    assert group(positions, 5.0) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_a_rest_is_shared_by_the_slabs() -> None:
    slabs = group([1.25 * n for n in range(101)], 5.0)
    assert {len(slab) for slab in slabs} == {4, 5}
    assert [place for slab in slabs for place in slab] == list(range(101))
    assert len(slabs) == 25


@pytest.mark.parametrize(
    ("positions", "thickness"),
    [
        ([5.0 * n for n in range(9)], 5.0),
        ([5.0 * n for n in range(9)], None),
        ([1.0 * n for n in range(9)], None),
        ([4.0 * n for n in range(9)], 5.0),
        ([0.0, 5, 6, 11, 16], 5.0),  # one short step, as some scanners make
        ([0.0, 1, 2, float("nan"), 4], 5.0),
        ([float("nan")] * 4, 5.0),
        ([0.0], 5.0),
        ([], 5.0),
        ([0.0, 0, 5, 5, 10, 10], 5.0),  # each is there twice
    ],
)
def test_other_slices_stay_as_they_are(positions: list[float], thickness: float | None) -> None:
    assert group(positions, thickness) == [[place] for place in range(len(positions))]


def test_a_gap_ends_a_slab() -> None:
    assert group([0, 2, 4, 6, 8, 10, 30, 32, 34], 6.0) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert group([0, 2, 4, 6, 20, 22, 24], 6.0) == [[0, 1, 2, 3], [4, 5, 6]]


def test_thick_slices_beside_thin_ones_stay_single() -> None:
    assert group([0, 2, 4, 6, 8, 10, 16, 22], 6.0) == [[0, 1, 2], [3, 4, 5], [6], [7]]


def test_slices_that_are_left_out_are_never_averaged() -> None:
    positions = [2.0 * n for n in range(6)]
    assert group(positions, 6.0, (1,)) == [[0, 2], [1], [3, 4, 5]]
    assert group(positions, 6.0, tuple(range(6))) == [[0, 1, 2], [3, 4, 5]]


def test_means_are_rounded_to_the_nearest() -> None:
    hu = np.random.default_rng(0).integers(-1024, 32767, (3, 8, 8)).astype(np.int16)
    assert (average_hu(hu) == np.floor(hu.astype(np.float64).mean(axis=0) + 0.5)).all()
    assert average_hu(np.array([[[-3]], [[-4]]], np.int16)) == -3
    assert average_slabs(hu, [[0], [1], [2]]) is hu


def write_model(path: Path, thickness: float | None, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    net = SliceClassifier("test_resnet", input=SPEC, pretrained=False).net.eval()
    torch.nn.init.normal_(net.head[1].weight, std=1.0)
    write_bundle(replace(net.metadata, thickness=thickness), net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("thin") / "phantom"
    write_phantom(root, patients=1, seed=5, size=64, conformant=True, step=STEP)
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    thickness = {"thick": THICKNESS, "similar": 1.5 * STEP, "unknown": None}
    return {name: write_model(folder / f"{name}.zip", each) for name, each in thickness.items()}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, thin: Path, models: dict[str, Path]) -> Path:
    out = tmp_path_factory.mktemp("out") / "predicted"
    arguments = ("predict", str(models["thick"]), str(thin / "stage_2_train"), "--out", str(out))
    assert call(*arguments, "--write", "page", "sr") == 0
    return out


def read_in_order(thin: Path) -> tuple[list[str], list[np.ndarray]]:
    files = (thin / "stage_2_train").iterdir()
    headers = sorted(
        ((pydicom.dcmread(path, stop_before_pixels=True), path) for path in files),
        key=lambda each: each[0].SliceLocation,
    )
    return [str(ds.SOPInstanceUID) for ds, _ in headers], [read_hu(path) for _, path in headers]


def test_a_thin_study_is_read_as_its_means(thin: Path, models: dict[str, Path], out: Path) -> None:
    result = read_json(out / "results" / "0001.json")
    uids, slices = read_in_order(thin)
    assert [each.SOPInstanceUID for each in result.slices] == uids
    assert Note.THIN_SLICES in {note.code for note in result.notes}
    slabs = [result.list_slab(place) for place in list_middles(result.slices)]
    assert [place for slab in slabs for place in slab] == list(range(len(uids)))
    assert {len(slab) for slab in slabs} <= {3, 4}
    assert len(slabs) == round(len(uids) * STEP / THICKNESS)
    small = np.stack([resize_hu(hu, SPEC.size) for hu in slices]).astype(np.float64)
    means = [np.floor(small[slab].mean(axis=0) + 0.5) for slab in slabs]
    probs = Predictor.load(models["unknown"]).predict_hu(means).probs[0]
    for slab, expected in zip(slabs, probs, strict=True):
        for place in slab:
            assert list(result.slices[place].probs.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert result.labels["any"].prob == pytest.approx(probs[:, LABELS.index("any")].max(), abs=1e-6)


def test_slices_that_are_not_much_thinner_are_untouched_to_the_bit(
    thin: Path, models: dict[str, Path]
) -> None:
    (similar,), (unknown,) = (
        Predictor.load(models[name]).predict(thin / "stage_2_train") for name in ("similar", "unknown")
    )
    assert similar.slices == unknown.slices
    assert {each.slab for each in similar.slices} == {None}
    assert Note.THIN_SLICES not in {note.code for note in similar.notes}


@pytest.mark.parametrize("other", ["similar", "unknown"])
def test_an_ensemble_averages_no_more_than_its_members_know(
    other: str, thin: Path, models: dict[str, Path]
) -> None:
    (result,) = Predictor.load(models["thick"], models[other]).predict(thin / "stage_2_train")
    assert {each.slab for each in result.slices} == {None}


def test_outputs_say_what_was_averaged(out: Path) -> None:
    result = read_json(out / "results" / "0001.json")
    middle = list_middles(result.slices)[4]
    assert result.name_slice(middle).endswith(f", in the mean of {len(result.list_slab(middle))} slices")
    page = (out / "pages" / "0001.html").read_text()
    assert "in the mean of 3 slices" in page
    assert "in one mean of slices alone" in page
    assert "Thin slices are averaged" in page
    assert b"Thin slices are averaged" in (out / "dicom" / "0001" / "report.dcm").read_bytes()


def test_a_slab_counts_once_where_slices_are_pooled(out: Path) -> None:
    table = read_predictions(out / "slices.csv")
    slabs = table.drop_duplicates("slab").drop(columns="slab")
    assert 1 < len(slabs) < len(table)
    for method in METHODS:
        found, expected = (pool(each, "study", method).filter(like="prob_") for each in (table, slabs))
        pd.testing.assert_frame_equal(found, expected)


def test_a_result_of_version_3_is_read(out: Path, tmp_path: Path) -> None:
    found = json.loads((out / "results" / "0001.json").read_text())
    for each in found["slices"]:
        del each["slab"]
    (tmp_path / "study.json").write_text(json.dumps(found | {"schema": "ich study result 3"}))
    assert {each.slab for each in read_json(tmp_path / "study.json").slices} == {None}


@pytest.mark.parametrize(
    ("slab", "message"), [(None, "some slices belong to a slab"), (2, "slab 2 have different probabilities")]
)
def test_slabs_that_contradict_themselves_are_refused(
    slab: int | None, message: str, out: Path, tmp_path: Path
) -> None:
    found = json.loads((out / "results" / "0001.json").read_text())
    found["slices"][0]["slab"] = slab
    (tmp_path / "study.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "study.json")


def test_explanation_sees_the_same_means(
    thin: Path, models: dict[str, Path], out: Path, tmp_path: Path
) -> None:
    arguments = (
        "explain",
        str(models["thick"]),
        str(thin / "stage_2_train"),
        "--out",
        str(tmp_path / "maps"),
    )
    assert call(*arguments, "--limit", "1") == 0
    listed = pd.read_csv(tmp_path / "maps" / "slices.csv").set_index("SOPInstanceUID")
    result = read_json(out / "results" / "0001.json")
    middles = list_middles(result.slices)
    assert list(listed.index) == [result.slices[place].SOPInstanceUID for place in middles]
    expected = [result.slices[place].probs["any"] for place in middles]
    assert listed["prob_any"].tolist() == pytest.approx(expected, abs=1e-6)
    first = " ".join(result.slices[place].SOPInstanceUID for place in result.list_slab(middles[0]))
    assert listed["averaged"].iloc[0] == first


def make_data(root: Path, **settings: object) -> HeadCTDataModule:
    data = HeadCTDataModule(str(root), SPEC, num_workers=0, val_fraction=0.4, test_fraction=0.3, **settings)
    data.prepare_data()
    data.setup()
    return data


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("patients") / "phantom"
    write_phantom(root, patients=3, seed=2, size=64, step=STEP)
    return root


def test_training_reads_slabs_with_the_labels_of_their_slices(patients: Path, tmp_path: Path) -> None:
    single, data = make_data(patients), make_data(patients, thickness=THICKNESS)
    assert data.measure_thickness() == THICKNESS
    assert single.measure_thickness() == pytest.approx(STEP)
    before, table = single.table, data.table
    assert table["SOPInstanceUID"].tolist() == before["SOPInstanceUID"].tolist()
    sizes = table["slab"].value_counts()
    assert set(sizes) <= {2, 3, 4}
    labeled = data.labeled
    assert labeled["slab"].is_unique
    assert set(labeled["slab"]) == set(table["slab"])
    truth = before[list(LABELS)].groupby(table["slab"]).max()
    assert (labeled.set_index("slab")[list(LABELS)] == truth.loc[labeled["slab"]]).all(axis=None)
    assert labeled["any"].sum() > 0
    row = int(labeled.index[7])
    batch = data.predict_dataloader().dataset[0, row, 0]
    slabs = table["slab"].to_numpy()
    reads = [np.flatnonzero(slabs == slabs[row] + step) for step in (-1, 0, 1)]
    assert row in reads[1]
    for slot, rows in zip(batch["hu"][0].numpy(), reads, strict=True):
        hu = [resize_hu(read_hu(patients / table["path"][each]), SPEC.size) for each in rows]
        assert (slot == np.floor(np.mean(hu, axis=0, dtype=np.float64) + 0.5)).all()
    assert batch["read"] == sum(map(len, reads))
    cached = make_data(patients, thickness=THICKNESS, cache=str(tmp_path / "cache"))
    assert (cached.predict_dataloader().dataset[0, row, 0]["hu"] == batch["hu"]).all()


def test_a_slab_with_an_unknown_label_is_unknown_unless_it_is_positive(
    patients: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(patients, root)
    labels = pd.read_csv(root / "stage_2_train.csv")
    table = build_index(root).table
    slab = pd.Series(number_slabs(table, THICKNESS), table["SOPInstanceUID"])
    truth = labels[labels["ID"].str.endswith("_any")].assign(uid=lambda each: each["ID"].str[:-4])
    truth = truth.set_index("uid")["Label"]
    positive = truth.groupby(slab).max()
    mixed = truth.groupby(slab).mean().between(0, 1, inclusive="neither")
    slabs = {"positive": positive.index[mixed][0], "negative": positive.index[positive == 0][0]}
    hidden = {name: slab.index[(slab == each) & (truth[slab.index] == 0)][0] for name, each in slabs.items()}
    rows = labels["ID"].isin([f"{uid}_any" for uid in hidden.values()])
    labels.assign(Label=labels["Label"].astype("Int64").mask(rows)).to_csv(
        root / "stage_2_train.csv", index=False
    )
    found = make_data(root, thickness=THICKNESS).labeled.set_index("slab")["any"]
    assert found[slabs["positive"]] == 1
    assert np.isnan(found[slabs["negative"]])
    assert np.isnan(found).sum() == 1


def test_the_thickness_of_an_index_is_that_of_most_stacks(patients: Path) -> None:
    table = build_index(patients).table
    assert measure_thickness(table) == pytest.approx(STEP)
    assert measure_thickness(table.assign(position=np.nan)) is None
    with pytest.raises(UserError, match=r"data\.thickness=0: expected mm above 0"):
        HeadCTDataModule(str(patients), SPEC, thickness=0)
