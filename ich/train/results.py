"""The results of a run: predictions tables, figures and curves."""

from __future__ import annotations

import json
import logging
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from rich.console import Console
from torch import nn

from ich.calibration import DECIDED_LEVELS, Decision, NotFitted
from ich.calibration.smoothing import Smoothing, describe_kernels
from ich.data import HeadCTDataModule
from ich.evaluate import evaluate
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.figures import Evaluation
from ich.evaluate.pooling import choose_pooling, find_levels
from ich.evaluate.smoothing import fit_table, smooth_table
from ich.evaluate.terminal import render_evaluation
from ich.files import replacing
from ich.model_files.checkpoint import find_checkpoint, read_checkpoint
from ich.model_files.features import Description, Features, hash_state, read_features, write_features
from ich.models import SliceNet, hash_weights
from ich.models.loading import build_slice_net
from ich.models.network import drop_series
from ich.models.series import SeriesSpec
from ich.report.curves import write_curves
from ich.schema import DISCLAIMER, MONITOR, Batch, UserError
from ich.schema.labels import LabelSet
from ich.tables import SETS, WEIGHTS_COLUMN, make_predictions, name_columns, read_predictions, write_table
from ich.train.best import add_to_checkpoint
from ich.train.ood import FeatureLog, describe_ood
from ich.train.series import correct_tables, fit_series
from ich.train.summary import summarize, write_model_card
from ich.train.trainer import build_trainer

log = logging.getLogger(__name__)

SERIES, FEATURES = "series", "features.safetensors"
"""Folder of a run for its model over series, and the file of features in it."""


def write_results(
    run_dir: Path,
    datamodule: HeadCTDataModule,
    *,
    gpus: int | None = None,
    seconds: float,
    limit: int | float | None = None,
    backbone: nn.Module | None = None,
    smoothing: bool = True,
    series: SeriesSpec | None = None,
    seed: int = 0,
) -> float:
    """Writes predictions, ``metrics.json``, the model card and the curves of a run, and prints its table.

    The best checkpoint gets the network over series, the smoothing over neighbors, the decisions, the
    reference for out-of-distribution detection, and a summary of the run. The predictions are those after
    series and smoothing.

    Args:
        run_dir: Folder of the run, with its best checkpoint.
        datamodule: The data module, after ``setup``.
        gpus: As in ``build_trainer``.
        seconds: Duration of the training.
        limit: Number or share of batches to predict in each set; None for all.
        backbone: A copy of the run's backbone if it is not a timm model.
        smoothing: Whether probabilities may be averaged over neighboring slices.
        series: Network over series to train; None for none.
        seed: Random seed for this training.

    Returns:
        The monitored metric of the best epoch.

    Raises:
        UserError: If the run diverged.
    """
    metrics = pd.read_csv(run_dir / "metrics.csv")
    if metrics[MONITOR].isna().all():
        raise UserError(f"{MONITOR} was never a number, so the run diverged; try a lower optim.lr")
    best = metrics.iloc[int(metrics[MONITOR].argmin())]
    path = find_checkpoint(run_dir, "best")
    checkpoint = read_checkpoint(path)
    # A network over series that an earlier end of this run has added is made again.
    checkpoint["state_dict"] = drop_series(checkpoint["state_dict"])
    checkpoint["metadata"] = replace(checkpoint["metadata"], series=None)
    net = build_slice_net(checkpoint["metadata"], checkpoint["state_dict"], path, backbone)
    parts = _list_held_out(datamodule)
    if series is None:
        seen = FeatureLog(datamodule.table["part"].isin(parts).to_numpy())
        tables = predict_parts(net, datamodule, gpus, seen, limit)
        part_of = datamodule.table["part"].to_numpy()[seen.rows]
        features = {part: seen.features[part_of == part] for part in parts}
    else:
        tables, features = score_with_features(net, datamodule, run_dir / SERIES, gpus, limit)
        net.series = fit_series(
            tables, features, series, datamodule.label_set, run_dir / SERIES, seed=seed, gpus=gpus
        )
        tables = _correct(net, tables, features, datamodule.label_set)
    tables, kernels = _smooth(tables, smoothing)
    for part, table in tables.items():
        write_table(table, run_dir / f"predictions_{part}.csv")
    # As whoever opens the files has them: a CSV holds probabilities of 32 bits by their shortest digits, and
    # a threshold is one of them, to the last.
    predictions = {part: read_predictions(run_dir / f"predictions_{part}.csv") for part in tables}
    evaluations, decisions = evaluate_parts(predictions, datamodule.prevalences(), datamodule.label_set)
    fields: dict[str, Any] = {
        "series": None if net.series is None else net.series.spec,
        "smoothing": kernels,
        "decisions": decisions,
        "training": summarize(datamodule, metrics, evaluations),
    }
    weights: dict[str, torch.Tensor] = {}
    if net.metadata.ood is None:
        known = [part for part in parts if part in tables]
        fields["ood"], weights = describe_ood(
            np.concatenate([features[part] for part in known]), pd.concat([tables[part] for part in known])
        )
        if isinstance(fields["ood"], NotFitted):
            log.warning("out-of-distribution detection: not available, %s", fields["ood"].missing)
    if net.series is not None:
        weights |= nn.ModuleDict({"series": net.series}).state_dict()
    checkpoint = add_to_checkpoint(path, checkpoint, fields, weights)
    net.restore(checkpoint["metadata"], checkpoint["state_dict"], path)
    write_model_card(run_dir, predictions, evaluations, decisions)
    report = {
        "best_epoch": int(best["epoch"]),
        MONITOR: float(best[MONITOR]),
        "leaky_split": datamodule.source.split.leaks,
        "read_slices": datamodule.read,
        "decoded_slices": datamodule.decoded,
        "unread_slices": len(datamodule.unread),
        "seconds": round(seconds, 1),
        "note": DISCLAIMER,
    } | {part: evaluation.to_dict() for part, evaluation in evaluations.items()}
    with replacing(run_dir / "metrics.json") as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_curves(metrics, run_dir / "curves.png")
    last = list(evaluations)[-1]
    title = f"{SETS[last]} set" + (" - LEAKY: split by slice" if datamodule.source.split.leaks else "")
    rendered = render_evaluation(evaluations[last], title)
    Console().print(rendered)
    with (run_dir / "run.log").open("a", encoding="utf-8") as file:
        Console(file=file, width=100).print(rendered)
    source = "from the cache" if datamodule.cache else f"{datamodule.decoded} of them by decoding"
    log.info("slices were read %d times, %s", datamodule.read, source)
    if datamodule.unread:
        log.warning("%d slices could not be read and were left out", len(datamodule.unread))
    log.info("wrote everything to %s", run_dir)
    return float(best[MONITOR])


