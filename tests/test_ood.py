"""How like the training data a study is: the distance, its limit, and where a model carries them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import call
from numpy.typing import NDArray

from ich.calibration.ood import MAX_COMPONENTS, OodDistance, fit_ood, pool_distances
from ich.data import HeadCTDataModule
from ich.model_files.checkpoint import read_checkpoint
from ich.model_files.durable import DurableIO
from ich.model_files.metadata import OodReference
from ich.models import SliceClassifier, SliceNet, load_slice_net
from ich.train.best import add_to_checkpoint
from ich.train.ood import FeatureLog, describe_ood
from ich.train.scores import predict_parts
from ich.train.trainer import build_trainer

FEATURES, SLICES = 24, 20
BEST = "checkpoints/best.ckpt"


def draw(patients: int, seed: int, spread: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Slices of patients who differ, in features of very different size, and whose each slice is."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).normal(size=(3, FEATURES))
    units = np.logspace(-2, 2, FEATURES)
    patient = np.repeat(np.arange(patients), SLICES)
    scores = spread * (rng.normal(size=(patients, 3))[patient] + rng.normal(size=(patients * SLICES, 3)))
    features = units * (5 + scores @ mixing + rng.normal(size=(patients * SLICES, FEATURES)))
    return features.astype(np.float32), patient.astype(str)


def fit(patients: int, seed: int = 0) -> OodDistance:
    features, patient = draw(patients, seed)
    reference = fit_ood(features, patient, patient)
    assert isinstance(reference, OodDistance)
    return reference


def pool(reference: OodDistance, features: NDArray[np.float32]) -> NDArray[np.float64]:
    distances = reference(torch.from_numpy(features)).numpy().reshape(-1, SLICES)
    return np.array([pool_distances(each) for each in distances])


def test_distance_weighs_what_is_along_the_components_and_beside_them_alike() -> None:
    reference = fit(60)
    features, _ = draw(60, 0)
    assert reference.components.shape == (FEATURES // 2, FEATURES)
    assert reference.components.shape[0] <= MAX_COMPONENTS
    scaled = (torch.from_numpy(features).double() - reference.mean) / reference.scale.double()
    covariance = torch.cov(scaled.T, correction=0)
    values, vectors = torch.linalg.eigh(covariance)  # rising
    weights = torch.full((FEATURES,), float(values[: FEATURES // 2].mean())).double()
    weights[FEATURES // 2 :] = values[FEATURES // 2 :]
    squared = ((scaled @ vectors).square() / weights).mean(dim=1)  # halves of equal length
    distances = reference(torch.from_numpy(features))
    torch.testing.assert_close(distances.double(), squared.sqrt(), rtol=1e-3, atol=1e-3)
    assert float(distances.square().mean()) == pytest.approx(1, abs=1e-3)
    assert distances.dtype == torch.float32
    parts = torch.cat([reference(torch.from_numpy(part)) for part in np.array_split(features, 7)])
    torch.testing.assert_close(parts, distances, rtol=1e-5, atol=1e-5)


def test_limit_lets_new_studies_pass_and_others_not() -> None:
    reference = fit(60)
    whole, _ = draw(400, 7)
    assert (pool(reference, whole) > float(reference.limit)).mean() <= 0.02
    for changed in (whole * 1.5, whole[:, ::-1].copy(), np.zeros_like(whole), draw(400, 7, spread=8)[0]):
        assert (pool(reference, changed) > float(reference.limit)).mean() >= 0.95


def test_limit_is_wider_the_fewer_patients() -> None:
    limits = [float(fit(patients).limit) for patients in (6, 12, 60)]
    assert limits == sorted(limits, reverse=True)
    whole, _ = draw(400, 7)
    for patients in (6, 12):
        reference = fit(patients)
        assert (pool(reference, whole) > float(reference.limit)).mean() <= 0.02


def test_order_of_slices_does_not_matter() -> None:
    features, patient = draw(20, 0)
    order = np.random.default_rng(2).permutation(len(features))
    one, other = (fit_ood(features[i], patient[i], patient[i]) for i in (np.arange(len(order)), order))
    torch.testing.assert_close(one.limit, other.limit, rtol=1e-4, atol=0)


def test_what_cannot_be_fitted_says_why() -> None:
    features, patient = draw(4, 0)
    assert fit_ood(features, patient, patient) == "fewer than 5 patients"
    features, patient = draw(6, 0)
    assert "same in all slices" in fit_ood(np.ones_like(features), patient, patient)
    features[3, 2] = np.nan
    assert "not finite" in fit_ood(features, patient, patient)


def test_features_that_hardly_vary_give_finite_distances() -> None:
    features, patient = draw(12, 0)
    features[:, 4:] = 3.0  # dead
    reference = fit_ood(features, patient, patient)
    assert isinstance(reference, OodDistance)
    distances = reference(torch.from_numpy(features))
    assert bool(distances.isfinite().all())
    assert all(bool(buffer.isfinite().all()) for buffer in reference.buffers())
    features[:, 4:] = 4.0
    assert float(reference(torch.from_numpy(features)).min()) > float(reference.limit)


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with five patients in its validation set."""
    folder = tmp_path_factory.mktemp("ood")
    tiny = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=1"]
    data = ["data=rsna", f"data.root={phantom}", "input.size=32", "data.val_fraction=0.5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call("train", *data, *tiny, "data.num_workers=0", "run_dir=run", "logger=csv") == 0
    return folder / "run"


def open_data(phantom: Path, model: SliceNet) -> HeadCTDataModule:
    data = HeadCTDataModule(str(phantom), model.input, val_fraction=0.5, num_workers=0)
    data.setup()
    return data


@pytest.mark.trains
def test_best_checkpoint_carries_the_reference_of_its_validation_part(run: Path, phantom: Path) -> None:
    model = load_slice_net(run / BEST)
    data = open_data(phantom, model)
    val = data.part("val")
    assert model.metadata.ood == OodReference(val["StudyInstanceUID"].nunique(), val["PatientID"].nunique())
    features = []
    with torch.inference_mode():
        for batch in data.val_dataloader():
            batch = data.on_after_batch_transfer(data.on_before_batch_transfer(batch, 0), 0)
            features.append(model.extract(batch["image"]))
    again = fit_ood(torch.cat(features).numpy(), val["StudyInstanceUID"], val["PatientID"])
    for name, buffer in model.ood.named_buffers():
        if name != "components":  # rounding decides between its directions if variances are equal
            torch.testing.assert_close(again.get_buffer(name), buffer, rtol=1e-3, atol=1e-6)


@pytest.mark.trains
def test_metadata_sum_up_the_training(run: Path, phantom: Path) -> None:
    model = load_slice_net(run / BEST)
    training, train = model.metadata.training, open_data(phantom, model).part("train")
    assert training.slices == len(train)
    assert training.patients == train["PatientID"].nunique()
    assert training.studies == train["StudyInstanceUID"].nunique()
    assert training.positives["any"] == int(train["any"].sum())
    assert (training.epochs, training.best_epoch) == (1, 0)
    figures = json.loads((run / "metrics.json").read_text())["val"]["levels"]["slice"]
    assert training.val_log_loss == pytest.approx(figures["weighted_log_loss"]["value"], rel=1e-6)
    assert training.phantom is False  # for all that the run knows
    text = (run / "model_card.md").read_text()
    assert "Research use only" in text
    assert "the test set" in text
    assert str(phantom) not in text
    assert not any(patient in text for patient in train["PatientID"])


@pytest.mark.trains
def test_training_on_drops_what_was_fitted_to_the_weights_before(
    run: Path, phantom: Path, tmp_path: Path
) -> None:
    model = load_slice_net(run / BEST)
    data = open_data(phantom, model)
    tuned = SliceClassifier("test_resnet", input=model.input, init_from=str(run / BEST), pretrained=False)
    assert tuned.net.ood is None
    assert torch.equal(tuned.net.get_parameter("head.1.weight"), model.get_parameter("head.1.weight"))
    trainer = build_trainer(
        run_dir=tmp_path, gpus=0, max_epochs=1, limit_train_batches=1, limit_val_batches=1
    )
    done = SliceClassifier("test_resnet", input=model.input, pretrained=False)
    done.net = model.train()
    trainer.fit(done, datamodule=data)
    assert model.ood is None
    saved = read_checkpoint(tmp_path / "checkpoints/last.ckpt")
    assert (saved["metadata"].ood, saved["metadata"].decisions) == (None, None)
    assert not any(name.startswith("ood.") for name in saved["state_dict"])
    # Lightning's own door to a checkpoint that has one:
    other = build_trainer(run_dir=tmp_path / "other", gpus=0)
    other.validate(tuned, datamodule=data, ckpt_path=str(run / BEST), weights_only=True)
    assert tuned.net.ood is None


@pytest.mark.trains
def test_checkpoint_of_an_older_run_is_given_one_at_its_end(run: Path, phantom: Path, tmp_path: Path) -> None:
    old = DurableIO().load_checkpoint(run / BEST)
    metadata = old.pop("metadata")
    kept = {name: value for name, value in metadata.items() if name not in ("ood", "training")}
    old["card"] = kept | {"format": "ich slice classifier 1"}
    old["state_dict"] = {k: v for k, v in old["state_dict"].items() if not k.startswith("ood.")}
    DurableIO().save_checkpoint(old, tmp_path / "best.ckpt")
    model = load_slice_net(tmp_path / "best.ckpt")
    assert model.ood is None
    assert model.metadata == replace(load_slice_net(run / BEST).metadata, ood=None, training=None)
    data = open_data(phantom, model)
    seen = FeatureLog((data.table["part"] == "val").to_numpy())
    tables = predict_parts(model, data, 0, seen)
    fields, weights = describe_ood(seen.features, tables["val"])
    best = tmp_path / "best.ckpt"
    add_to_checkpoint(best, read_checkpoint(best), {"ood": fields}, weights)
    assert load_slice_net(best).metadata.ood == load_slice_net(run / BEST).metadata.ood
    theirs, ours = (load_slice_net(path).ood for path in (run / BEST, tmp_path / "best.ckpt"))
    torch.testing.assert_close(ours.limit, theirs.limit, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("StudyInstanceUID", "", "do not name their study"),
        ("StudyInstanceUID", "1", "studies of several patients"),
        ("PatientID", "1", "fewer than 5 patients"),
    ],
)
def test_metadata_say_why_there_is_none(
    run: Path, tmp_path: Path, column: str, value: str, reason: str
) -> None:
    path = Path(shutil.copy(run / BEST, tmp_path / "best.ckpt"))
    checkpoint = DurableIO().load_checkpoint(path)
    checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("ood.")}
    DurableIO().save_checkpoint(checkpoint, path)
    features, patient = draw(6, 0)
    slices = pd.DataFrame({"StudyInstanceUID": patient, "PatientID": patient}).assign(**{column: value})
    fields, weights = describe_ood(features, slices)
    add_to_checkpoint(path, read_checkpoint(path), {"ood": fields}, weights)
    model = load_slice_net(path)
    assert reason in model.metadata.ood.missing
    assert model.ood is None
