"""The network over series: padding, constructions whose answer is known, and its file of features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from ich.calibration.blending import blend, choose_shares
from ich.model_files.features import Description, Features, hash_state, read_features, write_features
from ich.models.series import SeriesBatches, SeriesNet, SeriesSpec, Slices, correct
from ich.schema import InputSpec, UserError
from ich.schema.labels import LabelSet
from ich.tables import UIDS, make_predictions
from ich.train.series import compare_series, correct_table, fit_series

pytestmark = pytest.mark.trains

KINDS = ("gru", "transformer")
LABELS = LabelSet(("bleed", "other"), (2.0, 1.0), decides="bleed")
WIDE = SeriesSpec(width=32, drop_rate=0.0, epochs=8, batch_size=4, lr=1e-2, drop_slices=0.0)


def make_net(kind: str, *, trained: bool = True, features: int = 5, labels: int = 3) -> SeriesNet:
    """A network of random weights; ``trained`` has heads that change something."""
    torch.manual_seed(0)
    net = SeriesNet(SeriesSpec(kind, width=16).arguments, features, labels).eval()
    if trained:
        for head in (net.slice_head, net.series_head):
            torch.nn.init.normal_(head.weight)
    return net


def draw_slices(*lengths: int, labels: int = 3, features: int = 5, seed: int = 0) -> Slices:
    rng, count = np.random.default_rng(seed), sum(lengths)
    return Slices(
        rng.normal(size=(count, features)).astype(np.float32),
        rng.uniform(0.05, 0.95, (count, labels)).astype(np.float32),
        np.concatenate([np.sort(rng.uniform(0, 5.0 * n, n)) for n in lengths]),
        np.repeat(np.arange(len(lengths)), lengths),
    )


def take(slices: Slices, rows: np.ndarray) -> Slices:
    return Slices(*(getattr(slices, name)[rows] for name in ("features", "probs", "positions", "series")))


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_network_changes_nothing(kind: str) -> None:
    slices = draw_slices(7, 1, 4)
    np.testing.assert_allclose(correct(make_net(kind, trained=False), slices).probs, slices.probs, atol=1e-6)
    (batch,) = SeriesBatches(slices, np.full((12, 3), np.nan, np.float32), WIDE)
    given = [batch[name] for name in ("features", "steps", "logits", "mask")]
    _, series = make_net(kind, trained=False)(*given)
    highest = pd.DataFrame(slices.probs).groupby(slices.series).max().to_numpy()
    np.testing.assert_allclose(series.sigmoid().detach(), highest, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_series_does_not_depend_on_what_else_is_in_the_batch_or_on_the_order_of_rows(kind: str) -> None:
    slices, net = draw_slices(9, 2, 1, 5), make_net(kind)
    together = correct(net, slices).probs
    assert np.abs(together - slices.probs).max() > 0.05
    for number in range(4):
        alone = np.flatnonzero(slices.series == number)
        np.testing.assert_allclose(correct(net, take(slices, alone)).probs, together[alone], atol=1e-5)
    order = np.random.default_rng(1).permutation(17)
    np.testing.assert_allclose(correct(net, take(slices, order)).probs, together[order], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_without_position_keeps_its_probabilities_and_is_as_if_it_were_not_there(kind: str) -> None:
    slices, net = draw_slices(9), make_net(kind)
    without = replace(slices, positions=np.where(np.arange(9) == 4, np.nan, slices.positions))
    found, others = correct(net, without).probs, np.arange(9) != 4
    assert (found[4] == slices.probs[4]).all()
    np.testing.assert_allclose(found[others], correct(net, take(slices, others)).probs, atol=1e-5)
    assert np.abs(found[others] - correct(net, slices).probs[others]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_distances_in_mm_count(kind: str) -> None:
    slices, net = draw_slices(6), make_net(kind)
    moved = replace(slices, positions=slices.positions + 100)
    np.testing.assert_allclose(correct(net, moved).probs, correct(net, slices).probs, atol=1e-4)
    assert (
        np.abs(
            correct(net, replace(slices, positions=slices.positions * 4)).probs - correct(net, slices).probs
        ).max()
        > 1e-3
    )


def test_labels_take_their_share_of_the_correction() -> None:
    slices, net = draw_slices(6), make_net("gru")
    whole = correct(net, slices).probs
    net.blend.copy_(torch.tensor([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(correct(net, slices).probs, blend(slices.probs, whole, [0, 0.5, 1]), atol=1e-5)
    np.testing.assert_allclose(correct(net, slices).probs[:, 0], slices.probs[:, 0], atol=1e-6)


def test_what_training_draws_depends_on_seed_epoch_and_series_alone() -> None:
    slices, spec = draw_slices(40, 30, 3, 20, 5), replace(WIDE, drop_slices=0.2, max_slices=16)
    target = (slices.probs > 0.5).astype(np.float32)

    def draw(seed: int, epoch: int) -> list[torch.Tensor]:
        batches = list(SeriesBatches(slices, target, spec, seed, lambda: epoch))
        assert len(batches) == 2
        return [batch["logits"] for batch in batches]

    first = draw(1, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, draw(1, 3), strict=True))
    for other in (draw(1, 4), draw(2, 3)):
        assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    (whole,) = SeriesBatches(slices, target, replace(spec, batch_size=8))
    assert whole["mask"].sum(dim=1).tolist() == [40, 30, 3, 20, 5]
    assert max(each.shape[1] for each in first) <= 16
    reversed_ = SeriesBatches(slices, target, replace(WIDE, reverse=1.0, batch_size=8), 0)
    (turned,) = reversed_
    assert sorted(turned["mask"].sum(dim=1).tolist()) == [3, 5, 20, 30, 40]
    row = int((turned["mask"].sum(dim=1) == 40).nonzero())
    assert torch.equal(turned["features"][row, :40].flip(0), whole["features"][0, :40])
    assert torch.allclose(turned["steps"][row, 1:40].flip(0), whole["steps"][0, 1:40])


def test_the_target_of_a_series_is_known_where_its_slices_say_it() -> None:
    slices = draw_slices(3, 2, labels=2)
    target = np.array([[0, np.nan], [1, 0], [np.nan, 0], [0, 1], [0, np.nan]], np.float32)
    (batch,) = SeriesBatches(slices, target, WIDE)
    np.testing.assert_array_equal(batch["series_target"], [[1, np.nan], [0, 1]])
    assert batch["target"][1, 2].isnan().all()


def test_series_are_compared_with_their_highest_slices() -> None:
    rows = pd.DataFrame({"PatientID": list("aabbccdd"), "position": [0.0, 5.0] * 4, "bleed": 0.0})
    rows.loc[[0, 3], "bleed"] = 1  # the series of a and b
    rows.loc[7, "bleed"] = np.nan  # so that of d is unknown
    for uid in UIDS:
        rows[uid] = rows["PatientID"] + (rows.index.astype(str) if uid == "SOPInstanceUID" else "")
    probs = np.array([0.9, 0.1, 0.2, 0.1, 0.1, 0.3, 0.8, 0.8])
    table = make_predictions(
        rows.assign(other=0.0), "test", np.stack([probs] * 2, axis=1), names=LABELS.names
    )
    of_series = np.array([[0.6, 0], [0.5, 0], [0.4, 0], [0.9, 0]], np.float32)
    assert compare_series(of_series, table, LABELS) == (
        "AUROC of bleed over 3 series 1.000 by the network over series, 0.500 by their highest slices"
    )
    negative = table.assign(target_bleed=0.0)
    assert compare_series(of_series, negative, LABELS).startswith("no AUROC of bleed, since series with and")


def draw_table(part: str, patients: int, *, by_neighbors: bool, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Features show marks. A slice is positive if it has one, or if the slice below it has one."""
    rng, rows = np.random.default_rng(seed), []
    for patient in range(patients):
        mark = (rng.random(24) < 0.2).astype(float)
        target = np.append(0, mark[:-1]) if by_neighbors else mark
        rows += [(f"{part}{patient}", 5.0 * n, mark[n], target[n]) for n in range(24)]
    table = pd.DataFrame(rows, columns=["PatientID", "position", "mark", "bleed"])
    for uid in UIDS:
        table[uid] = table["PatientID"] + (table.index.astype(str) if uid == "SOPInstanceUID" else "")
    table["other"] = np.nan
    seen = table["mark"].to_numpy()
    features = np.stack([seen, 1 - seen, *rng.normal(size=(4, len(seen)))], axis=1).astype(np.float32)
    rate = table["bleed"].mean()
    hint = 2 * table["bleed"].to_numpy() - 1
    own = expit(logit(rate) + (hint + rng.normal(size=len(seen)) if by_neighbors else 9 * hint))
    return make_predictions(table, part, np.stack([own, own], axis=1), names=LABELS.names), features


