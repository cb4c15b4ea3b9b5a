from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from sklearn.linear_model import LogisticRegression
from torch import nn

from ich.data import HeadCTDataModule
from ich.data.buffers import Buffers
from ich.data.order import EpochSampler, balance_weights, draw_order, measure_draws
from ich.image.augment import Augment
from ich.image.augment.mixing import mix_batch
from ich.image.resize import resize_hu
from ich.image.shrink import shrink_batch
from ich.image.window import Window
from ich.models import SliceClassifier, SliceNet
from ich.models.metrics import MeanLoss
from ich.schema import LABELS, InputSpec, ReadError, UserError

SMALL = InputSpec(size=64)


def make(root: Path, spec: InputSpec = SMALL, **kwargs) -> HeadCTDataModule:
    datamodule = HeadCTDataModule(str(root), spec, **{"num_workers": 0, "batch_size": 8, **kwargs})
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def receive(datamodule: HeadCTDataModule, batch: dict) -> dict:
    """What a LightningModule is given, on the CPU."""
    batch = datamodule.on_before_batch_transfer(batch, 0)
    return datamodule.on_after_batch_transfer(batch, 0)


def read_reference(path: Path) -> np.ndarray:
    """HU by pydicom alone, with the RSNA quirk by hand and padding as air."""
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(path)
        stored, slope, intercept = ds.pixel_array.astype(np.int32), ds.RescaleSlope, ds.RescaleIntercept
    if ds.BitsStored == 12 and ds.PixelRepresentation == 0 and intercept > -100:
        stored = stored + 1000
        stored[stored >= 4096] -= 4096
        intercept = -1000
    return np.maximum(stored * float(slope) + float(intercept), -1024)


@pytest.fixture
def copy(phantom: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantom, tmp_path / "phantom"))


