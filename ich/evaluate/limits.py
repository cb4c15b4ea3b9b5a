"""What stands against an evaluation, and what would make it stronger: for every document about it."""

from __future__ import annotations

from collections.abc import Mapping

from ich.evaluate.checks import UNCHECKED
from ich.evaluate.figures import FEW, LabelFigures
from ich.evaluate.report_data import ReportData
from ich.report.document import Picture
from ich.tables import say


def list_limits(data: ReportData) -> list[str]:
    """What stands against taking the figures further than they go."""
    evaluation = data.evaluation
    limits = []
    if data.run.phantom:
        limits.append("The data are synthetic: nothing of this says how the model does on patients.")
    if data.run.leaky:
        limits.append(
            "Slices were split without regard to patients: the figures are too good, by how much is not "
            "known."
        )
    first = next(iter(evaluation.levels.values())).labels
    if few := list_few(first):
        limits.append(f"Positives come from few patients: {few}. What they say of others is next to nothing.")
    if data.validation is None and not data.decisions:
        limits.append("Without a validation part there are no operating points and no calibration.")
    elif data.validation is not None and data.validation["PatientID"].nunique() < 10 * FEW:
        limits.append(
            "Calibration and operating points rest on "
            f"{say(data.validation['PatientID'].nunique(), 'patient')} of the validation part; the "
            "intervals here do not include how they would vary."
        )
    if not data.checked:
        limits.append(UNCHECKED)
    if data.groups is None:
        limits.append("Whether the figures hold for every scanner and protocol was not looked at.")
    return [
        *limits,
        "The intervals are of drawing other patients like these; they do not include training anew, other "
        "hospitals, other scanners or other readers.",
        "Targets are taken as they are: how they came about, and how often readers disagree, is not known "
        "to this program.",
        "Nobody has tested what the figures mean for patients, and the model is not made for that.",
    ]


def list_steps(data: ReportData) -> list[str]:
    """What would make the evaluation stronger, the nearest first."""
    first = next(iter(data.evaluation.levels.values())).labels
    steps = []
    if data.validation is None and not data.decisions:
        steps.append(
            "Give the predictions of a validation part, for operating points and calibration (--val)."
        )
    if few := [label for label, each in first.items() if each.counts.positive_patients < FEW]:
        steps.append(f"Find more patients with {', '.join(few)}.")
    if data.groups is None:
        steps.append("Look at subgroups by scanner encoding, slice spacing and tilt (--root or --index).")
    if not any(isinstance(block, Picture) for block in data.galleries):
        steps.append("Look at the worst misses and false alarms (--root).")
    elif not data.heat:
        steps.append("Look at where in the slice the model finds its evidence (--checkpoint).")
    return [
        *steps,
        "Repeat it, unchanged, on data of another hospital.",
        "Have readers look at the misses and the false alarms, and at the targets themselves.",
    ]


def list_few(labels: Mapping[str, LabelFigures]) -> str:
    """The labels whose positives come from few patients, with their number."""
    few = {label: each.counts.positive_patients for label, each in labels.items()}
    return ", ".join(f"{label} {number}" for label, number in few.items() if number < 2 * FEW)
