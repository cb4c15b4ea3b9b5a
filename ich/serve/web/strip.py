"""The slices of a study as its page shows them: places, probabilities and the strip to click on."""

from __future__ import annotations

from dataclasses import dataclass

from ich.schema.results import SliceResult, StudyResult
from ich.schema.shares import show_prob


@dataclass(frozen=True)
class StripSlice:
    """A slice of the series that was read.

    Attributes:
        number: Its number, from 1, from the feet to the head.
        position: Its position in mm; None if unknown.
        prob: Probability of the label that decides.
        shown: The same as text.
        is_key: Whether it is a key slice.
        left_out: Why it does not count; empty if it does.
    """

    number: int
    position: float | None
    prob: float
    shown: str
    is_key: bool
    left_out: str


def make_strip(result: StudyResult) -> list[StripSlice]:
    """Lists the slices of a study with their probabilities."""
    return [
        StripSlice(
            place + 1,
            each.position,
            (prob := _find_prob(result, each)),
            show_prob(prob),
            place in result.key_slices,
            "" if each.left_out is None else each.left_out.detail,
        )
        for place, each in enumerate(result.slices)
    ]


def choose_first(strip: list[StripSlice], result: StudyResult) -> int:
    """Chooses the slice to show first: the first key slice, or the one of the highest probability."""
    if result.key_slices:
        return result.key_slices[0] + 1
    return max((each for each in strip if not each.left_out), key=lambda e: e.prob, default=strip[0]).number


def _find_prob(result: StudyResult, each: SliceResult) -> float:
    is_calibrated = all(one.calibrated is not None for one in result.slices)
    return float(((each.calibrated if is_calibrated else None) or each.probs)[result.headline])
