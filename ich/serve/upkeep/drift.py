"""Drift: whether the newest readings differ from what was expected of the model.

Each measure is a test of the newest readings against a reference, see ``references``. Drift is looked for
again and again, so an alarm begins only below ``BEGINS``: with 100 newest readings and a stable stream of
6,000, at most 3 % of simulated runs had an alarm in a measure. It ends above ``ENDS``, so that it does not
come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest, fisher_exact, ks_2samp

from ich.schema.shares import show_percent
from ich.serve.upkeep.samples import Share

BEGINS = 1e-4
"""An alarm begins where the difference would be chance with a smaller probability."""

ENDS = 1e-2
"""An alarm ends where the difference would be chance with a larger probability."""

LARGEST_SHARE_BEYOND = 0.02
"""Of studies like those of the training, at most this share lies beyond the limit of a model's
out-of-distribution detection; see ``ich.calibration.ood``."""


@dataclass(frozen=True)
class Measure:
    """How the newest readings compare with the reference.

    Attributes:
        name: Name of the alarm.
        p_value: Probability of such a difference by chance.
        detail: What was compared, with its values.
    """

    name: str
    p_value: float
    detail: str


def compare_values(
    name: str, what: str, newest: Sequence[float], reference: Sequence[float], source: str
) -> Measure:
    """Compares two distributions by the Kolmogorov-Smirnov test of two samples.

    Args:
        name: Name of the alarm.
        what: What the values are.
        newest: (N,) the newest ones.
        reference: (M,) the reference.
        source: What the reference is.
    """
    found = ks_2samp(newest, reference, method="asymp")
    detail = (
        f"the distribution of the newest {len(newest)} {what} differs by {found.statistic:.2f} from {source}"
    )
    return Measure(name, float(found.pvalue), f"{detail}{_say(found.pvalue)}")


def compare_shares(name: str, what: str, newest: Share, reference: Share, source: str) -> Measure:
    """Compares two shares by Fisher's exact test.

    Args:
        name: Name of the alarm.
        what: What is counted.
        newest: Count among the newest ones.
        reference: Count in the reference.
        source: What the reference is.
    """
    table = [[each.count, each.of - each.count] for each in (newest, reference)]
    p_value = float(fisher_exact(table)[1])
    return Measure(name, p_value, f"{newest} newest {what}, and {reference} in {source}{_say(p_value)}")


def compare_beyond(name: str, newest: Share) -> Measure:
    """Compares the share of out-of-distribution studies with what the model's limit allows, exactly.

    Args:
        name: Name of the alarm.
        newest: Studies beyond the limit, among the newest ones.
    """
    p_value = float(binomtest(newest.count, newest.of, LARGEST_SHARE_BEYOND, "greater").pvalue)
    detail = (
        f"{newest} newest studies are out of distribution, and the model's limit lets "
        f"{show_percent(LARGEST_SHARE_BEYOND)} be so"
    )
    return Measure(name, p_value, f"{detail}{_say(p_value)}")


def _say(p_value: float) -> str:
    return f"; by chance with a probability of {p_value:.1g}"
