"""Recalibrates a model on the few studies of a site.

The probabilities that a model calibrated are recalibrated by a logistic curve, ``sigmoid(slope * logit(p) +
intercept)``. This is logistic recalibration (Steyerberg et al., Statistics in Medicine 2004;23:2567). Twenty
studies alone would not determine the curve, so it has a normal prior around slope 1 and intercept 0, which
changes nothing. Few studies therefore stay close to the model's own calibration, and many replace it.

The rule of each operating point is then applied to the recalibrated probabilities of the site's studies; see
``choose_expected_point``. So the point shrinks to what the model expects, as the probabilities do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ich.calibration import Calibrator, Decision, Isotonic, NotFitted, Platt, Temperature, to_logits
from ich.calibration.fits import Floats, fit_shrunk_logistic
from ich.calibration.points import OperatingPoint, choose_expected_point
from ich.calibration.sample import find_shortage, take_known

SLOPE_SD, INTERCEPT_SD = 0.5, 1.5
"""Standard deviations of the prior of slope and intercept. ``benchmarks/recalibration.py simulate`` compares
others on simulated sites, where these have the lowest log loss with 10 to 50 studies, or nearly so."""


@dataclass(frozen=True)
class SiteFit:
    """One label after the recalibration.

    Attributes:
        site: The curve on the model's own calibrated probabilities; None if the model's own calibration and
            operating point are kept.
        kept: Why they are kept; empty if they are not.
        calibrator: The calibrator to use: the model's own and the curve in one.
        point: The operating point to use, or why there is none.
    """

    site: Platt | None
    kept: str
    calibrator: Calibrator | NotFitted
    point: OperatingPoint | NotFitted


def recalibrate_label(
    calibrator: Calibrator | NotFitted,
    point: OperatingPoint | NotFitted,
    target: ArrayLike,
    prob: ArrayLike,
    patients: ArrayLike,
    *,
    rule: str,
) -> SiteFit:
    """Recalibrates one label.

    All units of a patient together count as one, because they are alike. A label without an operating point
    has nothing to shrink to, so it gets one only from as many units as ``find_shortage`` asks for.

    Args:
        calibrator: The model's own.
        point: The model's own; its rule is used again.
        target: (N,) 0 or 1; NaN where unknown, and then the row is left out.
        prob: (N,) probabilities of the model, not calibrated.
        patients: (N,) the patient of each row.
        rule: Rule for a label without an operating point, as in ``choose_operating_point``.

    Raises:
        UserError: If the values are not targets and probabilities, or the rule is not valid.
    """
    targets, probs = take_known(target, prob)
    people = np.asarray(patients)[~np.isnan(np.asarray(target, np.float64))]
    if not 0 < targets.sum() < len(targets):
        missing = "positive" if not targets.sum() else "negative"
        return SiteFit(None, f"no {missing} among {len(targets)}", calibrator, point)
    own = probs if isinstance(calibrator, NotFitted) else calibrator.apply(probs)
    counts = _share(people)
    slope, intercept = fit_shrunk_logistic(
        to_logits(own), targets, counts, slope_sd=SLOPE_SD, intercept_sd=INTERCEPT_SD
    )
    if slope <= 0:
        return SiteFit(None, "probabilities are not higher with the label than without it", calibrator, point)
    site = Platt(slope, intercept)
    joined = _join(calibrator, site)
    return SiteFit(site, "", joined, _choose_point(point, joined.apply(probs), targets, people, counts, rule))


def recalibrate_decision(
    own: Decision, target: ArrayLike, probs: ArrayLike, patients: ArrayLike, *, rule: str
) -> tuple[Decision, dict[str, SiteFit]]:
    """Recalibrates one level.

    Args:
        own: The model's own decision.
        target: (N, L) 0 or 1; NaN where unknown. Labels are in the order of ``own``.
        probs: (N, L) probabilities of the model, pooled as ``own`` says and not calibrated.
        patients: (N,) the patient of each row.
        rule: Rule for labels without an operating point.

    Returns:
        The decision that replaces the model's own, and the fit of each label.
    """
    columns = zip(np.asarray(target, np.float64).T, np.asarray(probs, np.float64).T, strict=True)
    fits: Mapping[str, SiteFit] = {
        label: recalibrate_label(
            own.calibration[label], own.operating_points[label], known, prob, patients, rule=rule
        )
        for label, (known, prob) in zip(own.calibration, columns, strict=True)
    }
    decision = Decision(
        own.pooling,
        {label: fit.calibrator for label, fit in fits.items()},
        {label: fit.point for label, fit in fits.items()},
    )
    return decision, dict(fits)


def _share(people: ArrayLike) -> Floats:
    """Counts of rows by which each patient counts as one."""
    _, places, rows = np.unique(np.asarray(people), return_inverse=True, return_counts=True)
    return np.asarray(1 / rows[places], np.float64)


def _join(own: Calibrator | NotFitted, site: Platt) -> Calibrator:
    """Joins a calibrator and the curve that follows it."""
    if isinstance(own, NotFitted):
        return site
    if isinstance(own, Isotonic):  # exact at its knots; between them it stays linear
        return Isotonic(own.probs, tuple(map(float, site.apply(own.values))))
    slope, intercept = (
        (1 / own.temperature, 0.0) if isinstance(own, Temperature) else (own.slope, own.intercept)
    )
    return Platt(site.slope * slope, site.slope * intercept + site.intercept)


def _choose_point(
    own: OperatingPoint | NotFitted,
    calibrated: Floats,
    targets: Floats,
    people: ArrayLike,
    counts: Floats,
    rule: str,
) -> OperatingPoint | NotFitted:
    if isinstance(own, NotFitted):
        if shortage := find_shortage(targets, people):
            return NotFitted(shortage)
    else:
        rule = own.rule
    return choose_expected_point(calibrated, counts, rule) or NotFitted(f"no threshold fulfills {rule}")
