"""A run with a network over series: its files, its checkpoint, and what predicts with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import call

from ich.data import HeadCTDataModule
from ich.model_files.checkpoint import read_checkpoint
from ich.model_files.durable import DurableIO
from ich.model_files.features import Description, hash_state, read_features
from ich.models import SliceClassifier, hash_weights, load_slice_net
from ich.models.network import drop_series
from ich.networks import TorchNetwork
from ich.networks.export import export_onnx
from ich.predict import Predictor
from ich.schema import LABELS, InputSpec, UserError
from ich.tables import read_predictions

pytestmark = pytest.mark.trains

TINY = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=1", "data.num_workers=0"]
SERIES = ["series=transformer", "series.epochs=2", "series.width=16", "series.lr=0.02", "trainer.gpus=0"]


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network over series is used by three labels, whatever so short a training brings."""
    folder = tmp_path_factory.mktemp("series")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        take_half(patch)
        data = ["data=rsna", f"data.root={phantom}", "input.size=32", "logger=csv", "run_dir=run"]
        assert call("train", *data, *TINY, *SERIES) == 0
    return folder / "run"


def take_half(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("ich.train.series.choose_shares", lambda *_: [0.0, 0.5, 1.0, 0.0, 0.0, 1.0])


def test_a_run_keeps_features_metrics_and_the_network(run: Path, phantom: Path) -> None:
    assert {path.name for path in (run / "series").iterdir()} == {"features.safetensors", "metrics.csv"}
    assert len(pd.read_csv(run / "series/metrics.csv")) == 2
    net = load_slice_net(run / "checkpoints/best.ckpt")
    assert net.series is not None
    assert net.metadata.series == net.series.spec
    assert net.series.blend.tolist() == [0.0, 0.5, 1.0, 0.0, 0.0, 1.0]
    assert set(read_predictions(run / "predictions_val.csv")["weights_sha256"]) == {hash_weights(net)}
    data = HeadCTDataModule(str(phantom), net.input, num_workers=0)
    data.setup()
    net.series = None
    description = Description(
        weights_sha256=hash_weights(net), slices_sha256=hash_state(data.table), input=net.input
    )
    found = read_features(run / "series/features.safetensors", description)
    assert found.features.shape == (len(data.labeled), net.features)
    assert sorted(found.rows) == sorted(data.labeled.index)
    assert read_checkpoint(run / "checkpoints/last.ckpt")["metadata"].series is None


def test_a_study_is_predicted_as_in_the_table_of_the_run(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("bundle", str(run), str(tmp_path / "model.zip")) == 0
    assert call("bundle", str(tmp_path / "model.zip")) == 0
    assert "network over series: transformer, 16 wide" in capsys.readouterr().out
    table = read_predictions(run / "predictions_test.csv").set_index("SOPInstanceUID")
    compared = 0
    for result in Predictor.load(tmp_path / "model.zip").predict(phantom):
        uids = [each.SOPInstanceUID for each in result.slices]
        if any(each.left_out for each in result.slices) or not set(uids) <= set(table.index):
            continue
        found = pd.DataFrame([each.probs for each in result.slices], index=uids)
        for label in LABELS:
            np.testing.assert_allclose(found[label], table.loc[uids, f"prob_{label}"], atol=1e-4)
        compared += 1
    assert compared


def test_a_network_needs_the_positions_of_its_slices(run: Path) -> None:
    net = load_slice_net(run / "checkpoints/best.ckpt")
    hu = np.random.default_rng(0).integers(-100, 200, (5, 1, 32, 32)).astype(np.int16)
    with pytest.raises(ValueError, match="expected the positions of 5 slices in mm"):
        TorchNetwork(net, "", gpus=0).run(hu)
    with pytest.raises(UserError, match="give the positions of the slices"):
        Predictor.load(run, gpus=0).predict_hu(list(hu[:, 0]))
    near, far = (
        TorchNetwork(net, "", gpus=0).run(hu, None, np.arange(5) * step).probs for step in (1.0, 9.0)
    )
    assert np.abs(near - far).max() > 1e-4
    assert (near[:, 0] == far[:, 0]).all()  # epidural takes nothing of it
    flipped = Predictor.load(run, gpus=0, tta=["flip"]).predict_hu(list(hu[:, 0]), positions=range(5))
    assert np.isfinite(flipped.probs).all()


def test_what_no_file_can_hold_names_the_way_out(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"share it with `ich bundle`, or train .*series=none"):
        export_onnx(run, tmp_path / "model.onnx")


def test_fine_tuning_starts_from_the_network_for_slices(run: Path) -> None:
    best = run / "checkpoints/best.ckpt"
    tuned = SliceClassifier("test_resnet", input=InputSpec(size=32), init_from=str(best))
    assert tuned.net.series is None
    weights = drop_series(read_checkpoint(best)["state_dict"])
    assert all(torch.equal(value, weights[name]) for name, value in tuned.net.state_dict().items())


def test_an_end_that_comes_again_reads_the_features_and_changes_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    take_half(monkeypatch)
    files = [run / "checkpoints/best.ckpt", run / "predictions_test.csv", run / "series/features.safetensors"]
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr("ich.train.scores.predict_parts", None)
    assert call("train", "ckpt_path=run") == 0
    assert [file.read_bytes() for file in files] == before
    monkeypatch.undo()
    checkpoint = DurableIO().load_checkpoint(files[0])
    checkpoint["metadata"]["series"]["width"] = 24
    DurableIO().save_checkpoint(checkpoint, run.parent / "other.ckpt")
    with pytest.raises(UserError, match="is damaged"):
        load_slice_net(run.parent / "other.ckpt")
