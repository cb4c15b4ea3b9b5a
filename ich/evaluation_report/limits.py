"""Limits of an evaluation and steps to strengthen it, for all its documents."""

from __future__ import annotations

from collections.abc import Mapping

from ich.evaluate.checks import UNCHECKED
from ich.evaluate.figures import FEW, LabelFigures
from ich.evaluation_report.report_data import ReportData
from ich.report.document import Picture
from ich.tables import say


def list_limits(data: ReportData) -> list[str]:
    """Lists the reasons not to generalize the figures."""
    evaluation = data.evaluation
    limits = []
    if data.run.phantom:
        limits.append("The data are synthetic. The figures do not show how the model performs on patients.")
    if data.run.leaky:
        limits.append(
            "Slices were split without regard to patients. The figures are therefore too good, by an "
            "unknown amount."
        )
    first = next(iter(evaluation.levels.values())).labels
    if few := list_few(first):
        limits.append(
            f"Positives come from few patients: {few}. They say next to nothing about other patients."
        )
    if data.validation is None and not data.decisions:
        limits.append("Without a validation set there are no operating points and no calibration.")
    elif data.validation is not None and data.validation["PatientID"].nunique() < 10 * FEW:
        limits.append(
            "Calibration and operating points come from "
            f"{say(data.validation['PatientID'].nunique(), 'patient')} of the validation set. The intervals "
            "here do not include their variation."
        )
    if data.members:
        limits.append(
            "Calibration and operating points were fitted on predictions of single models. The mean of all "
            "models is less extreme, so they fit it less well."
        )
    if not data.checked:
        limits.append(UNCHECKED)
    if "slice" not in data.evaluation.levels:
        limits.append(
            "Positive studies were labeled, but not their slices. There are no figures by slice, and nobody "
            "checked which slices a positive result comes from."
        )
    if data.groups is None:
        limits.append("We did not examine whether the figures hold for every scanner and protocol.")
    return [
        *limits,
        "The intervals describe other patients like these. They do not include another training, other "
        "hospitals, other scanners or other readers.",
        "Targets are taken as given. This program does not know how they were made, or how often readers "
        "disagree.",
        "Nobody has tested what the figures mean for patients, and the model is not intended for patient "
        "care.",
    ]


def list_steps(data: ReportData) -> list[str]:
    """Lists steps that would strengthen the evaluation, the simplest first."""
    first = next(iter(data.evaluation.levels.values())).labels
    steps = []
    if data.validation is None and not data.decisions:
        steps.append(
            "Give the predictions for a validation set, to add operating points and calibration (--val)."
        )
    if few := [label for label, each in first.items() if each.counts.positive_patients < FEW]:
        steps.append(f"Find more patients with {', '.join(few)}.")
    if data.groups is None:
        steps.append("Look at subgroups by scanner encoding, slice spacing and tilt (--root or --index).")
    if not any(isinstance(block, Picture) for block in data.galleries):
        steps.append("Look at the worst false negatives and false positives (--root).")
    elif not data.heat:
        steps.append("Look at where in the slice the model finds its evidence (--checkpoint).")
    return [
        *steps,
        "Repeat the evaluation, unchanged, on data from another hospital.",
        "Have readers review the false negatives, the false positives and the targets themselves.",
    ]


def list_few(labels: Mapping[str, LabelFigures]) -> str:
    """Lists the labels whose positives come from few patients, with the number of patients."""
    few = {label: each.counts.positive_patients for label, each in labels.items()}
    return ", ".join(f"{label} {number}" for label, number in few.items() if number < 2 * FEW)
