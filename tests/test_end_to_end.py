"""A network over series that learns together with its backbone, and its probabilities of series."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import call

from ich.calibration import to_logits
from ich.data import HeadCTDataModule
from ich.data.groups import Series
from ich.image.augment import Augment
from ich.model_files.checkpoint import read_checkpoint
from ich.models import SliceClassifier, load_slice_net
from ich.models.network import JOINT
from ich.models.series import SeriesNet, SeriesSpec, Slices, correct
from ich.models.series.joint import relate
from ich.outputs.records import read_json
from ich.predict import Predictor
from ich.schema import LABELS, InputSpec, UserError
from ich.tables import read_predictions
from ich.tables.runs import RunDraw

TINY = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=2", "data.num_workers=0"]
JOINTLY = ["series=gru", "series.end_to_end=true", "series.width=16", "series.max_slices=16"]
SPEC = SeriesSpec(end_to_end=True, width=16, max_slices=16)


def load(phantom: Path, **settings: Any) -> HeadCTDataModule:
    given = {"batch_size": 48, "num_workers": 0, "seed": 3} | settings
    data = HeadCTDataModule(str(phantom), InputSpec(size=32), **given)
    data.setup()
    return data


def test_batches_hold_runs_of_series_in_order_and_validation_whole_ones(phantom: Path) -> None:
    data = load(phantom, series=RunDraw(16, 0.2, 0.5))
    directions = set()
    for batch in data.train_dataloader():
        table = data.table.iloc[batch["row"].numpy()].reset_index(drop=True)
        assert batch["series"].max() == 2  # 48 slices allow three runs of 16
        assert table["position"].to_numpy() == pytest.approx(batch["position"].numpy())
        for _, rows in table.groupby(batch["series"].numpy()):
            assert len(rows) <= 16
            assert len(set(rows["SeriesInstanceUID"])) == 1
            steps = np.diff(rows["position"])
            assert (steps > 0).all() or (steps < 0).all()
            directions.add(bool((steps > 0).all()))
    assert directions == {True, False}
    val = data.part("val")
    seen = [batch["row"].tolist() for batch in data.val_dataloader()]
    assert sorted(row for rows in seen for row in rows) == val.index.tolist()
    assert len(seen) == val["SeriesInstanceUID"].nunique()


def test_what_is_drawn_depends_on_seed_epoch_and_series_alone() -> None:
    series = np.repeat([0, 1], [40, 10])
    position = np.arange(50, dtype=np.float32)
    position[[3, 45]] = np.nan
    rows = np.arange(50)
    drawn = Series(rows, series, position, RunDraw(8, 0.2, 0.5), seed=1)
    assert drawn.first.tolist() == [0, 40]
    assert drawn.list_slices((2, 0, 0)) == Series(
        rows, series, position, RunDraw(8, 0.2, 0.5), 1
    ).list_slices((2, 0, 0))
    assert len({tuple(drawn.list_slices((epoch, 0, 0))) for epoch in range(9)}) > 5
    whole = Series(rows, series, position)
    assert [row for _, row, _ in whole.list_slices((0, 40, 0))] == [40, 41, 42, 43, 44, 46, 47, 48, 49]


def test_training_and_prediction_correct_alike_and_gradients_reach_both_inputs() -> None:
    torch.manual_seed(0)
    net = SeriesNet(SPEC.arguments, 5, 3).eval()
    for head in (net.slice_head, net.series_head):
        torch.nn.init.normal_(head.weight)
    rng = np.random.default_rng(0)
    probs = rng.uniform(0.05, 0.95, (12, 3)).astype(np.float32)
    series, position = np.tile([1, 0, 2], 4), np.repeat(5.0 * np.arange(4), 3)  # series take turns
    slices = Slices(rng.normal(size=(12, 5)).astype(np.float32), probs, position, series)
    features = torch.from_numpy(slices.features).requires_grad_()
    logits = torch.from_numpy(to_logits(probs)).float().requires_grad_()
    target = torch.zeros(12, 3)
    target[0, 0], target[1, 1] = 1, torch.nan
    batch = {
        "series": torch.from_numpy(series),
        "position": torch.from_numpy(position).float(),
        "target": target,
    }
    related = relate(net, features, logits, batch)
    expected = correct(net, slices)
    np.testing.assert_allclose(related.slices.sigmoid().detach(), expected.probs, atol=1e-5)
    np.testing.assert_allclose(related.series.sigmoid().detach(), expected.series, atol=1e-5)
    np.testing.assert_array_equal(related.target, [[0, np.nan, 0], [1, 0, 0], [0, 0, 0]])
    related.slices[4].sum().backward()
    for given in (features, logits):
        assert given.grad is not None
        assert (given.grad[series == 0].abs().sum(dim=1) > 0).sum() >= 1
        assert given.grad[series != 0].abs().sum() == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "slice"}, "data.split=slice with series.end_to_end=true: a series would be in several"),
        ({"study_labels": "x.csv"}, "series.end_to_end=true with data.study_labels: a batch holds either"),
        ({"sampling": "balanced"}, "data.sampling=balanced with series.end_to_end=true: this draws or"),
        ({"augment": Augment(cutmix=0.5)}, "augment.mixup and augment.cutmix with series.end_to_end=true"),
    ],
)
def test_settings_that_separate_slices_from_their_series_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        HeadCTDataModule("x", InputSpec(size=32), series=SPEC.draw, **settings)


def test_a_network_over_series_needs_labels_that_do_not_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"series.end_to_end=true with model.link=softmax: a network over"):
        SliceClassifier(
            "test_resnet", input=InputSpec(size=32), pretrained=False, link="softmax", series=SPEC
        )


def test_settings_of_a_second_training_are_refused() -> None:
    with pytest.raises(UserError, match=r"series.lr=0.1 with series.end_to_end=true: the network learns in"):
        SeriesSpec(end_to_end=True, lr=0.1)


def test_slices_without_positions_form_no_series(phantom: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load(phantom)
    table = data.table
    some = table.assign(
        position=table["position"].where(table.index != table.index[table["part"] == "val"][0])
    )

    def setup(changed: pd.DataFrame) -> None:
        new = HeadCTDataModule(str(phantom), InputSpec(size=32), series=SPEC.draw)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ich.data.source.Source.make_table", lambda *_: changed)
            new.setup()

    with caplog.at_level("WARNING"):
        setup(some)
    assert "1 slices without a position are in no series: they are left out" in caplog.text
    with pytest.raises(UserError, match="no slice of the training set has an ImagePositionPatient, so there"):
        setup(table.assign(position=np.nan))


@contextmanager
def taking(*shares: float) -> Iterator[pytest.MonkeyPatch]:
    """The validation set chooses these shares, whatever so short a training brings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ich.train.series.choose_shares", lambda *_: list(shares))
        yield patch


