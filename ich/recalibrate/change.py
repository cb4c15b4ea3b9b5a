"""What a recalibration changes, measured on studies that did not take part in the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.calibration import Decision, NotFitted
from ich.calibration.points import OperatingPoint
from ich.calibration.recalibration import recalibrate_label
from ich.evaluate.calibration_error import measure_calibration
from ich.evaluate.estimate import REPLICATES, draw_patients
from ich.evaluate.figures import CalibrationMeasures, Counts, OperatingFigures
from ich.evaluate.thresholds import measure_at_point, without_point
from ich.evaluate.units import Column

FOLDS = 20
"""Number of fits behind the figures after a recalibration. With as many patients or fewer, each leaves out
one patient."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Change:
    """One label of one level, before and after.

    Attributes:
        column: The units: ``prob`` before, and ``calibrated`` after, by fits without their patient.
        before: Calibration of the model's own.
        after: Calibration of the fits.
        point_before: Figures at the model's own operating point.
        point_after: Figures at the operating points of the fits; its threshold is that of the whole fit.
    """

    column: Column
    before: CalibrationMeasures
    after: CalibrationMeasures
    point_before: OperatingFigures
    point_after: OperatingFigures

    @property
    def counts(self) -> Counts:
        """Counts behind the figures."""
        return self.column.counts


def measure_change(
    own: Decision, new: Decision, label: str, units: pd.DataFrame, *, rule: str, level: str, seed: int
) -> Change:
    """Measures one label before and after, with 95 % intervals from a bootstrap that draws patients.

    The figures after are cross-validated, because those of the very studies of the fit would be too good.
    Patients form up to ``FOLDS`` groups, and each group is calibrated and decided by a fit to the others.

    Args:
        own: The model's own decision.
        new: The decision of the fit to all units.
        label: The label.
        units: Units of the level, as ``ich.evaluate.pooling.pool`` returns them.
        rule: As in ``recalibrate_label``.
        level: Name of the level.
        seed: Random seed for the bootstrap.
    """
    known = units[units[f"target_{label}"].notna()]
    target, prob = (known[f"{kind}_{label}"].to_numpy(np.float64) for kind in ("target", "prob"))
    codes, people = pd.factorize(known["PatientID"])
    calibrator, own_point = own.calibration[label], own.operating_points[label]
    before = prob if isinstance(calibrator, NotFitted) else calibrator.apply(prob)
    after, called, undecided = _cross_fit(own, label, target, prob, codes, rule)
    missing = len(units) - len(known)
    column = Column(label, target, before, after, called, codes, missing, level, "", undecided)
    counts = draw_patients(len(people), REPLICATES, seed)
    threshold = np.nan if isinstance(own_point, NotFitted) else own_point.threshold
    return Change(
        column,
        measure_calibration(target, before, codes, counts, column.shortage)[0],
        measure_calibration(target, after, codes, counts, column.shortage)[0],
        _measure_point(column, before >= threshold, own_point, counts),
        without_point(undecided, ())
        if undecided
        else _measure_point(column, called, new.operating_points[label], counts),
    )


def _cross_fit(
    own: Decision, label: str, target: Floats, prob: Floats, codes: Ints, rule: str
) -> tuple[Floats, NDArray[np.bool_], str]:
    """Calibrates and calls units by fits without their patients.

    Returns:
        (N,) probabilities, (N,) whether they reach their operating point, and why there is none, or empty.
    """
    after, called = np.empty(len(prob)), np.zeros(len(prob), np.bool_)
    folds, undecided = codes % FOLDS, ""
    for fold in np.unique(folds):
        held, rest = folds == fold, folds != fold
        fit = recalibrate_label(
            own.calibration[label],
            own.operating_points[label],
            target[rest],
            prob[rest],
            codes[rest],
            rule=rule,
        )
        after[held] = (
            prob[held] if isinstance(fit.calibrator, NotFitted) else fit.calibrator.apply(prob[held])
        )
        if isinstance(fit.point, NotFitted):
            undecided = f"a fit without some of the patients has none: {fit.point.missing}"
        else:
            called[held] = after[held] >= fit.point.threshold
    return after, called, undecided


def _measure_point(
    column: Column,
    called: NDArray[np.bool_],
    point: OperatingPoint | NotFitted,
    counts: NDArray[np.int32],
) -> OperatingFigures:
    if isinstance(point, NotFitted):
        return without_point(point.missing, ())
    return measure_at_point(column.target, called, column.codes, counts, point, (), column.shortages)
