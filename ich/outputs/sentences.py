"""The sentences about a study on its pages."""

from __future__ import annotations

from collections.abc import Mapping

from ich.schema import DISCLAIMER
from ich.schema.codes import NO_RESULT, SetAside, describe_code
from ich.schema.labels import say_label
from ich.schema.results import LabelResult, Outcome, StudyResult

_GLANCE: Mapping[Outcome | None, str] = {
    Outcome.POSITIVE: "Signs of {finding}",
    Outcome.NEGATIVE: "No sign of {finding} found",
    Outcome.INDETERMINATE: "Neither positive nor negative can be concluded",
    None: "No result: the study could not be read",
}


def describe_glance(result: StudyResult) -> str:
    """States the outcome in one line, with subtypes called present and those that the model cannot decide."""
    said = _GLANCE[result.outcome].format(finding=_name_finding(result))
    glance = ": ".join(filter(None, [said, ", ".join(result.subtypes)]))
    if result.outcome is not Outcome.POSITIVE:
        return glance
    unknown = ", ".join(name for name in result.others if result.labels[name].threshold is None)
    return f"{glance}; not assessed: {unknown}" if unknown else glance


def _name_finding(result: StudyResult) -> str:
    """Names what the outcome is about, within a sentence."""
    if not result.labels:
        return "what the model looks for"
    label = say_label(result.headline, result.labels)
    return "intracranial hemorrhage" if label == "any hemorrhage" else label


def describe_outcome(result: StudyResult) -> str:
    """Explains the outcome, with its figures."""
    if result.refusal is not None:
        why = describe_code(SetAside, result.refusal.code, result.refusal.detail)
        return f"The study was not read. {why}. The result says nothing about its content."
    if result.decides is None:
        return "None of the model's labels decides, so neither positive nor negative can be concluded."
    label, name = result.labels[result.decides], say_label(result.decides, result.labels)
    prob, threshold = show_label(label)
    if label.reached is None:
        return f"The probability of {name} is {prob}, but there is no operating point to decide with."
    where = "at or above" if label.reached else "below"
    fact = f"The probability of {name} is {prob}, {where} the operating point of {threshold}"
    if result.outcome is not Outcome.INDETERMINATE:
        return f"{fact}."
    if any(reason.code in NO_RESULT for reason in result.reasons):
        return f"{fact}, but the probability cannot be trusted."
    return f"{fact}, but there are reasons not to call the study negative."


def describe_called(result: StudyResult) -> str:
    """Names the subtypes called present in a POSITIVE study, and those that the model cannot decide."""
    unknown = [name for name in result.others if result.labels[name].reached is None]
    called, undecided = (
        ", ".join(f"{name} ({show_prob(result.labels[name].prob)})" for name in names)
        for names in (result.subtypes, unknown)
    )
    texts = []
    if called:
        texts.append(f"Called present: {called}.")
    elif len(unknown) < len(result.others):
        texts.append("No subtype reaches its operating point.")
    if undecided:
        texts.append(f"Not decided, as the model has no operating point: {undecided}.")
    return " ".join(texts)


def list_left_out(result: StudyResult) -> list[str]:
    """Lists the slices that do not count for the study, counted from 1, with reasons."""
    return [
        f"Slice {number} of {len(result.slices)}: {each.left_out.detail} ({each.left_out.code})"
        for number, each in enumerate(result.slices, 1)
        if each.left_out is not None
    ]


def list_grounds(result: StudyResult) -> list[str]:
    """Lists the checks that a study without reasons has passed."""
    grounds = [
        "All slices of the chosen scan were read. Positions and numbers show no missing slice in between.",
        "The slices span the height of a head. Neither end shows a wide brain, so both ends seem to be "
        "complete. About 30 mm may be missing at the top without being noticed, and more at the base.",
        "The Hounsfield units are plausible.",
    ]
    if result.distance is not None and result.distance_limit is not None:
        grounds.append(
            f"The study resembles the training data: its distance is {result.distance:.2f}, and the limit "
            f"is {result.distance_limit:.2f}."
        )
    return grounds


def list_limits(result: StudyResult) -> list[str]:
    """Lists the limits that apply to every page."""
    limits = [
        f"{DISCLAIMER}. This is not a diagnosis, and does not replace a radiologist who reads the study."
    ]
    if result.outcome is not None:
        finding = _name_finding(result)
        is_hemorrhage = finding == "intracranial hemorrhage"
        ruled_out = "a hemorrhage" if is_hemorrhage else finding
        sought = finding if is_hemorrhage else ", ".join(result.labels)
        limits += [
            f"A negative result does not rule out {ruled_out}. At any operating point some are missed, "
            "small ones first. A positive result may be wrong.",
            "Probabilities were calibrated, and operating points chosen, on the validation set of the "
            "training data. Elsewhere both may be wrong.",
            f"Only the series marked as read was examined, and only for {sought}.",
        ]
    return limits


def show_prob(prob: float, digits: int = 2) -> str:
    """Formats a probability for the page; a rounded one is never shown as 0 or 1."""
    least = 10.0**-digits
    if 0 < prob < least / 2:
        return f"<{least:.{digits}f}"
    if 1 - least / 2 <= prob < 1:
        return f">{1 - least:.{digits}f}"
    return f"{prob:.{digits}f}"


def show_label(label: LabelResult) -> tuple[str, str]:
    """Formats probability and operating point, with enough digits to show their difference."""
    if label.threshold is None:
        return show_prob(label.prob), "none"
    digits = 2
    while True:
        pair = show_prob(label.prob, digits), show_prob(label.threshold, digits)
        if pair[0] != pair[1] or label.prob == label.threshold:
            return pair
        digits += 1