def _list_held_out(datamodule: HeadCTDataModule) -> tuple[str, ...]:
    """Lists the sets that a study's distance is measured from.

    It is the validation set, and in a run of one fold the test set too. Folds are for few patients, of which
    the reference needs several. It needs no targets and changes no probability, so the figures of the test
    set do not depend on it. Its limit comes from patients that it leaves out in turn.
    """
    return ("val",) if datamodule.source.split.shares.fold is None else ("val", "test")


def _smooth(
    tables: dict[str, pd.DataFrame], wanted: bool
) -> tuple[dict[str, pd.DataFrame], Smoothing | None]:
    """Fits the smoothing over neighboring slices on the validation set, and applies it to all sets."""
    if not wanted:
        return tables, None
    kernels = fit_table(tables["val"])
    log.info("smoothing over neighboring slices: %s", describe_kernels(kernels))
    return {part: smooth_table(table, kernels) for part, table in tables.items()}, kernels


def write_pretraining(run_dir: Path, monitor: str, *, seconds: float) -> float:
    """Writes ``metrics.json`` of a self-supervised run, which has no predictions; returns its lowest loss.

    Args:
        run_dir: Folder of the run.
        monitor: The metric that chose the best epoch.
        seconds: Duration of the training.
    """
    metrics = pd.read_csv(run_dir / "metrics.csv")
    best = metrics.iloc[int(metrics[monitor].argmin())]
    report = {"best_epoch": int(best["epoch"]), monitor: float(best[monitor]), "seconds": round(seconds, 1)}
    with replacing(run_dir / "metrics.json") as partial:
        partial.write_text(json.dumps(report | {"note": DISCLAIMER}, indent=2) + "\n", encoding="utf-8")
    return float(best[monitor])


def evaluate_parts(
    tables: Mapping[str, pd.DataFrame], prevalences: tuple[float, ...], labels: LabelSet
) -> tuple[dict[str, Evaluation], dict[str, Decision]]:
    """Evaluates the predictions tables of a run, the test set at operating points of the validation set.

    Args:
        tables: The predictions table of each part, ``val`` among them.
        prevalences: Prevalences in the training set, one for each label.
        labels: The labels of the tables.

    Returns:
        An evaluation for each part, and the decisions for the levels of the validation set.
    """
    levels = {part: find_levels(table, f"the {SETS[part]} set") for part, table in tables.items()}
    decided = [level for level in DECIDED_LEVELS if level in levels["val"]]
    pooling = choose_pooling(tables["val"])
    decisions = fit_decisions(tables["val"], levels=decided, pooling=pooling)
    evaluations = {
        part: evaluate(
            table,
            labels=labels,
            decisions=decisions if part == "test" else None,
            levels=levels[part],
            pooling=pooling,
            training_prevalences=prevalences,
        )
        for part, table in tables.items()
    }
    return evaluations, decisions


