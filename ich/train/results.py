"""The results of a run: predictions tables, figures and curves."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from ich.calibration import DECIDED_LEVELS, Decision, NotFitted
from ich.calibration.smoothing import Smoothing, describe_kernels
from ich.data import HeadCTDataModule
from ich.evaluate import evaluate
from ich.evaluate.decisions import DEFAULT_RULE, fit_decisions
from ich.evaluate.figures import Evaluation
from ich.evaluate.pooling import choose_pooling, find_levels
from ich.evaluate.smoothing import fit_table, smooth_table
from ich.evaluate.terminal import render_evaluation
from ich.files import replacing
from ich.model_files.checkpoint import find_checkpoint, read_checkpoint
from ich.models import SliceNet, hash_weights
from ich.models.loading import build_slice_net
from ich.models.network import drop_series
from ich.models.series import SeriesSpec
from ich.progress import waiting
from ich.report.curves import write_curves
from ich.schema import DISCLAIMER, MONITOR, UserError
from ich.schema.labels import LabelSet
from ich.tables import SETS, WEIGHTS_COLUMN, read_predictions, write_table
from ich.train.best import add_to_checkpoint
from ich.train.ood import describe_ood
from ich.train.scores import score_parts, score_with_features
from ich.train.series import compare_series, correct_table, fit_series, take_joint
from ich.train.summary import summarize, write_model_card

log = logging.getLogger(__name__)

SERIES = "series"
"""Folder of a run for its network over series, unless that was trained with the network for slices."""


def write_results(
    run_dir: Path,
    datamodule: HeadCTDataModule,
    *,
    gpus: int | None = None,
    seconds: float,
    limit: int | float | None = None,
    backbone: nn.Module | None = None,
    smoothing: bool = True,
    rule: str = DEFAULT_RULE,
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
        rule: Rule for operating points.
        series: Network over series to train, or to take from the checkpoint if the run has trained it; None
            for none.
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
    labels = datamodule.label_set
    if series is None:
        tables, features = score_parts(net, datamodule, parts, gpus, limit)
    elif series.end_to_end:
        tables, features = score_parts(net, datamodule, ("val", "test"), gpus, limit)
        net.series = take_joint(checkpoint["state_dict"], series, tables["val"], features["val"], labels)
    else:
        tables, features = score_with_features(net, datamodule, run_dir / SERIES, gpus, limit)
        net.series = fit_series(tables, features, series, labels, run_dir / SERIES, seed=seed, gpus=gpus)
    tables, of_series = _correct(net, tables, features, labels)
    tables, kernels = _smooth(tables, smoothing)
    for part, probs in of_series.items():
        log.info("series of the %s set: %s", SETS[part], compare_series(probs, tables[part], labels))
    for part, table in tables.items():
        write_table(table, run_dir / f"predictions_{part}.csv")
    # As whoever opens the files has them: a CSV holds probabilities of 32 bits by their shortest digits, and
    # a threshold is one of them, to the last.
    predictions = {part: read_predictions(run_dir / f"predictions_{part}.csv") for part in tables}
    with waiting("Evaluating"):
        prevalences = datamodule.prevalences()
        evaluations, decisions = evaluate_parts(predictions, prevalences, datamodule.label_set, rule)
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
    tables: Mapping[str, pd.DataFrame],
    prevalences: tuple[float, ...],
    labels: LabelSet,
    rule: str = DEFAULT_RULE,
) -> tuple[dict[str, Evaluation], dict[str, Decision]]:
    """Evaluates the predictions tables of a run, the test set at operating points of the validation set.

    Args:
        tables: The predictions table of each part, ``val`` among them.
        prevalences: Prevalences in the training set, one for each label.
        labels: The labels of the tables.
        rule: Rule for operating points.

    Returns:
        An evaluation for each part, and the decisions for the levels of the validation set.
    """
    levels = {part: find_levels(table, f"the {SETS[part]} set") for part, table in tables.items()}
    decided = [level for level in DECIDED_LEVELS if level in levels["val"]]
    pooling = choose_pooling(tables["val"])
    decisions = fit_decisions(tables["val"], levels=decided, pooling=pooling, rule=rule)
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


def _correct(
    net: SliceNet,
    tables: Mapping[str, pd.DataFrame],
    features: Mapping[str, NDArray[np.float32]],
    labels: LabelSet,
) -> tuple[dict[str, pd.DataFrame], dict[str, NDArray[np.float32]]]:
    """Corrects the tables of validation and test set, if there is a network over series.

    Returns:
        The tables, and the (K, L) probabilities of their series; none without such a network.
    """
    kept = {part: table for part, table in tables.items() if part != "train"}
    if net.series is None:
        return kept, {}
    weights = hash_weights(net)
    found = {part: correct_table(net.series, table, features[part], labels) for part, table in kept.items()}
    corrected = {part: table.assign(**{WEIGHTS_COLUMN: weights}) for part, (table, _) in found.items()}
    return corrected, {part: probs for part, (_, probs) in found.items()}
