"""The evaluation that a reviewer would ask for, written to a folder by ``ich evaluate``.

Its modules:

    inputs       reads tables, labels, index and checkpoint
    figures      computes the figures
    outputs      writes the files
    run          the run that made a table, in words
    report_data  what all documents are made from
    tables       figures as tables
    pictures     figures as pictures
    captions     the pictures of a report, with captions
    limits       limits of an evaluation, and steps to strengthen it
    verdict      what a reader must know, in a few sentences and a table
    document     a report: the verdict, one section for each question, how to repeat it
    deck         the same story as ten slides
    model_card   a model card
    claim        the CLAIM checklist
    galleries    the slices on which a model was most wrong
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ich.calibration.files import write_calibration as write_decisions
from ich.calibration.points import parse_rule
from ich.evaluate.checks import UNCHECKED, check_weights
from ich.evaluate.decisions import DEFAULT_CALIBRATION, DEFAULT_RULE
from ich.evaluate.estimate import REPLICATES
from ich.evaluate.pooling import choose_pooling
from ich.evaluate.submission import write_submission
from ich.evaluation_report.figures import Choices, compute_figures, find_decisions, find_prevalences
from ich.evaluation_report.inputs import (
    PREDICTED,
    TEST,
    VALIDATION,
    Inputs,
    Sources,
    find_table,
    list_levels,
    read_inputs,
)
from ich.evaluation_report.outputs import make_folder, show_steps, write_outputs
from ich.evaluation_report.report_data import ReportData
from ich.files import for_owner_only
from ich.index.columns import NO_COLUMNS
from ich.schema import UserError
from ich.tables import OUT_OF_FOLD, name_columns

if TYPE_CHECKING:  # importing torch takes seconds
    from ich.models import SliceNet

__all__ = ["Written", "write_evaluation"]


class Written(NamedTuple):
    """Result of an evaluation.

    Attributes:
        folder: Folder of the outputs.
        data: Data of the report; None if no target is known and only a submission was written.
    """

    folder: Path
    data: ReportData | None


def write_evaluation(
    predictions: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    val: Sequence[str | Path] | None = None,
    labels: str | Path | None = None,
    columns: Mapping[str, str] = NO_COLUMNS,
    root: str | Path | None = None,
    index: str | Path | None = None,
    checkpoint: str | Path | None = None,
    by: Sequence[str] | None = None,
    ensemble: bool = False,
    pooling: str | None = None,
    rule: str = DEFAULT_RULE,
    calibration: str = DEFAULT_CALIBRATION,
    replicates: int = REPLICATES,
    seed: int = 0,
    pdf: bool = False,
    slides: bool = False,
    submission: str | Path | None = None,
    write_calibration: str | Path | None = None,
    trusted: Sequence[str] = (),
    tell: Callable[[str], object] = print,
) -> Written:
    """Evaluates predictions and writes a report, figures as JSON, a model card and the CLAIM checklist.

    The predictions are enough. Other inputs add to the report, which marks missing items as not available.

    Args:
        predictions: A predictions table, or the folder of a run or of ``ich predict``. Several are compared.
        out: Folder to write to; files of the same names are replaced. By default ``evaluation`` beside the
            first table.
        val: A table of the validation set for each that is evaluated; by default ``predictions_val.csv``
            beside ``predictions_test.csv``.
        labels: A label CSV of slices, studies or patients, which replaces the targets.
        columns: What it calls some of the labels and keys, such as ``{"epidural": "EDH"}``.
        root: The folder of the DICOM files, for galleries.
        index: Its index, for subgroups; by default that of ``root``.
        checkpoint: A run's folder, a checkpoint or a bundle, for decisions and heat maps. Heat maps of an
            ensemble are of its first member.
        by: Columns to group by; by default, with an index, encoding, slice spacing and tilt.
        ensemble: Evaluate the mean of several tables, not the first.
        pooling: Method that pools slices to studies and patients, one of ``ich.evaluate.pooling.METHODS``; by
            default that of ``choose_pooling``.
        rule: Rule for operating points; see ``ich.calibration.points.choose_operating_point``.
        calibration: Calibration method, one of ``ich.calibration.METHODS``.
        replicates: Number of bootstrap samples.
        seed: Random seed for the bootstrap.
        pdf: Write ``report.pdf`` too.
        slides: Write ``slides.pptx`` too.
        submission: A sample submission of the RSNA 2019 challenge; writes ``submission.csv`` like it.
        write_calibration: JSON file to write calibration and operating points to.
        trusted: Code that a model file may name as its backbone; see ``ich.models.load_slice_net``.
        tell: Called with one line for each item that was found or written.

    Raises:
        UserError: If an input is missing or not valid.
    """
    given = [predictions] if isinstance(predictions, str | Path) else predictions
    _check(len(given), ensemble=ensemble, pdf=pdf, slides=slides)
    parse_rule(rule)  # also where no validation set uses it
    tables = [find_table(Path(path), TEST, OUT_OF_FOLD, PREDICTED) for path in given]
    validation = [find_table(Path(path), VALIDATION) for path in val or ()]
    sources = Sources(
        tables, validation, _to_path(labels), columns, _to_path(root), _to_path(index), by, ensemble
    )
    nets = _load_nets(checkpoint, trusted)
    model = nets[0] if nets else None
    label_set = None if model is None else model.metadata.labels
    inputs = read_inputs(sources, label_set=label_set, needs_targets=submission is None)
    checked = not nets or _is_checked(inputs, nets, f"--checkpoint {checkpoint}")
    for note in [*inputs.notes, *([] if checked else [UNCHECKED])]:
        tell(note)
    folder = Path(out or tables[0].parent / "evaluation")
    if submission is not None:
        tell(_submit(inputs, submission, folder, model))
        if inputs.predictions[name_columns("target", inputs.labels.names)].isna().to_numpy().all():
            tell("no target is known, so there is nothing to evaluate")
            return Written(folder, None)
    pooling = pooling or choose_pooling(inputs.predictions)
    choices = Choices(list_levels(inputs.predictions), pooling, rule, calibration, replicates, seed)
    decisions = find_decisions(inputs, choices, model)
    with for_owner_only():
        if write_calibration is not None:
            write_decisions(decisions, write_calibration)
            tell(f"wrote the calibration to {write_calibration}")
        with show_steps() as steps:
            data, slices = compute_figures(inputs, choices, decisions, model, steps)
            data = replace(data, checked=checked)
            write_outputs(data, slices, folder, steps, pdf=pdf, slides=slides)
    return Written(folder, data)


def _to_path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _check(tables: int, *, ensemble: bool, pdf: bool, slides: bool) -> None:
    """Reports missing inputs before the work, not after it."""
    if pdf:
        importlib.import_module("ich.report.pdf")
    if slides:
        importlib.import_module("ich.report.slides")
    if ensemble and tables < 2:
        raise UserError("--ensemble averages several PREDICTIONS: give two or more")


def _load_nets(checkpoint: str | Path | None, trusted: Sequence[str]) -> Sequence[SliceNet]:
    """Loads the members of a model; the first gets the decisions of all, and draws the heat maps."""
    if checkpoint is None:
        return ()
    # These import torch, which takes seconds; an evaluation without a checkpoint does not need it.
    from ich.model_files.checkpoint import find_checkpoint
    from ich.models import load_ensemble

    nets, metadata = load_ensemble(find_checkpoint(checkpoint, "best"), trusted=trusted)
    nets[0].metadata = metadata.joined
    return nets


def _is_checked(inputs: Inputs, nets: Sequence[SliceNet], name: str) -> bool:
    """Whether the predictions name the checkpoint's weights; False if they name none.

    Raises:
        UserError: If they name others.
    """
    from ich.models import hash_weights

    tables = list(inputs.tables.values())
    return check_weights(tables if inputs.averaged else tables[:1], list(map(hash_weights, nets)), name)


def _submit(inputs: Inputs, sample: str | Path, out: Path, model: SliceNet | None) -> str:
    """Writes the challenge's CSV, and reports its content."""
    with for_owner_only():
        make_folder(out)
        path = out / "submission.csv"
        filled = write_submission(inputs.predictions, sample, path, find_prevalences(model))
    return f"wrote the submission to {path}; {filled} slices without a prediction got the prevalence"
