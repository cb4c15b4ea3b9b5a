"""Probabilities and other shares as texts for people: none that lies between is ever shown as 0 or as 1."""

from __future__ import annotations


def show_prob(prob: float, digits: int = 2) -> str:
    """Formats a probability; it is never shown as certain, so even 0 becomes ``<0.01`` and 1 ``>0.99``."""
    return _limit(prob, 1.0, digits)


def show_percent(share: float, digits: int = 0) -> str:
    """Formats a share in percent: ``100 %`` means all, and ``0 %`` none."""
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return f"{_limit(100 * share, 100.0, digits)} %"


def show_number(share: float, digits: int = 3) -> str:
    """Formats a share as a number, for a threshold or another program.

    It has as many digits as it takes: 0.0001 is ``0.0001``, not ``0.000``, and 0.99996 is ``0.99996``.

    Args:
        share: The share, from 0 to 1.
        digits: Digits after the point, at least.
    """
    while float(shown := f"{share:.{digits}f}") in (0, 1) and float(shown) != share:
        digits += 1
    return shown


def _limit(value: float, most: float, digits: int) -> str:
    """Formats a value between 0 and ``most``; one that rounds to either becomes the nearest value within."""
    least = 10.0**-digits
    if value <= least / 2:
        return f"<{least:.{digits}f}"
    if value >= most - least / 2:
        return f">{most - least:.{digits}f}"
    return f"{value:.{digits}f}"
