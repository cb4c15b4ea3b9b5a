"""Bundles of trained models: one file of one model, or of an ensemble with its common decisions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from ich.calibration import DECIDED_LEVELS, Decision, order_decisions
from ich.calibration.smoothing import Smoothing, describe_kernels
from ich.evaluate.comparison import ensemble as average
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.folds import pool_folds
from ich.evaluate.pooling import choose_pooling, find_levels
from ich.evaluate.smoothing import smooth_folds
from ich.evaluate.stacking import fit_shares
from ich.model_files.bundle import is_bundle, read_bundle, write_ensemble
from ich.model_files.checkpoint import CHECKPOINTS, ENSEMBLE, find_checkpoint
from ich.model_files.description import MODEL_CARD
from ich.model_files.ensemble import EnsembleMetadata, require_same_labels
from ich.models import Ensemble, hash_weights, load_ensemble
from ich.networks.folds import asks_for_smoothing, find_fold, find_rule, read_folds
from ich.networks.views import check_tta
from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables import OUT_OF_FOLD, WEIGHTS_COLUMN, read_predictions

__all__ = ["Bundled", "bundle_models"]

log = logging.getLogger("ich")

FROM_FILE = "from the calibration file"


@dataclass(frozen=True)
class Bundled:
    """What a bundle was made of.

    Attributes:
        metadata: Metadata of its members.
        source: Where its calibration and operating points come from, in words.
        shares: (S,) fitted weight of each source in the mean; None without stacking.
    """

    metadata: EnsembleMetadata
    source: str
    shares: NDArray[np.float64] | None = None


def bundle_models(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    decisions: Mapping[str, Decision] | None = None,
    stack: bool = False,
    tta: Sequence[str] | None = None,
    trusted: Sequence[str] = (),
) -> Bundled:
    """Writes models to one file. Several become the members of an ensemble, whose probabilities are averaged.

    A run over all folds counts as one model with out-of-fold predictions, and so do runs that together are
    the folds of one split. If there are such predictions for all models, calibration and operating points
    are fitted on the mean of these predictions. The mean of folds is smoothed over neighboring slices if
    their runs ask for it. Of several models, each smooths by its own kernels.

    Args:
        sources: Folders of runs, checkpoints and bundles.
        out: A new file.
        decisions: Calibration and operating points by level, in place of those of the models.
        stack: Weigh the models by ``ich.evaluate.stacking.fit_shares`` on their out-of-fold predictions.
        tta: Test-time augmentations that prediction uses by default; None leaves those that the models name.
        trusted: Code that a model file may name as its backbone; see ``ich.models.load_slice_net``.

    Raises:
        UserError: If a source is not a model, models do not fit together, folds are missing, or ``stack``
            lacks out-of-fold predictions of the same patients.
    """
    files = [find_checkpoint(source, "best") for source in sources]
    ensembles = [load_ensemble(file, trusted=trusted) for file in files]
    if tta is not None:
        check_tta(tta)
        for net in (net for each in ensembles for net in each.nets):
            net.metadata = replace(net.metadata, tta=tuple(tta) or None)
    labels = _find_labels(ensembles)
    if decisions is not None:
        decisions = order_decisions(decisions, labels.names, "the calibration")
    if len(files) == 1 and not stack:
        return _copy(files[0], ensembles[0], out, decisions)
    try:
        tables, smoothing = _read_out_of_fold(files, ensembles)
    except UserError as error:
        if stack or decisions is None:
            raise
        log.warning("out-of-fold predictions are not used, so no smoothing is fitted on them: %s", error)
        tables, smoothing = {}, None
    if stack and len(tables) < 2:
        raise UserError(
            "stacking needs out-of-fold predictions of two or more models for the same patients: give runs "
            "of data.fold=all on the same data, such as with different backbones"
        )
    shares = fit_shares(tables, labels) if stack else None
    source = FROM_FILE
    if decisions is None and tables:
        stacked = None if shares is None else shares.tolist()
        mean = average(tables, stacked) if len(tables) > 1 else next(iter(tables.values()))
        levels = find_levels(mean, "out-of-fold predictions")
        decided = [level for level in DECIDED_LEVELS if level in levels]
        rule = find_rule([_find_run(file) for file in files])
        decisions = fit_decisions(mean, levels=decided, pooling=choose_pooling(mean), rule=rule)
        source = f"fitted on out-of-fold predictions of {mean['PatientID'].nunique()} patients"
    weights = _share_out(ensembles, len(tables), shares)
    metadata, state_dicts = join_models(ensembles, decisions, weights, smoothing)
    write_ensemble(metadata, state_dicts, out)
    return Bundled(metadata, source if decisions else _describe_own(metadata), shares)


def join_models(
    ensembles: Sequence[Ensemble],
    decisions: Mapping[str, Decision] | None,
    shares: Sequence[float] | None,
    smoothing: Smoothing | None,
) -> tuple[EnsembleMetadata, list[dict[str, Tensor]]]:
    """Joins the networks of several files.

    Args:
        ensembles: The networks of each file.
        decisions: By level, for the mean of all; None leaves each network its own.
        shares: Weight of each network in the mean; None weighs all alike.
        smoothing: For the mean of all, with ``decisions``. None leaves each network that of its file.

    Returns:
        Metadata and tensors, as ``write_ensemble`` takes them.
    """
    members = tuple(
        replace(net.metadata, smoothing=each.metadata.smoothing or net.metadata.smoothing)
        for each in ensembles
        for net in each.nets
    )
    metadata = EnsembleMetadata(members, None if shares is None else tuple(shares))
    if decisions is not None:
        metadata = replace(metadata.with_decisions(decisions), smoothing=smoothing)
    return metadata, [net.state_dict() for each in ensembles for net in each.nets]


def smooth_models(
    runs: Sequence[Path], tables: dict[str, pd.DataFrame]
) -> tuple[dict[str, pd.DataFrame], Smoothing | None]:
    """Smooths the predictions of all folds over neighboring slices if their runs ask for it.

    Args:
        runs: The folders of the folds.
        tables: Their predictions, by the name of the fold.

    Returns:
        The tables, each smoothed by kernels of the other folds, and the kernels for the mean of their models,
        fitted on all tables; None if the runs ask for none.
    """
    if not all(map(asks_for_smoothing, runs)):
        return tables, None
    smoothed, kernels = smooth_folds(tables)
    log.info("smoothing over neighboring slices: %s", describe_kernels(kernels))
    return smoothed, kernels


def find_model_card(file: Path) -> str:
    """Reads the model card of a bundle, or of a checkpoint's run; empty if there is none.

    Raises:
        UserError: If it cannot be read.
    """
    if is_bundle(file):
        return read_bundle(file).model_card
    card = file.resolve().parent.parent / MODEL_CARD
    if file.resolve().parent.name != CHECKPOINTS or not card.is_file():
        return ""
    try:
        return card.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{card} cannot be read: {error}; remove it or write it again") from error


def _copy(
    file: Path, ensemble: Ensemble, out: str | Path, decisions: Mapping[str, Decision] | None
) -> Bundled:
    """Writes the models of one file to another, with its model card unless that describes other decisions."""
    metadata = replace(ensemble.metadata, members=tuple(net.metadata for net in ensemble.nets))
    if decisions is not None:
        metadata = metadata.with_decisions(decisions)
    state_dicts = [net.state_dict() for net in ensemble.nets]
    write_ensemble(metadata, state_dicts, out, model_card=find_model_card(file) if decisions is None else "")
    return Bundled(metadata, FROM_FILE if decisions else _describe_own(metadata))


def _find_labels(ensembles: Sequence[Ensemble]) -> LabelSet:
    labels = [net.metadata.labels for each in ensembles for net in each.nets]
    require_same_labels(labels)
    return labels[0]


def _describe_own(metadata: EnsembleMetadata) -> str:
    """Says where decisions come from if none were given or fitted."""
    if metadata.decisions is not None:
        return "those of the source"
    if all(member.decisions for member in metadata.members):
        return "those of each model"
    return "none, so that every study will be INDETERMINATE; a calibration file can be given"


def _read_out_of_fold(
    files: Sequence[Path], ensembles: Sequence[Ensemble]
) -> tuple[dict[str, pd.DataFrame], Smoothing | None]:
    """Reads the out-of-fold predictions of each model, by its number; of runs that are folds, one table.

    Returns:
        The tables, none unless all models have some, and the smoothing of the mean of folds.
    """
    if all(file.name == ENSEMBLE and (file.parent / OUT_OF_FOLD).is_file() for file in files):
        tables = {str(n): read_predictions(file.parent / OUT_OF_FOLD) for n, file in enumerate(files)}
        for file, ensemble, table in zip(files, ensembles, tables.values(), strict=True):
            _require_weights(table, [ensemble], file.parent)
        return tables, None
    runs = [file.parent.parent for file in files if file.parent.name == CHECKPOINTS]
    if len(runs) < len(files) or any(find_fold(run) is None for run in runs):
        return {}, None
    tables = read_folds(runs)
    _require_weights(pd.concat(tables.values()), ensembles, runs[0].parent)
    tables, smoothing = smooth_models(runs, tables)
    return {"0": pool_folds(tables)}, smoothing


def _find_run(file: Path) -> Path:
    """Finds the folder of a run, from its best checkpoint or the bundle of its folds."""
    return file.parent.parent if file.parent.name == CHECKPOINTS else file.parent


def _require_weights(table: pd.DataFrame, ensembles: Sequence[Ensemble], place: Path) -> None:
    """Refuses predictions that other weights made, such as those of a run before it was trained on."""
    known = {hash_weights(net) for each in ensembles for net in each.nets}
    if not set(table[WEIGHTS_COLUMN]) <= known:
        raise UserError(
            f"predictions in {place} come from other weights than the models there: resume the training with "
            f"ckpt_path={place}, which writes them again"
        )


def _share_out(
    ensembles: Sequence[Ensemble], models: int, shares: NDArray[np.float64] | None
) -> list[float] | None:
    """Divides the weight of each model among its networks; None if all networks weigh alike."""
    if models < 2:  # folds of one model, or networks that are models of their own
        return None
    weights = [1 / models] * models if shares is None else shares.tolist()
    divided = [
        weight * share
        for weight, each in zip(weights, ensembles, strict=True)
        for share in each.metadata.shares or [1 / len(each.nets)] * len(each.nets)
    ]
    return None if np.ptp(divided) < 1e-12 else divided