SHARES = (0.0, 0.5, 1.0, 0.0, 0.0, 1.0)


def train(folder: Path, phantom: Path, *more: str) -> int:
    data = ["data=rsna", f"data.root={phantom}", "input.size=32", "data.batch_size=48", "logger=csv"]
    return call("train", *data, *TINY, *JOINTLY, "trainer.gpus=0", f"run_dir={folder}", *more)


@pytest.fixture(scope="module")
def run(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jointly") / "run"
    with taking(*SHARES):
        assert train(folder, phantom, "trainer.save_minutes=0", "trainer.ema_decay=0.9") == 0
    return folder


@pytest.mark.trains
def test_the_network_that_was_trained_along_is_the_one_that_is_used(run: Path) -> None:
    assert not (run / "series").exists()
    checkpoint = read_checkpoint(run / "checkpoints/best.ckpt")
    joint = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(JOINT)}
    net = load_slice_net(run / "checkpoints/best.ckpt")
    assert net.series is not None
    for name, value in net.series.state_dict().items():
        assert name == "blend" or torch.equal(value, joint[JOINT + name])
    assert net.series.blend.tolist() == list(SHARES)
    assert joint[JOINT + "blend"].tolist() == [1.0] * 6
    assert joint[JOINT + "slice_head.weight"].abs().sum() > 0
    assert joint[JOINT + "series_head.weight"].abs().sum() > 0
    text = (run / "run.log").read_text()
    assert "model over series: epidural" not in text
    assert "model over series: intraparenchymal 50 %" in text
    assert "series of the test set: " in text