def fit(tmp_path: Path, kind: str, *, by_neighbors: bool) -> tuple[SeriesNet | None, dict, dict]:
    drawn = {
        part: draw_table(part, count, by_neighbors=by_neighbors, seed=seed)
        for seed, (part, count) in enumerate({"train": 32, "val": 12, "test": 8}.items())
    }
    tables, features = ({part: each[n] for part, each in drawn.items()} for n in (0, 1))
    net = fit_series(tables, features, replace(WIDE, kind=kind), LABELS, tmp_path / "series", seed=0, gpus=0)
    return net, tables, features


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_neighbors_show_is_learned_and_used(tmp_path: Path, kind: str) -> None:
    net, tables, features = fit(tmp_path, kind, by_neighbors=True)
    assert net is not None
    assert net.blend[0] > 0
    assert net.blend[1] == 0  # nothing is known of this label
    test = tables["test"]
    corrected = correct_table(net, tables["test"], features["test"], LABELS)[0]
    before, after = (log_loss(test["target_bleed"], each["prob_bleed"]) for each in (test, corrected))
    assert after < 0.8 * before
    np.testing.assert_allclose(corrected["prob_other"], test["prob_other"], atol=1e-6)
    metrics = pd.read_csv(tmp_path / "series" / "metrics.csv")
    assert len(metrics) == WIDE.epochs
    assert metrics["val_weighted_log_loss"].iloc[-1] < metrics["val_weighted_log_loss"].iloc[0]
    again = fit(tmp_path / "again", kind, by_neighbors=True)[0]
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_where_slices_say_it_all_the_network_is_off(tmp_path: Path) -> None:
    assert fit(tmp_path, "gru", by_neighbors=False)[0] is None