class Stranger(LightningModule):
    """Somebody else's module, which knows nothing but the batch."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 6))

    def training_step(self, batch, batch_idx):
        target = batch["target"]
        loss = nn.functional.binary_cross_entropy_with_logits(
            self.net(batch["image"]), target.nan_to_num(), reduction="none"
        )
        return loss[target.isfinite()].mean()

    def validation_step(self, batch, batch_idx):
        assert batch["image"].shape[1:] == (3, 64, 64)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_batch_has_the_documented_keys_shapes_and_types(phantom: Path) -> None:
    datamodule = make(phantom)
    batch = receive(datamodule, next(iter(datamodule.train_dataloader())))
    assert set(batch) == {"image", "target", "row"}
    assert batch["image"].shape == (8, 3, 64, 64)
    assert batch["image"].dtype == torch.float32
    assert batch["target"].shape == (8, 6)
    assert batch["target"].dtype == torch.float32
    assert batch["row"].dtype == torch.int64
    rows = datamodule.table.iloc[batch["row"].numpy()]
    np.testing.assert_array_equal(batch["target"].numpy(), rows[list(LABELS)].to_numpy(np.float32))


def test_image_is_the_windowed_slice_that_pydicom_reads(phantom: Path) -> None:
    spec = InputSpec(size=64, windows=("brain", (80.0, 200.0)), normalization="unit")
    datamodule = make(phantom, spec)
    batch = receive(datamodule, next(iter(datamodule.test_dataloader())))
    for image, row in zip(batch["image"].numpy(), batch["row"].tolist(), strict=True):
        hu = read_reference(phantom / datamodule.table["path"][row])
        brain = np.clip((hu - 40) / 80 + 0.5, 0, 1)
        subdural = np.clip((hu - 80) / 200 + 0.5, 0, 1)
        np.testing.assert_allclose(image, np.stack([brain, subdural]), atol=0.5 / 80 + 1e-6)


@pytest.mark.trains
def test_somebody_elses_module_trains_as_it_is(phantom: Path) -> None:
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Stranger(), datamodule=HeadCTDataModule(str(phantom), SMALL, num_workers=0))
    assert trainer.global_step > 0


def test_learnable_windows_leave_hu_to_the_model(phantom: Path) -> None:
    datamodule = make(phantom, InputSpec(size=64, learnable=True))
    batch = receive(datamodule, next(iter(datamodule.val_dataloader())))
    assert set(batch) == {"hu", "target", "row"}
    assert batch["hu"].shape == (8, 1, 64, 64)
    assert batch["hu"].dtype == torch.int16


def test_neighbors_are_the_slices_beside_it_and_repeat_at_the_ends(phantom: Path) -> None:
    datamodule = make(phantom, InputSpec(size=64, neighbors=1, learnable=True))
    table = datamodule.table
    for batch in datamodule.test_dataloader():
        for hu, row in zip(batch["hu"].numpy(), batch["row"].tolist(), strict=True):
            series = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"][row]]
            place = series["position"].rank().loc[row]
            beside = [
                series.index[(series["position"].rank() == np.clip(place + step, 1, len(series)))][0]
                for step in (-1, 0, 1)
            ]
            expected = [read_reference(phantom / table["path"][r]) for r in beside]
            np.testing.assert_allclose(hu, np.stack(expected), atol=0.5)


@pytest.mark.races
def test_order_and_augmentation_depend_on_seed_and_epoch_but_not_on_workers(phantom: Path) -> None:
    augment = Augment(flip=0.5, rotate=20, noise_hu=5)
    batches = {
        workers: list(make(phantom, augment=augment, num_workers=workers).train_dataloader())
        for workers in (0, 2)
    }
    assert len(batches[0]) == len(batches[2]) > 2
    for alone, shared in zip(batches[0], batches[2], strict=True):
        assert torch.equal(alone["row"], shared["row"])
        assert torch.equal(alone["hu"], shared["hu"])
    rows = np.arange(100)
    assert np.array_equal(draw_order(rows, 0, 1), draw_order(rows, 0, 1))
    assert not np.array_equal(draw_order(rows, 0, 1), draw_order(rows, 0, 2))
    assert not np.array_equal(draw_order(rows, 0, 1), draw_order(rows, 1, 1))
    assert np.array_equal(np.sort(draw_order(rows, 0, 1)), rows)


def test_the_device_augments_as_the_cpu_does(phantom: Path) -> None:
    spec = InputSpec(size=64, neighbors=1, learnable=True)
    changes = {"flip": 0.5, "rotate": 20, "scale": 0.1, "shift": 0.05, "shift_hu": 5}
    batches = [
        receive(datamodule, next(iter(datamodule.train_dataloader())))
        for datamodule in (
            make(phantom, spec),
            make(phantom, spec, augment=Augment(**changes)),
            make(phantom, spec, augment=Augment(**changes, on_device=True), num_workers=2),
        )
    ]
    plain, on_cpu, on_device = (batch["hu"].numpy().astype(int) for batch in batches)
    assert [set(batch) for batch in batches] == [{"hu", "target", "row"}] * 3
    assert (on_cpu != plain).any(axis=(1, 2, 3)).all()
    assert np.abs(on_device - on_cpu).max() <= 5  # HU: the skull is an edge of 1,000 HU a pixel


@pytest.mark.parametrize("learnable", [False, True])
def test_random_windows_change_only_training_batches(phantom: Path, learnable: bool) -> None:
    spec = InputSpec(size=64, neighbors=1, learnable=learnable)
    augment = Augment(window_center=10, window_width=0.25)
    datamodule = make(phantom, spec, augment=augment)
    net = SliceNet(
        "test_resnet", input=spec, drop_rate=0, drop_path_rate=0, link="sigmoid", channels_last=False
    )
    hu = next(iter(make(phantom, replace(spec, learnable=True)).train_dataloader()))["hu"]
    batch = receive(datamodule, next(iter(datamodule.train_dataloader())))
    drawn = augment.draw([(0, 0, row, 0) for row in batch["row"].tolist()], 64).windows
    image = net.take_image(batch)
    torch.testing.assert_close(image, Window(spec)(hu, None, torch.from_numpy(drawn)))
    assert (image != Window(spec)(hu)).flatten(1).any(dim=1).all()
    batch = receive(datamodule, next(iter(datamodule.val_dataloader())))
    plain = receive(make(phantom, spec), next(iter(make(phantom, spec).val_dataloader())))
    assert torch.equal(net.take_image(batch), net.take_image(plain))


@pytest.mark.parametrize("on_device", [False, True])
def test_training_batches_are_mixed_by_their_own_keys(phantom: Path, on_device: bool) -> None:
    augment = Augment(shift_hu=5, mixup=0.5, cutmix=0.5, on_device=on_device)
    unmixed = Augment(shift_hu=5, on_device=on_device)
    batch, plain = (
        receive(datamodule, next(iter(datamodule.train_dataloader())))
        for datamodule in (make(phantom, augment=each) for each in (augment, unmixed))
    )
    drawn = augment.draw([(0, 0, row, 0) for row in batch["row"].tolist()], 64).mixing
    image, target = mix_batch(plain["image"], plain["target"], torch.from_numpy(drawn))
    assert torch.equal(batch["image"], image)
    assert torch.equal(batch["target"], target)
    assert set(batch) == set(plain) == {"image", "target", "row"}
    assert (image != plain["image"]).flatten(1).any(dim=1).all()
    assert ((batch["target"] > 0) & (batch["target"] < 1)).any()


def test_mixing_of_images_that_the_network_windows_is_refused(phantom: Path) -> None:
    with pytest.raises(UserError, match=r"mixup=0.2 and .*input.learnable=false"):
        make(phantom, InputSpec(learnable=True), augment=Augment(mixup=0.2))


def test_random_windows_of_an_input_without_windows_are_refused(phantom: Path) -> None:
    spec = InputSpec(windows=(), normalization="max_abs")
    with pytest.raises(UserError, match=r"window_width=0.2: input.normalization=max_abs has no windows"):
        make(phantom, spec, augment=Augment(window_width=0.2))


def test_repeats_are_counted_where_rows_are_drawn_again() -> None:
    rows = np.array([3, 1, 3, 3, 2, 1])
    sampler = EpochSampler(np.arange(6), lambda epoch: rows, lambda: 4)
    assert list(sampler) == [(4, 3, 0), (4, 1, 0), (4, 3, 1), (4, 3, 2), (4, 2, 0), (4, 1, 1)]


def test_evaluation_parts_are_not_augmented_and_keep_their_order(phantom: Path) -> None:
    plain = list(make(phantom).val_dataloader())
    augmented = list(make(phantom, augment=Augment(rotate=90)).val_dataloader())
    assert all(torch.equal(a["hu"], b["hu"]) for a, b in zip(plain, augmented, strict=True))
    rows = torch.cat([batch["row"] for batch in plain])
    assert torch.equal(rows, rows.sort().values)


def test_balanced_sampling_draws_rare_labels_more_often() -> None:
    target = np.zeros((1000, 6), dtype=np.float32)
    target[:10, [0, 5]] = 1
    target[10:20, 0] = np.nan
    weights = balance_weights(target)
    drawn = draw_order(np.arange(1000), 0, 0, weights)
    # By hand: ten positives weigh 1/sqrt(10), 990 negatives 1/sqrt(990): 9 % of the draws.
    expected = 10 / np.sqrt(10) / (10 / np.sqrt(10) + 990 / np.sqrt(990))
    assert np.mean(drawn < 10) == pytest.approx(expected, abs=0.03)


def test_draws_are_measured_by_hand() -> None:
    target = np.zeros((100, 4), dtype=np.float32)
    target[:20, 0], target[:5, 1], target[5:8, 1], target[:, 3] = 1, 1, np.nan, np.nan
    weights = np.where(np.arange(100) < 10, 3.0, 1.0)
    prevalences, shift = measure_draws(target, weights)
    # Ten of twenty positives and none of eighty negatives weigh 3; then 5 of 5, and 2 of 92.
    np.testing.assert_allclose(prevalences, [40 / 120, 15 / 111, 0, np.nan], rtol=1e-6)
    np.testing.assert_allclose(shift, [np.log(2), np.log(3 / (96 / 92)), 0, 0], rtol=1e-6)
    natural, drawn = 20 / 100, 40 / 120
    assert shift[0] == pytest.approx(np.log(drawn / (1 - drawn) / (natural / (1 - natural))))


def test_logits_trained_on_balanced_draws_with_the_shift_are_of_the_natural_prevalences() -> None:
    """Labels that occur together, of which one is three in a thousand, and their union."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 4))
    log_odds = np.array([-8.0, -4.5, -4.0]) + 2 * x[:, :3] + x[:, 3:]
    subtypes = rng.random((40_000, 3)) < 1 / (1 + np.exp(-log_odds))
    target = np.column_stack([subtypes, subtypes.any(axis=1)]).astype(np.float32)
    weights = balance_weights(target)
    _, shift = measure_draws(target, weights)
    features = np.hstack([x, x**2])
    for label, natural in enumerate(target.mean(axis=0)):
        model = LogisticRegression(C=100, max_iter=500).fit(features, target[:, label], weights)
        shifted = model.decision_function(features)
        predicted = (1 / (1 + np.exp(shift[label] - shifted))).mean()
        assert predicted == pytest.approx(natural, rel=0.1)
        assert (1 / (1 + np.exp(-shifted))).mean() > 1.3 * natural