@pytest.mark.trains
def test_a_study_is_predicted_as_in_the_table_of_the_run(run: Path, phantom: Path, tmp_path: Path) -> None:
    assert call("bundle", str(run), str(tmp_path / "model.zip")) == 0
    assert call("predict", str(tmp_path / "model.zip"), str(phantom), "--out", str(tmp_path / "out")) == 0
    table = read_predictions(run / "predictions_test.csv").set_index("SOPInstanceUID")
    compared = 0
    for path in sorted((tmp_path / "out" / "results").iterdir()):
        result = read_json(path)
        uids = [each.SOPInstanceUID for each in result.slices]
        if any(each.left_out for each in result.slices) or not set(uids) <= set(table.index):
            continue
        found = pd.DataFrame([each.probs for each in result.slices], index=uids)
        for label in LABELS:
            np.testing.assert_allclose(found[label], table.loc[uids, f"prob_{label}"], atol=1e-4)
        assert result.series_probs is not None
        assert list(result.series_probs) == list(LABELS)
        compared += 1
    assert compared
    flipped = Predictor.load(run, gpus=0, tta=["flip", "reverse"])
    assert flipped.predict_hu([np.zeros((32, 32))] * 4, positions=range(4)).series_probs is not None
    assert flipped.predict_hu([np.zeros((32, 32))] * 2, positions=[np.nan] * 2).series_probs is None


@pytest.mark.trains
def test_an_end_that_comes_again_changes_nothing_and_a_tie_turns_the_network_off(
    run: Path, tmp_path: Path, phantom: Path
) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    files = [copied / "checkpoints/best.ckpt", copied / "predictions_test.csv"]
    before = [file.read_bytes() for file in files]
    with taking(*SHARES):
        assert call("train", f"ckpt_path={copied}") == 0
    assert [file.read_bytes() for file in files] == before
    with taking(*[0.0] * 6):
        assert call("train", f"ckpt_path={copied}") == 0
    assert load_slice_net(files[0]).series is None
    assert "model over series: off, since no label gains by it" in (copied / "run.log").read_text()
    result = next(Predictor.load(copied, gpus=0).predict(phantom))
    assert result.series_probs is None
    tuned = SliceClassifier("test_resnet", input=InputSpec(size=32), init_from=str(files[0]))
    assert tuned.series_net is None


class Killed(BaseException):
    """Stands for the end of the process: nothing of the library catches it."""


@pytest.mark.trains
def test_a_run_that_is_killed_within_an_epoch_ends_as_if_it_had_not_been(
    run: Path, phantom: Path, tmp_path: Path
) -> None:
    step, steps = SliceClassifier.training_step, []

    def die(self: SliceClassifier, batch: Any, batch_idx: int) -> torch.Tensor:
        steps.append(batch_idx)
        if len(steps) == 3:
            raise Killed
        return step(self, batch, batch_idx)

    with taking(*SHARES) as patch:
        patch.setattr(SliceClassifier, "training_step", die)
        with pytest.raises(Killed):
            train(tmp_path / "cut", phantom, "trainer.save_minutes=0", "trainer.ema_decay=0.9")
        assert call("train", f"ckpt_path={tmp_path / 'cut'}") == 0
    for name in ("metrics.csv", "predictions_val.csv", "predictions_test.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (run / name).read_bytes()
    ours, theirs = (
        read_checkpoint(each / "checkpoints/last.ckpt")["state_dict"] for each in (run, tmp_path / "cut")
    )
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    figures = [json.loads((each / "metrics.json").read_text()) for each in (run, tmp_path / "cut")]
    assert figures[0]["test"] == figures[1]["test"]


@pytest.mark.trains
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.link=softmax", "series.end_to_end=true with model.link=softmax"),
        ("data.sampling=balanced", "data.sampling=balanced with series.end_to_end=true"),
        ("series.epochs=3", "series.epochs=3 with series.end_to_end=true"),
    ],
)
def test_a_run_that_cannot_be_leaves_no_folder(
    phantom: Path, tmp_path: Path, setting: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(tmp_path / "run", phantom, setting) == 2
    assert message in caplog.text
    assert not (tmp_path / "run").exists()
