"""What the page of a study says in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from ich.schema import DISCLAIMER, SUBTYPES
from ich.schema.codes import NO_RESULT, SetAside, describe_code
from ich.schema.results import LabelResult, Outcome, StudyResult

_GLANCE: Mapping[Outcome | None, str] = {
    Outcome.POSITIVE: "Signs of intracranial hemorrhage",
    Outcome.NEGATIVE: "No sign of intracranial hemorrhage found",
    Outcome.INDETERMINATE: "Neither positive nor negative can be said",
    None: "No result: the study could not be read",
}


def describe_glance(result: StudyResult) -> str:
    """The outcome in a line, with the subtypes that are called and those that the model cannot call."""
    glance = ": ".join(filter(None, [_GLANCE[result.outcome], ", ".join(result.subtypes)]))
    if result.outcome is not Outcome.POSITIVE:
        return glance
    unknown = ", ".join(name for name in SUBTYPES if result.labels[name].threshold is None)
    return f"{glance}; not assessed: {unknown}" if unknown else glance


def describe_outcome(result: StudyResult) -> str:
    """What the outcome means, with the figures that it rests on."""
    if result.refusal is not None:
        why = describe_code(SetAside, result.refusal.code, result.refusal.detail)
        return f"The study was not read. {why}. Nothing is said of what it shows."
    label = result.labels["any"]
    prob, threshold = show_label(label)
    if label.reached is None:
        return f"The probability of any hemorrhage is {prob}, with no operating point to judge it by."
    where = "at or above" if label.reached else "below"
    fact = f"The probability of any hemorrhage is {prob}, {where} the operating point of {threshold}"
    if result.outcome is not Outcome.INDETERMINATE:
        return f"{fact}."
    if any(reason.code in NO_RESULT for reason in result.reasons):
        return f"{fact}, but it is not to be trusted."
    return f"{fact}, but that is not enough to call the study negative."


def describe_called(result: StudyResult) -> str:
    """Which subtypes are called in a POSITIVE study, and which the model cannot call."""
    unknown = [name for name in SUBTYPES if result.labels[name].reached is None]
    called, undecided = (
        ", ".join(f"{name} ({show_prob(result.labels[name].prob)})" for name in names)
        for names in (result.subtypes, unknown)
    )
    texts = []
    if called:
        texts.append(f"Called present: {called}.")
    elif len(unknown) < len(SUBTYPES):
        texts.append("No subtype reaches its operating point.")
    if undecided:
        texts.append(f"Not decided, as the model has no operating point: {undecided}.")
    return " ".join(texts)


def list_left_out(result: StudyResult) -> list[str]:
    """The slices that do not count for the study, counted from 1, and why."""
    return [
        f"Slice {number} of {len(result.slices)}: {each.left_out.detail} ({each.left_out.code})"
        for number, each in enumerate(result.slices, 1)
        if each.left_out is not None
    ]


def list_grounds(result: StudyResult) -> list[str]:
    """What was checked of a study that has no reasons."""
    grounds = [
        "Every slice of the scan that was chosen was read. Neither positions nor numbers show one that is "
        "missing between others.",
        "The slices span the height of a head, and neither end shows a wide brain, so that both seem to be "
        "there. Some 30 mm may be missing at the top without being noticed, and more at the base.",
        "The Hounsfield units are plausible.",
    ]
    if result.distance is not None and result.distance_limit is not None:
        grounds.append(
            f"The study is like what the model was trained on: its distance is {result.distance:.2f}, and up "
            f"to {result.distance_limit:.2f} counts as like."
        )
    return grounds


def list_limits(result: StudyResult) -> list[str]:
    """What is to be kept in mind whatever the page says."""
    limits = [
        f"{DISCLAIMER}. It is no diagnosis, and does not take the place of a radiologist who reads the study."
    ]
    if result.outcome is not None:
        limits += [
            "A negative does not rule out a hemorrhage: at any operating point some are missed, small ones "
            "first. A positive may be a false alarm.",
            "A probability is calibrated, and an operating point chosen, on the validation part of the data "
            "that the model was trained with. Elsewhere both may be off.",
            "Only the series marked as read was looked at, and in it only for intracranial hemorrhage.",
        ]
    return limits


def show_prob(prob: float, digits: int = 2) -> str:
    """A probability as it stands on the page: never 0 or 1 where it is not."""
    least = 10.0**-digits
    if 0 < prob < least / 2:
        return f"<{least:.{digits}f}"
    if 1 - least / 2 <= prob < 1:
        return f">{1 - least:.{digits}f}"
    return f"{prob:.{digits}f}"


def show_label(label: LabelResult) -> tuple[str, str]:
    """Probability and operating point, with as many digits as tell them apart."""
    if label.threshold is None:
        return show_prob(label.prob), "none"
    digits = 2
    while True:
        pair = show_prob(label.prob, digits), show_prob(label.threshold, digits)
        if pair[0] != pair[1] or label.prob == label.threshold:
            return pair
        digits += 1