def predict_parts(
    net: SliceNet,
    datamodule: HeadCTDataModule,
    gpus: int | None = None,
    seen: FeatureLog | None = None,
    limit: int | float | None = None,
    sets: Sequence[str] = ("val", "test"),
) -> dict[str, pd.DataFrame]:
    """Predicts the validation and the test set, or other sets, on one device.

    Args:
        net: A trained network.
        datamodule: The data module, after ``setup``.
        gpus: As in ``build_trainer``; more than one counts as one.
        seen: Collects the features of the slices that it wants.
        limit: Number or share of batches in each set; None for all.
        sets: Some of ``train``, ``val`` and ``test``.

    Returns:
        A predictions table for each set that has slices.
    """
    trainer = build_trainer(
        gpus=gpus if gpus is None else min(gpus, 1), devices=1, callbacks=[] if seen is None else [seen]
    )
    datamodule.predict_sets, datamodule.predict_limit = tuple(sets), limit
    outputs = trainer.predict(_Scoring(net), datamodule=datamodule) or []
    batches = typing.cast("list[dict[str, torch.Tensor]]", outputs)
    rows = torch.cat([batch["row"] for batch in batches]).numpy()
    probs = torch.cat([batch["probs"] for batch in batches]).numpy()
    return _tabulate(rows, probs, net, datamodule)


def _tabulate(
    rows: NDArray[np.int64], probs: NDArray[np.float32], net: SliceNet, datamodule: HeadCTDataModule
) -> dict[str, pd.DataFrame]:
    slices = datamodule.table.iloc[rows].reset_index(drop=True)
    weights = hash_weights(net)
    return {
        part: make_predictions(slices[within], part, probs[within], weights, datamodule.label_set.names)
        for part in SETS
        if (within := slices["part"] == part).any()
    }


def score_with_features(
    net: SliceNet,
    datamodule: HeadCTDataModule,
    folder: Path,
    gpus: int | None = None,
    limit: int | float | None = None,
) -> tuple[dict[str, pd.DataFrame], dict[str, NDArray[np.float32]]]:
    """Predicts all sets and keeps the features, or reads them if they were kept before.

    Args:
        net: A trained network for slices.
        datamodule: The data module, after ``setup``.
        folder: Folder of the file with the features.
        gpus: As ``predict_parts`` takes it.
        limit: As ``predict_parts`` takes it.

    Returns:
        For each set its predictions table, and the (N, F) features of its slices.
    """
    path, description = (
        folder / FEATURES,
        Description(hash_weights(net), hash_state(datamodule.table), net.input),
    )
    parts = datamodule.table["part"].to_numpy()
    try:
        found = read_features(path, description)
        tables = _tabulate(found.rows, found.probs, net, datamodule)
    except UserError as error:
        if path.exists():
            log.info("%s", error)
        seen = FeatureLog(np.ones(len(parts), bool))
        tables = predict_parts(net, datamodule, gpus, seen, limit, tuple(SETS))
        columns = name_columns("prob", datamodule.label_set.names)
        probs = np.empty((len(seen.rows), len(columns)), np.float32)
        for part, table in tables.items():
            probs[parts[seen.rows] == part] = table[columns]
        found = Features(seen.rows, seen.features, probs)
        if limit is None:
            write_features(found, description, path)
    return tables, {part: found.features[parts[found.rows] == part] for part in tables}


def _correct(
    net: SliceNet,
    tables: Mapping[str, pd.DataFrame],
    features: Mapping[str, NDArray[np.float32]],
    labels: LabelSet,
) -> dict[str, pd.DataFrame]:
    """Returns the tables of validation and test set, after the network over series if there is one."""
    kept = {part: table for part, table in tables.items() if part != "train"}
    if net.series is None:
        return kept
    weights = hash_weights(net)
    corrected = correct_tables(net.series, kept, features, labels)
    return {part: table.assign(**{WEIGHTS_COLUMN: weights}) for part, table in corrected.items()}


class _Scoring(LightningModule):
    """Lets Lightning run a network without any training code."""

    def __init__(self, net: SliceNet) -> None:
        super().__init__()
        self.net = net

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Returns ``row`` (N,) and ``probs`` (N, L), one per label."""
        return self.net.score(batch)
