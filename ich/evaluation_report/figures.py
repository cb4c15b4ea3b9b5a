"""The figures of an evaluation, with those of subgroups, comparisons and galleries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ich.calibration import Decision
from ich.evaluate import evaluate
from ich.evaluate.checks import check_predictions, check_validation
from ich.evaluate.comparison import compare
from ich.evaluate.decisions import HeldOut, fit_decisions
from ich.evaluate.folds import fit_held_out, split_folds
from ich.evaluate.subgroups import subgroups
from ich.evaluation_report.galleries import KINDS, Galleries, choose_worst, compute_heat, make_galleries
from ich.evaluation_report.inputs import Inputs
from ich.evaluation_report.outputs import Steps
from ich.evaluation_report.report_data import NO_GALLERIES, ReportData, count_encodings
from ich.report.document import Block

if TYPE_CHECKING:  # importing torch takes seconds
    from ich.models import SliceNet


@dataclass(frozen=True)
class Choices:
    """Settings of the figures: arguments of ``ich.evaluate.evaluate``."""

    levels: Sequence[str]
    pooling: str
    rule: str
    calibration: str
    replicates: int
    seed: int

    @property
    def fitting(self) -> dict[str, Any]:
        """Arguments of ``fit_decisions``."""
        return {
            "levels": self.levels,
            "pooling": self.pooling,
            "method": self.calibration,
            "rule": self.rule,
        }

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments for drawing patients, the same for all figures."""
        return {"replicates": self.replicates, "seed": self.seed}


def find_decisions(inputs: Inputs, choices: Choices, model: SliceNet | None) -> dict[str, Decision]:
    """Fits calibration and operating points, or takes those of the model.

    Without a validation set, those of out-of-fold predictions are fitted on them; see ``compute_figures``.

    Args:
        inputs: Inputs with the validation set.
        choices: Settings of the fit.
        model: Model that may have decisions; None without a checkpoint.
    """
    check_predictions(inputs.predictions)
    if (validation := inputs.validation) is not None:
        check_validation(validation, inputs.predictions)
        return fit_decisions(validation, **choices.fitting)
    if model is None and split_folds(inputs.predictions):
        return fit_decisions(inputs.predictions, **choices.fitting)
    carried = None if model is None else model.metadata.decisions
    return {level: decision for level, decision in (carried or {}).items() if level in choices.levels}


def compute_figures(
    inputs: Inputs,
    choices: Choices,
    decisions: Mapping[str, Decision],
    model: SliceNet | None,
    steps: Steps,
) -> tuple[ReportData, pd.DataFrame | None]:
    """Computes all figures; returns the data of a report, and the slices of its galleries.

    Each fold of out-of-fold predictions is judged by decisions that are fitted on the other folds.
    """
    predictions, decision = inputs.predictions, decisions.get("slice")
    steps.begin("figures and intervals")
    folds = {} if inputs.validation is not None else split_folds(predictions)
    evaluation = evaluate(
        predictions,
        labels=inputs.labels,
        decisions=decisions,
        held_out=_fit_held_out(folds, choices, decisions),
        levels=choices.levels,
        pooling=choices.pooling,
        training_prevalences=find_prevalences(model),
        **choices.sampling,
    )
    groups = []
    for by in inputs.by:
        steps.begin(f"subgroups: {by.name}")
        groups.append(
            subgroups(
                predictions, by, decision=decision, labels=(inputs.labels.headline,), **choices.sampling
            )
        )
    comparison = None
    if len(inputs.tables) > 1:
        steps.begin("comparison of models")
        level = "slice" if "slice" in choices.levels else "study"
        comparison = compare(inputs.tables, labels=inputs.labels, level=level, **choices.sampling)
    blocks: Sequence[Block] = NO_GALLERIES
    slices = None
    if inputs.root is not None and inputs.index is not None:
        steps.begin("galleries")
        galleries = _make_galleries(inputs, inputs.root, inputs.index, decision, model)
        blocks, slices = galleries.blocks, galleries.slices
    data = ReportData(
        evaluation=evaluation,
        predictions=predictions,
        validation=inputs.validation,
        decisions=decisions,
        run=inputs.run,
        members=len(folds),
        models=inputs.averaged,
        encodings={} if inputs.index is None else count_encodings(predictions, inputs.index),
        groups=pd.concat(groups, ignore_index=True) if groups else None,
        comparison=comparison,
        galleries=blocks,
        heat=slices is not None and model is not None,
    )
    return data, slices


def _fit_held_out(
    folds: Mapping[str, pd.DataFrame], choices: Choices, decisions: Mapping[str, Decision]
) -> dict[str, HeldOut]:
    """Fits decisions for each fold on the others, with the pooling of the model's own; none without folds."""
    found: dict[str, HeldOut] = {}
    for level in choices.levels if folds else ():
        pooling = decisions[level].pooling if level in decisions else choices.pooling
        found |= fit_held_out(folds, **{**choices.fitting, "levels": [level], "pooling": pooling})
    return found


def _make_galleries(
    inputs: Inputs, root: Path, index: pd.DataFrame, decision: Decision | None, model: SliceNet | None
) -> Galleries:
    predictions, labels, heat = inputs.predictions, inputs.labels, None
    if model is not None:
        rows = [int(row) for value in KINDS for row in choose_worst(predictions, value, decision, labels)]
        heat = compute_heat(model, predictions, root, index, rows)
    return make_galleries(predictions, root, index, decision=decision, labels=labels, heat=heat)


def find_prevalences(model: SliceNet | None) -> list[float] | None:
    """Finds the prevalences of the training set in the checkpoint; None if one is unknown."""
    if model is None:
        return None
    carried = model.metadata.prevalences or {}
    shares = [carried.get(label) for label in model.metadata.labels.names]
    known = [share for share in shares if share is not None]
    return known if len(known) == len(shares) else None