def test_shares_guard_each_label() -> None:
    rng, patients = np.random.default_rng(0), np.repeat(np.arange(30), 20)
    target = (rng.random((600, 3)) < 0.3).astype(float)
    first = expit((2 * target - 1) + rng.normal(size=(600, 3)))
    better, worse = expit(3 * (2 * target[:, 0] - 1) + rng.normal(size=600)), rng.random(600)
    target[:, 2] = np.nan
    second = np.stack([better, worse, better], axis=1)
    assert choose_shares(target, first, first, second, patients) == [1.0, 0.0, 0.0]
    assert choose_shares(target, second, first, second, patients)[0] == 0.0  # no better than what is there


SPEC = InputSpec(size=64)
HERE = Description(weights_sha256="0" * 64, slices_sha256="1" * 64, input=SPEC)


def test_features_are_kept_and_refused_when_stale(tmp_path: Path) -> None:
    path = tmp_path / "series" / "features.safetensors"
    rng = np.random.default_rng(0)
    found = Features(np.arange(4), rng.random((4, 6), np.float32), rng.random((4, 2), np.float32))
    write_features(found, HERE, path)
    for before, after in zip(found, read_features(path, HERE), strict=True):
        np.testing.assert_array_equal(before, after)
    for change, named in (
        ({"weights_sha256": "2" * 64}, "weights_sha256"),
        ({"slices_sha256": "2" * 64, "input": InputSpec(size=96)}, "slices_sha256 and input"),
    ):
        with pytest.raises(UserError, match=f"is stale: its {named} differ"):
            read_features(path, replace(HERE, **change))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="cannot be read"):
        read_features(path, HERE)
    table = pd.DataFrame({"SOPInstanceUID": ["a", "b"], "file_size": [1, 2], "mtime_ns": [3, 4]})
    assert hash_state(table) == hash_state(table.copy())
    assert hash_state(table) != hash_state(table[::-1]) != hash_state(table.assign(mtime_ns=5))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"kind": "lstm"}, "series.kind=lstm: expected gru or"),
        ({"width": 30}, "series.width=30: expected a mul"),
    ],
)
def test_settings_are_checked(setting: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SeriesSpec(**setting)
