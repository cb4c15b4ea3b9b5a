"""The model over series at the end of a run: its features, its training, and whether it is used."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer

from ich.calibration.blending import choose_shares
from ich.evaluate.smoothing import find_place, fit_table, smooth_table
from ich.models.series import SeriesBatches, SeriesClassifier, SeriesNet, SeriesSpec, Slices, correct
from ich.schema.labels import LabelSet
from ich.tables import name_columns
from ich.train.trainer import build_trainer
from ich.train.trainer.callbacks import MetricsLog
from ich.train.trainer.signals import catch_stops, exit_at_once

log = logging.getLogger("ich")

METRICS = "metrics.csv"


def fit_series(
    tables: Mapping[str, pd.DataFrame],
    features: Mapping[str, NDArray[np.float32]],
    spec: SeriesSpec,
    label_set: LabelSet,
    folder: Path,
    *,
    seed: int,
    gpus: int | None = None,
) -> SeriesNet | None:
    """Trains a network over series, and decides on the validation set how much of it each label takes.

    In a run, the training slices are those that the network for slices has learned, so its predictions there
    are surer than elsewhere. Slices that it has not learned are better. All features must come from one
    network, because those of two networks mean different things.

    Args:
        tables: Predictions tables of ``train`` and ``val`` by the network for slices.
        features: (N, F) features of their slices.
        spec: Network and training.
        label_set: What it predicts.
        folder: Folder for ``metrics.csv``.
        seed: Random seed for weights, order and augmentation.
        gpus: As in ``build_trainer``; more than one counts as one.

    Returns:
        The network, in evaluation mode; None if no label gains by it over smoothed slices.
    """
    slices = {part: make_slices(tables[part], features[part], label_set) for part in ("train", "val")}
    if not all(each.list_series() for each in slices.values()):
        log.warning("no model over series: slices do not name their series and positions")
        return None
    count = len(slices["train"].list_series())
    log.info("training a %s over %d series, on the features of their slices", spec.kind, count)
    net = _train(slices, tables, spec, label_set, folder, seed=seed, gpus=gpus)
    val = tables["val"]
    best = smooth_table(val, fit_table(val))[name_columns("prob", label_set.names)]
    targets = val[name_columns("target", label_set.names)]
    corrected = correct(net, slices["val"])
    shares = choose_shares(targets, best, slices["val"].probs, corrected, val["PatientID"])
    used = {label: share for label, share in zip(label_set.names, shares, strict=True) if share}
    if not used:
        log.info("model over series: off, since no label gains by it over smoothed slices")
        return None
    log.info("model over series: %s", ", ".join(f"{label} {share:.0%}" for label, share in used.items()))
    net.blend.copy_(torch.tensor(shares))
    return net


def correct_tables(
    net: SeriesNet,
    tables: Mapping[str, pd.DataFrame],
    features: Mapping[str, NDArray[np.float32]],
    label_set: LabelSet,
) -> dict[str, pd.DataFrame]:
    """Returns predictions tables after the correction by a network over series."""
    columns = name_columns("prob", label_set.names)
    corrected = {}
    for part, table in tables.items():
        probs = correct(net, make_slices(table, features[part], label_set))
        corrected[part] = table.assign(**dict(zip(columns, probs.T, strict=True)))
    return corrected


def make_slices(table: pd.DataFrame, features: NDArray[np.float32], label_set: LabelSet) -> Slices:
    """Joins a predictions table to the features of its slices."""
    probs = table[name_columns("prob", label_set.names)].to_numpy(np.float32)
    return Slices(features, probs, *find_place(table))


def _train(
    slices: Mapping[str, Slices],
    tables: Mapping[str, pd.DataFrame],
    spec: SeriesSpec,
    label_set: LabelSet,
    folder: Path,
    *,
    seed: int,
    gpus: int | None,
) -> SeriesNet:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / METRICS).unlink(missing_ok=True)
    targets = {part: tables[part][name_columns("target", label_set.names)] for part in slices}
    known = {part: target.to_numpy(np.float32) for part, target in targets.items()}
    trainer = build_trainer(
        gpus=gpus if gpus is None else min(gpus, 1),
        devices=1,
        max_epochs=spec.epochs,
        precision="32-true",
        num_sanity_val_steps=0,
        callbacks=[MetricsLog(folder / METRICS), _StopAtOnce()],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = SeriesNet(spec.arguments, slices["train"].features.shape[1], len(label_set.names))
        classifier = SeriesClassifier(net, spec, label_set)
        epoch = lambda: trainer.current_epoch  # noqa: E731
        trainer.fit(
            classifier,
            SeriesBatches(slices["train"], known["train"], spec, seed, epoch),
            SeriesBatches(slices["val"], known["val"], spec),
        )
    net.load_state_dict(classifier.best[1])
    return net.cpu().eval()


class _StopAtOnce(Callback):
    """Ends the process on a signal, as there is nothing to save: a resumed run trains these minutes again."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces the handlers of Lightning, which would end only the training."""
        catch_stops(exit_at_once)
