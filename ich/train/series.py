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
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from ich.calibration.blending import choose_shares
from ich.evaluate.smoothing import find_place, fit_table, smooth_table
from ich.models.network import JOINT
from ich.models.series import (
    SeriesBatches,
    SeriesClassifier,
    SeriesNet,
    SeriesSpec,
    Slices,
    correct,
    list_series,
)
from ich.schema.labels import LabelSet
from ich.schema.shares import show_percent
from ich.tables import name_columns
from ich.train.trainer import build_single_trainer
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
    return _choose_blend(net, tables["val"], slices["val"], label_set)


def take_joint(
    state_dict: Mapping[str, Tensor],
    spec: SeriesSpec,
    validation: pd.DataFrame,
    features: NDArray[np.float32],
    label_set: LabelSet,
) -> SeriesNet | None:
    """Takes the network over series that a run has trained together with its network for slices.

    Args:
        state_dict: Weights of the run's checkpoint.
        spec: The network.
        validation: Predictions table of the validation set by the network for slices.
        features: (N, F) features of its slices.
        label_set: What it predicts.

    Returns:
        As ``fit_series`` does.
    """
    net = SeriesNet(spec.arguments, features.shape[1], len(label_set.names))
    joint = {name: value for name, value in state_dict.items() if name.startswith(JOINT)}
    net.load_state_dict({name.removeprefix(JOINT): value for name, value in joint.items()})
    return _choose_blend(net.eval(), validation, make_slices(validation, features, label_set), label_set)


def _choose_blend(
    net: SeriesNet, validation: pd.DataFrame, slices: Slices, label_set: LabelSet
) -> SeriesNet | None:
    """Decides how much of the network each label takes; None if no label gains by it."""
    best = smooth_table(validation, fit_table(validation))[name_columns("prob", label_set.names)]
    targets = validation[name_columns("target", label_set.names)]
    corrected = correct(net, slices).probs
    shares = choose_shares(targets, best, slices.probs, corrected, validation["PatientID"])
    used = {label: share for label, share in zip(label_set.names, shares, strict=True) if share}
    if not used:
        log.info("model over series: off, since no label gains by it over smoothed slices")
        return None
    log.info(
        "model over series: %s", ", ".join(f"{label} {show_percent(share)}" for label, share in used.items())
    )
    net.blend.copy_(torch.tensor(shares))
    return net


def correct_table(
    net: SeriesNet, table: pd.DataFrame, features: NDArray[np.float32], label_set: LabelSet
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """Corrects a predictions table by a network over series.

    Returns:
        The table, and (K, L) probabilities of its series in the order of ``Slices.list_series``.
    """
    found = correct(net, make_slices(table, features, label_set))
    columns = name_columns("prob", label_set.names)
    return table.assign(**dict(zip(columns, found.probs.T, strict=True))), found.series


def compare_series(probs: NDArray[np.float32], table: pd.DataFrame, label_set: LabelSet) -> str:
    """Compares the probabilities of series with those of their highest slices, for the label that decides.

    Args:
        probs: (K, L) from ``correct_table``.
        table: The predictions table of the slices.
        label_set: Its labels.

    Returns:
        A sentence with both AUROCs.
    """
    label = label_set.decides or label_set.names[0]
    found, known = (table[f"{kind}_{label}"].to_numpy(np.float64) for kind in ("prob", "target"))
    series = list_series(*find_place(table))
    highest = np.array([found[rows].max() for rows in series])
    target = np.array([1.0 if (known[rows] == 1).any() else known[rows].max() for rows in series])
    is_known = ~np.isnan(target)
    if len(set(target[is_known])) < 2:
        return f"no AUROC of {label}, since series with and without it are not both there"
    targets = torch.from_numpy(target[is_known]).int()
    of_net, of_slices = (
        float(binary_auroc(torch.from_numpy(each[is_known]), targets))
        for each in (probs[:, label_set.names.index(label)], highest)
    )
    return (
        f"AUROC of {label} over {is_known.sum()} series {of_net:.3f} by the network over series, "
        f"{of_slices:.3f} by their highest slices"
    )


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
    trainer = build_single_trainer(
        gpus,
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