def test_the_shift_is_for_the_loss_of_training_alone(phantom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule = make(phantom, sampling="balanced")
    train, val = (
        receive(datamodule, next(iter(loader)))
        for loader in (datamodule.train_dataloader(), datamodule.val_dataloader())
    )
    target = datamodule.part("train")[list(LABELS)].to_numpy(np.float32)
    _, shift = measure_draws(target, balance_weights(target))
    assert (shift > 0).all()
    torch.testing.assert_close(train["logit_shift"], torch.from_numpy(shift).expand(8, 6))
    assert "logit_shift" not in val
    model = SliceClassifier("test_resnet", input=SMALL, pretrained=False).eval()
    logged: dict[str, MeanLoss] = {}
    monkeypatch.setattr(model, "log", lambda name, value, **_: logged.update({name: value}))
    loss = model.training_step(train, 0)
    torch.testing.assert_close(
        loss, model.loss(model(train["image"]) + torch.from_numpy(shift), train["target"])
    )
    model.validation_step(val, 0)
    torch.testing.assert_close(logged["val_loss"].compute(), model.loss(model(val["image"]), val["target"]))


def test_smoothed_targets_keep_their_means(copy: Path) -> None:
    labels = pd.read_csv(copy / "stage_2_train.csv")
    labels.loc[labels.index % 7 == 0, "Label"] = np.nan
    labels.to_csv(copy / "stage_2_train.csv", index=False)
    datamodule = make(copy, label_smoothing=0.1, batch_size=1)
    batches = [receive(datamodule, batch) for batch in datamodule.train_dataloader()]
    rows = torch.cat([batch["row"] for batch in batches]).numpy()
    target = torch.cat([batch["target"] for batch in batches]).numpy()
    given = datamodule.table.loc[rows, list(LABELS)]
    assert given.isna().any().any()
    expected = 0.9 * given + 0.1 * datamodule.part("train")[list(LABELS)].mean()
    np.testing.assert_allclose(target, expected, rtol=1e-5)
    np.testing.assert_allclose(np.nanmean(target, axis=0), given.mean(), rtol=1e-4)
    batch = receive(datamodule, next(iter(datamodule.val_dataloader())))
    assert set(batch["target"][batch["target"].isfinite()].tolist()) <= {0, 1}


def test_the_first_epochs_see_smaller_images(phantom: Path) -> None:
    spec = InputSpec(size=64, neighbors=1, normalization="unit")
    datamodule = make(phantom, spec, first_sizes=[32, 48], augment=Augment(shift_hu=5))
    dataset = datamodule.train_dataloader().dataset
    plain = make(phantom, spec, augment=Augment(shift_hu=5)).train_dataloader().dataset
    for epoch, size in enumerate((32, 48, 64)):
        items = [(epoch, row, 0) for row in (3, 7)]
        batch = receive(datamodule, dataset.__getitems__(items))
        assert set(batch) == {"image", "target", "row"}
        hu = [
            [resize_hu(each, size) for each in slices] for slices in plain.__getitems__(items)["hu"].numpy()
        ]
        expected = Window(spec)(torch.from_numpy(np.array(hu)))
        assert batch["image"].shape == (2, 9, size, size)
        # Halves of HU round either way; the narrowest window has 80.
        torch.testing.assert_close(batch["image"], expected, atol=1.01 / 80, rtol=0)
    for loader in (datamodule.val_dataloader(), datamodule.predict_dataloader()):
        assert receive(datamodule, next(iter(loader)))["image"].shape == (8, 9, 64, 64)


@pytest.mark.parametrize(("side", "size"), [(64, 32), (128, 96), (256, 160), (100, 99), (64, 64)])
def test_a_batch_shrinks_as_its_slices_do(side: int, size: int) -> None:
    hu = np.random.default_rng(size).integers(-1024, 3000, (2, 3, side, side)).astype(np.int16)
    expected = np.array([[resize_hu(each, size) for each in slices] for slices in hu])
    shrunk = shrink_batch(torch.from_numpy(hu), size)
    assert (shrunk.shape, shrunk.dtype) == ((2, 3, size, size), torch.int16)
    difference = np.abs(shrunk.numpy().astype(int) - expected)
    assert difference.max() <= 1  # HU: halves round either way
    assert (difference > 0).mean() < (0.3 if side == 2 * size else 0.001)


def test_sizes_that_a_backbone_does_not_take_are_refused() -> None:
    net = SliceNet(
        "baseline_cnn", input=SMALL, drop_rate=0, drop_path_rate=0, link="sigmoid", channels_last=True
    )
    net.require_sizes([64])
    with pytest.raises(
        UserError, match=r"first_sizes=\[64, 48\]: .*\(1, 3, 48, 48\): .*; leave data.first_sizes"
    ):
        net.require_sizes([64, 48])


def test_sets_share_no_patient_and_folds_partition_the_patients(phantom: Path) -> None:
    tested: list[str] = []
    for fold in range(3):
        table = make(phantom, fold=fold, folds=3).table
        patients = {part: set(rows["PatientID"]) for part, rows in table.groupby("part")}
        assert not patients["train"] & patients["test"]
        assert not patients["train"] & patients["val"]
        tested += patients["test"]
    assert sorted(tested) == sorted(set(table["PatientID"]))


def test_split_file_and_sample_are_honored(phantom: Path, tmp_path: Path) -> None:
    datamodule = make(phantom, limit_slices=200, seed=5)
    table = datamodule.table
    assert 100 <= len(table) <= 200
    full = make(phantom).table
    assert full.groupby("PatientID").size().loc[table["PatientID"].unique()].sum() == len(table)
    assert make(phantom, limit_slices=200, seed=5).table.equals(table)
    assert set(table["part"]) == {"train", "val", "test"}
    assert len(table[["PatientID", "part"]].drop_duplicates()) == table["PatientID"].nunique()
    patients = full["PatientID"].unique()
    parts = ["train"] * (len(patients) - 2) + ["val", "test"]
    pd.DataFrame({"PatientID": patients, "part": parts}).to_csv(tmp_path / "split.csv", index=False)
    given = make(phantom, split=str(tmp_path / "split.csv"))
    assert set(given.part("test")["PatientID"]) == {patients[-1]}


@pytest.mark.races
def test_unreadable_slice_stops_with_its_name_unless_tolerated(copy: Path, damage, caplog) -> None:
    path = copy / make(copy).part("val")["path"].iloc[0]
    damage(path)
    datamodule = make(copy, num_workers=2)
    with pytest.raises(ReadError, match=path.name):
        [receive(datamodule, batch) for batch in datamodule.val_dataloader()]
    tolerant = make(copy, num_workers=2, tolerate=1)
    with caplog.at_level(logging.WARNING):
        batches = [receive(tolerant, batch) for batch in tolerant.val_dataloader()]
    assert sum(len(batch["row"]) for batch in batches) == len(tolerant.part("val")) - 1
    assert len(tolerant.unread) == 1
    assert "left out" in caplog.text


def test_an_unreadable_slice_keeps_no_memory_of_its_batch(copy: Path, damage) -> None:
    damage(copy / make(copy).part("val")["path"].iloc[0])
    datamodule = make(copy, tolerate=1)
    [receive(datamodule, batch) for batch in datamodule.val_dataloader()]
    (error,) = datamodule.unread.values()
    assert error.__traceback__ is None  # whose frames would hold it


def test_unknown_labels_stay_unknown(copy: Path) -> None:
    labels = pd.read_csv(copy / "stage_2_train.csv")
    labels.loc[labels["ID"].str.endswith("_epidural"), "Label"] = np.nan
    labels.to_csv(copy / "stage_2_train.csv", index=False)
    datamodule = make(copy)
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["target"][:, 0].isnan().all()
    assert batch["target"][:, 5].isfinite().all()
    assert np.isnan(datamodule.prevalences()[0])
    assert np.isfinite(datamodule.prevalences()[1:]).all()


def test_label_without_positives_is_named(copy: Path, caplog) -> None:
    labels = pd.read_csv(copy / "stage_2_train.csv")
    labels.loc[labels["ID"].str.endswith("_epidural") & (labels["Label"] == 1), "Label"] = np.nan
    labels.to_csv(copy / "stage_2_train.csv", index=False)
    with caplog.at_level(logging.WARNING):
        make(copy)
    assert "epidural" in caplog.text


def test_workers_hold_no_object_for_each_slice(phantom: Path) -> None:
    datamodule = make(phantom)
    arrays = datamodule.train_dataloader().dataset.arrays
    columns = [column for column in arrays if isinstance(column, np.ndarray)]
    assert {len(column) for column in columns} == {len(datamodule.table)}
    assert all(not column.dtype.hasobject for column in columns)
    assert len(arrays.layouts) < 20


def test_memory_of_a_batch_is_used_again_once_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.take((4, 1, 8, 8)).fill_(7)
    part = first[1:2, 0]
    del first
    assert buffers.take((4, 1, 8, 8)).fill_(0).data_ptr() != part.data_ptr() - 128
    assert (part == 7).all()
    place = part.data_ptr() - 128
    del part
    assert place in {buffers.take((2, 1, 8, 8)).data_ptr() for _ in range(3)}


@pytest.mark.races
def test_the_summary_says_how_slices_were_read(copy: Path) -> None:
    decoded = make(copy).table["pixel_offset"].lt(0).sum()
    datamodule = make(copy, num_workers=2)
    changed = datamodule.table["pixel_offset"].ge(0).idxmax()
    path = copy / datamodule.table["path"][changed]
    expected = read_reference(path)
    path.touch()
    batches = [
        receive(datamodule, batch)
        for loader in (datamodule.train_dataloader(), datamodule.predict_dataloader())
        for batch in loader
    ]
    assert datamodule.read == sum(len(batch["row"]) for batch in batches)
    assert datamodule.decoded <= datamodule.read
    assert datamodule.decoded in (decoded, decoded + 1)  # training leaves out what fills no batch
    one = datamodule.predict_dataloader().dataset[0, changed, 0]
    assert one["decoded"] == 1
    np.testing.assert_allclose(one["hu"][0, 0].numpy(), expected, atol=0.5)


@pytest.mark.parametrize("size", [8, 64, 96, 100, 160, 224, 256, 257, 384, 480, 512])
def test_slices_shrink_by_area_as_opencv_has_it(size: int) -> None:
    hu = np.random.default_rng(size).integers(-1024, 3000, (512, 512)).astype(np.int16)
    expected = cv2.resize(hu, (size, size), interpolation=cv2.INTER_AREA).astype(int)
    difference = np.abs(resize_hu(hu, size) - expected)
    assert difference.max() <= 1  # HU: halves round either way
    assert (difference > 0).mean() < 0.001


def test_a_pixel_is_the_mean_of_what_it_covers() -> None:
    hu = np.array([[0, 3, 6], [0, 3, 6], [0, 3, 6]], np.int16)
    # By hand: (0 + 3 / 2) / 1.5 and (3 / 2 + 6) / 1.5.
    np.testing.assert_array_equal(resize_hu(hu, 2), [[1, 5], [1, 5]])


def test_neighbors_count_as_what_is_read(phantom: Path) -> None:
    datamodule = make(phantom, InputSpec(size=64, neighbors=1))
    batches = [receive(datamodule, batch) for batch in datamodule.val_dataloader()]
    assert datamodule.read == 3 * sum(len(batch["row"]) for batch in batches)


def test_each_epoch_and_each_repeat_is_augmented_differently(phantom: Path) -> None:
    dataset = make(phantom, augment=Augment(noise_hu=5)).train_dataloader().dataset
    seen = [dataset[item]["hu"].numpy().tobytes() for item in ((0, 3, 0), (1, 3, 0), (0, 3, 1), (0, 3, 0))]
    assert len(set(seen)) == 3
    assert seen[0] == seen[3]


def test_slices_that_are_not_square_keep_their_shape() -> None:
    hu = np.full((100, 50), 40, dtype=np.int16)
    square = resize_hu(hu, 50)
    assert square.shape == (50, 50)
    np.testing.assert_array_equal(square[:, 13:37], 40)
    np.testing.assert_array_equal(square[:, [0, 11, 38, 49]], -1024)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling": "fair"}, "data.sampling=fair"),
        ({"label_smoothing": 1.0}, "data.label_smoothing=1.0"),
        ({"first_sizes": [32, 96]}, r"first_sizes=\[32, 96\]: expected sizes from 16 to input.size=64"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"fold": 9}, "data.fold=9"),
    ],
)
def test_arguments_out_of_range_are_refused(phantom: Path, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(phantom, **arguments)
