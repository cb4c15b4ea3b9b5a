"""What ``ich evaluate`` does with its arguments."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console

from ich.calibration import Decision, parse_decisions
from ich.calibration.files import write_calibration
from ich.cli.evaluate.inputs import (
    PREDICTED,
    TEST,
    VALIDATION,
    Inputs,
    find_table,
    list_levels,
    read_inputs,
)
from ich.cli.evaluate.outputs import Steps, make_folder, write_outputs
from ich.evaluate import evaluate
from ich.evaluate.checks import UNCHECKED, check_predictions, check_validation, check_weights
from ich.evaluate.comparison import compare
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.study import NO_PIXELS, Study, count_encodings
from ich.evaluate.subgroups import subgroups
from ich.evaluate.terminal import render_evaluation
from ich.files import for_owner_alone
from ich.galleries import KINDS, Galleries, choose_worst, compute_heat, make_galleries
from ich.report.document import Missing
from ich.schema import LABELS, UserError
from ich.submission import write_submission
from ich.tables import TARGET_COLUMNS

if TYPE_CHECKING:  # a type alone, and torch takes seconds
    from ich.models import SliceClassifier


def work(args: argparse.Namespace) -> None:
    """Evaluates predictions and writes what comes of it.

    Raises:
        UserError: If an input is missing, or is not what it should be.
    """
    _check(args)
    console = Console(highlight=False)
    args.predictions = [find_table(path, TEST, PREDICTED) for path in args.predictions]
    args.val = args.val and [find_table(path, VALIDATION) for path in args.val]
    model = _load_model(args.checkpoint)
    inputs = read_inputs(args)
    checked = model is None or _is_checked(args, inputs, model)
    for note in [*inputs.notes, *([] if checked else [UNCHECKED])]:
        console.print(note, markup=False, soft_wrap=True)
    out = args.out or args.predictions[0].parent / "evaluation"
    if args.submission is not None:
        console.print(_submit(inputs, args.submission, out, model), markup=False, soft_wrap=True)
        if inputs.predictions[list(TARGET_COLUMNS)].isna().to_numpy().all():
            console.print("no target is known: there is nothing to evaluate by")
            return
    levels = list_levels(inputs.predictions)
    decisions = _find_decisions(args, inputs, levels, model)
    with for_owner_alone():
        if args.write_calibration is not None:
            write_calibration(decisions, args.write_calibration)
            console.print(f"calibration in {args.write_calibration}", markup=False, soft_wrap=True)
        with Steps() as steps:
            study, slices = _measure(args, inputs, levels, decisions, model, steps)
            write_outputs(
                replace(study, checked=checked), slices, out, steps, pdf=args.pdf, slides=args.slides
            )
    console.print(render_evaluation(study.evaluation, study.parts))
    console.print(f"everything is in {out}", markup=False, soft_wrap=True)


def _check(args: argparse.Namespace) -> None:
    """Says what is missing before the work, not after it."""
    if args.pdf:
        importlib.import_module("ich.report.pdf")
    if args.slides:
        importlib.import_module("ich.report.slides")
    if args.ensemble and len(args.predictions) < 2:
        raise UserError("--ensemble takes the mean of several PREDICTIONS: name two or more")


def _load_model(checkpoint: Path | None) -> SliceClassifier | None:
    if checkpoint is None:
        return None
    # These import torch, which takes seconds that an evaluation without a checkpoint is spared.
    from ich.checkpoint import find_checkpoint
    from ich.models import load_classifier

    return load_classifier(find_checkpoint(checkpoint, "best"))


def _is_checked(args: argparse.Namespace, inputs: Inputs, model: SliceClassifier) -> bool:
    """Whether the predictions name the checkpoint's weights; False where they name none.

    Raises:
        UserError: If they name others.
    """
    from ich.models import hash_weights

    tables = list(inputs.tables.values())
    return check_weights(
        tables if args.ensemble else tables[:1], hash_weights(model), f"--checkpoint {args.checkpoint}"
    )


def _find_decisions(
    args: argparse.Namespace, inputs: Inputs, levels: Sequence[str], model: SliceClassifier | None
) -> dict[str, Decision]:
    """Fits calibration and operating points, or takes those that the checkpoint carries."""
    check_predictions(inputs.predictions)
    if (validation := inputs.validation) is not None:
        check_validation(validation, inputs.predictions)
        return fit_decisions(
            validation, levels=levels, pooling=args.pooling, method=args.calibration, rule=args.rule
        )
    carried = {} if model is None else model.card.get("decisions")
    if not carried:
        return {}
    decisions = parse_decisions(carried, f"{args.checkpoint}: decisions")
    return {level: decision for level, decision in decisions.items() if level in levels}


def _measure(
    args: argparse.Namespace,
    inputs: Inputs,
    levels: Sequence[str],
    decisions: Mapping[str, Decision],
    model: SliceClassifier | None,
    steps: Steps,
) -> tuple[Study, pd.DataFrame | None]:
    """Computes all figures; returns what a report is made from, and the slices of its galleries."""
    predictions, sampling = inputs.predictions, {"replicates": args.replicates, "seed": args.seed}
    steps.begin("figures and intervals")
    evaluation = evaluate(
        predictions,
        decisions=decisions,
        levels=levels,
        pooling=args.pooling,
        training_prevalences=_find_prevalences(model),
        **sampling,
    )
    groups = []
    for by in inputs.by:
        steps.begin(f"subgroups: {by.name}")
        groups.append(
            subgroups(predictions, by, decision=decisions.get("slice"), labels=("any",), **sampling)
        )
    comparison = None
    if len(inputs.tables) > 1:
        steps.begin("comparison of models")
        comparison = compare(inputs.tables, **sampling)
    galleries = None
    if args.root is not None and inputs.index is not None:
        steps.begin("galleries")
        galleries = _look(predictions, args.root, inputs.index, decisions.get("slice"), model)
    study = Study(
        evaluation=evaluation,
        predictions=predictions,
        validation=inputs.validation,
        decisions=decisions,
        run=inputs.run,
        models=inputs.averaged,
        encodings={} if inputs.index is None else count_encodings(predictions, inputs.index),
        groups=pd.concat(groups, ignore_index=True) if groups else None,
        comparison=comparison,
        galleries=(Missing("Galleries of misses and false alarms", NO_PIXELS),)
        if galleries is None
        else galleries.blocks,
        heat=galleries is not None and model is not None,
    )
    return study, None if galleries is None else galleries.slices


def _look(
    predictions: pd.DataFrame,
    root: Path,
    index: pd.DataFrame,
    decision: Decision | None,
    model: SliceClassifier | None,
) -> Galleries:
    heat = None
    if model is not None:
        rows = [int(row) for value in KINDS for row in choose_worst(predictions, value, decision)]
        heat = compute_heat(model, predictions, root, index, rows)
    return make_galleries(predictions, root, index, decision=decision, heat=heat)


def _submit(inputs: Inputs, sample: Path, out: Path, model: SliceClassifier | None) -> str:
    """Writes the challenge's CSV, and says what is in it."""
    with for_owner_alone():
        make_folder(out)
        path = out / "submission.csv"
        filled = write_submission(inputs.predictions, sample, path, _find_prevalences(model))
    return f"submission in {path}, {filled} slices without a prediction filled with the prevalence"


def _find_prevalences(model: SliceClassifier | None) -> list[float] | None:
    """Those of the training part, which the checkpoint carries; None where one is not known."""
    carried = {} if model is None else model.card.get("prevalences", {})
    known = [value for label in LABELS if (value := carried.get(label)) is not None]
    return known if len(known) == len(LABELS) else None
