"""The sentences about a study on its pages."""

from __future__ import annotations

from collections.abc import Mapping

from ich.schema import DISCLAIMER
from ich.schema.codes import NO_RESULT, SetAside, describe_code, find_sentence
from ich.schema.labels import say_label
from ich.schema.results import LabelResult, Outcome, SeriesResult, StudyResult
from ich.schema.shares import show_prob

_GLANCE: Mapping[Outcome, str] = {
    Outcome.POSITIVE: "Signs of {finding}",
    Outcome.NEGATIVE: "No sign of {finding} found",
    Outcome.INDETERMINATE: "No reliable result: please read as usual",
}
NOT_ANALYZED = "NOT ANALYZED"
"""Shown in place of an outcome for a study that could not be read."""

_NAMED = 1  # subtypes; the names of more would make the headline long, and stand below it

_SHORT: Mapping[str, str] = {
    SetAside.NOT_CT: "other modality",
    SetAside.LOCALIZER: "localizer",
    SetAside.DOSE_REPORT: "dose report",
    SetAside.SECONDARY_CAPTURE: "screen capture",
    SetAside.MULTI_FRAME: "several frames in a file",
    SetAside.ALL_REFUSED: "files that cannot be read",
    SetAside.DERIVED: "derived images",
    SetAside.NOT_AXIAL: "not axial",
    SetAside.OTHER_BODY_PART: "other body part",
    SetAside.CONTRAST: "contrast medium",
    SetAside.TOO_FEW_SLICES: "too few slices",
    SetAside.BONE_KERNEL: "bone kernel",
    SetAside.NO_WINDOW: "no display window",
    SetAside.NO_HEAD: "no head in the pixels",
    SetAside.CRASHED: "files that end the process",
}
"""What a series is that is not read, within a list."""

_NO_AXIAL_HEAD = frozenset(
    {
        SetAside.NOT_CT,
        SetAside.LOCALIZER,
        SetAside.DOSE_REPORT,
        SetAside.SECONDARY_CAPTURE,
        SetAside.NOT_AXIAL,
        SetAside.OTHER_BODY_PART,
        SetAside.NO_HEAD,
    }
)
"""A study with only such series has no axial series of a head."""


def describe_glance(result: StudyResult) -> str:
    """States the outcome in one line, with subtypes called present and those that the model cannot decide."""
    if result.outcome is None:
        return _describe_refusal(result)
    said = _GLANCE[result.outcome].format(finding=_name_finding(result))
    glance = ": ".join(filter(None, [said, ", ".join(result.subtypes)]))
    if result.outcome is not Outcome.POSITIVE:
        return glance
    unknown = [name for name in result.others if result.labels[name].threshold is None]
    if len(unknown) > _NAMED:
        return f"{glance}; {len(unknown)} subtypes not assessed"
    return f"{glance}; not assessed: {', '.join(unknown)}" if unknown else glance


def _describe_refusal(result: StudyResult) -> str:
    codes = dict.fromkeys(series.set_aside.code for series in result.series if series.set_aside is not None)
    kinds = [_SHORT.get(code, code.replace("_", " ")) for code in codes]
    lacks = "axial head series" if _NO_AXIAL_HEAD.issuperset(codes) else "suitable series"
    return f"Not analyzed: no {lacks}" + (f" ({', '.join(kinds)} only)" if kinds else "")


def describe_fate(series: SeriesResult) -> str:
    """Says how a series was used."""
    if series.set_aside is None:
        return "Analyzed"
    code, detail = series.set_aside.code, series.set_aside.detail
    if code == SetAside.ANOTHER_READ:
        return "Not used: a more suitable series was analyzed"
    sentence = find_sentence(code, SetAside)
    return f"Not used: {sentence[:1].lower()}{sentence[1:]}" + (f": {detail}" if detail else "")


def describe_likeness(result: StudyResult) -> str:
    """Says how far the study is from the training data; empty without a reference."""
    if result.distance is None or result.distance_limit is None:
        return ""
    like = "Similar to" if result.distance <= result.distance_limit else "Unlike"
    return f"{like} training data ({result.distance:.2f}; limit {result.distance_limit:.2f})"


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
        return f"{why}. This says nothing about what the study shows."
    if result.decides is None:
        return "None of the model's labels decides, so there is no reliable result."
    label, name = result.labels[result.decides], say_label(result.decides, result.labels)
    prob, threshold = show_label(label)
    if label.reached is None:
        return f"Score {prob} for {name}, but this model has no decision threshold."
    where = "at or above" if label.reached else "below"
    fact = f"The probability of {name} is {prob}, {where} the decision threshold of {threshold}"
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
        texts.append("No subtype reaches its decision threshold.")
    if undecided:
        texts.append(f"Not decided, as the model has no decision threshold: {undecided}.")
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
        grounds.append(f"{describe_likeness(result)}.")
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
            f"A negative result does not rule out {ruled_out}. At any threshold some are missed, "
            "small ones first. A positive result may be wrong.",
            "Probabilities were calibrated, and thresholds chosen, on the validation set of the "
            "training data. Elsewhere both may be wrong.",
            f"Only the series marked as analyzed was examined, and only for {sought}.",
        ]
    return limits


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
