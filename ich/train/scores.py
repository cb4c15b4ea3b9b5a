"""Predicts the sets of a run with a trained network, and keeps the features of their slices."""

from __future__ import annotations

import logging
import typing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule

from ich.data import HeadCTDataModule
from ich.model_files.features import Description, Features, hash_state, read_features, write_features
from ich.models import SliceNet, hash_weights
from ich.schema import Batch, UserError
from ich.tables import SETS, make_predictions, name_columns
from ich.train.ood import FeatureLog
from ich.train.trainer import build_single_trainer

log = logging.getLogger(__name__)

FEATURES = "features.safetensors"
"""File of features in a run's folder for its network over series."""


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
    trainer = build_single_trainer(gpus, callbacks=[] if seen is None else [seen])
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


def score_parts(
    net: SliceNet,
    datamodule: HeadCTDataModule,
    parts: Sequence[str],
    gpus: int | None = None,
    limit: int | float | None = None,
) -> tuple[dict[str, pd.DataFrame], dict[str, NDArray[np.float32]]]:
    """Predicts the validation and the test set, and returns the features of some sets.

    Args:
        net: A trained network for slices.
        datamodule: The data module, after ``setup``.
        parts: The sets with features, ``val`` or ``test`` or both.
        gpus: As ``predict_parts`` takes it.
        limit: As ``predict_parts`` takes it.

    Returns:
        A predictions table for each set that has slices, and the (N, F) features of ``parts``.
    """
    seen = FeatureLog(datamodule.table["part"].isin(parts).to_numpy())
    tables = predict_parts(net, datamodule, gpus, seen, limit)
    part_of = datamodule.table["part"].to_numpy()[seen.rows]
    return tables, {part: seen.features[part_of == part] for part in parts}


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


class _Scoring(LightningModule):
    """Lets Lightning run a network without any training code."""

    def __init__(self, net: SliceNet) -> None:
        super().__init__()
        self.net = net

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """Returns ``row`` (N,) and ``probs`` (N, L), one per label."""
        return self.net.score(batch)
