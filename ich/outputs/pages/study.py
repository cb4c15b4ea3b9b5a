"""What stands on a study's page, as plain values for its template."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ich.outputs.pages.drawing import Frame, draw_view, encode_jpeg, find_frame, to_gray
from ich.outputs.pages.index import ROW
from ich.outputs.pages.strip import StripPicture
from ich.outputs.pages.views import SliceView, choose_slices
from ich.outputs.sentences import (
    NOT_ANALYZED,
    describe_fate,
    describe_glance,
    describe_likeness,
    describe_outcome,
    list_grounds,
    list_left_out,
    list_limits,
    show_label,
)
from ich.report.figures import encode_png
from ich.schema import DISCLAIMER
from ich.schema.codes import Note, Reason, find_sentence
from ich.schema.labels import say_label
from ich.schema.results import Outcome, Remark, StudyResult, list_middles
from ich.schema.shares import show_prob

_HEAT = (
    "On the right is a heat map of the evidence for {label}. Lines mark a quarter (dotted), half (dashed) "
    "and three quarters (solid) of its peak, and the cross marks the peak. Maps end at the skull. Without a "
    "heat map, the right side shows the subdural window. A map shows where in a slice the evidence lies, not "
    "how much there is."
)
_THUMBNAIL = 64  # pixels
_DECIDED = {True: "present", False: "absent", None: "not decided"}


@dataclass(frozen=True)
class Attributes:
    """Attributes of a study's headers, as stored, that its page may show; those not asked for are left out.

    Attributes:
        study: By keyword, such as StudyDate.
        descriptions: SeriesDescription by SeriesInstanceUID; None if it was not asked for.
    """

    study: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] | None = None

    def list_facts(self, result: StudyResult) -> list[str]:
        """Lists what the first part of a page shows, those with a value."""
        shown = dict(self.study)
        if self.descriptions is not None and result.read_series is not None:
            shown["SeriesDescription"] = self.descriptions.get(result.read_series, "")
        return [f"{_say_name(name)}: {_say_value(value)}" for name, value in shown.items() if value]


def _say_name(keyword: str) -> str:
    """Returns a DICOM keyword in words: PatientID is one word, StudyDate two."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", keyword)
    return keyword if words[-1].isupper() else " ".join(words).capitalize()


def _say_value(value: str) -> str:
    """Returns a date (PS3.5 6.2) with its parts separated, and another text as it is."""
    return f"{value[:4]}-{value[4:6]}-{value[6:]}" if re.fullmatch(r"(19|20)\d{6}", value) else value


def describe_study(
    result: StudyResult,
    views: Sequence[SliceView],
    pictures: Mapping[int, StripPicture],
    attributes: Attributes,
) -> dict[str, Any]:
    """Makes the content of a study's page; see ``ich.outputs.pages.render_study_page``."""
    analyzed = result.outcome is not None
    outcome = str(result.outcome) if analyzed else NOT_ANALYZED
    chosen = choose_slices(result) if analyzed else ()
    by_number = {view.number: view for view in views}
    shown = [by_number[number] for number in chosen if number in by_number]
    frame = find_frame(shown)
    positive = result.outcome is Outcome.POSITIVE
    facts = attributes.list_facts(result)
    return {
        "row_name": ROW,
        "row": json.dumps({"thumbnail": _draw_thumbnail(shown, frame), "facts": facts}),
        "title": f"Study {result.number}: {outcome}",
        "heading": f"Study {result.number}",
        "note": DISCLAIMER,
        "outcome": outcome,
        "analyzed": analyzed,
        "glance": describe_glance(result),
        "said": describe_outcome(result),
        "subtypes": list(_list_subtypes(result)) if positive else [],
        "facts": facts,
        "views": [_describe_view(result, view, frame) for view in shown],
        "views_title": "More key slices" if positive else "Other slices with a high probability",
        "views_caption": _explain_views(result, shown) if shown else "",
        "missing": list(_list_missing([n for n in chosen if n not in by_number], shown)),
        "reasons": [_split(Reason, each) for each in result.reasons],
        "similar": describe_likeness(result),
        "strip": list(_list_strip(result, chosen, pictures)),
        "strip_caption": _explain_strip(result, bool(pictures)) if analyzed else "",
        "labels": list(_list_labels(result)),
        "labels_caption": _explain_labels(result) if analyzed else "",
        **_list_series(result, attributes),
        "grounds": [{"text": each, "code": ""} for each in list_grounds(result)],
        "notes": [_split(Note, each) for each in result.notes],
        "left_out": [{"text": each, "code": ""} for each in list_left_out(result)],
        "algorithm": _list_algorithm(result),
        "limits": list_limits(result),
    }


def _draw_thumbnail(shown: Sequence[SliceView], frame: Frame) -> str:
    """Draws the first slice small, as the address of an image; empty without one."""
    if not shown:
        return ""
    jpeg = encode_jpeg(to_gray(shown[0].hu[frame]), shown[0].spacing, _THUMBNAIL)[0]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _split(kind: type[Reason] | type[Note], remark: Remark) -> dict[str, str]:
    said = ": ".join(filter(None, [find_sentence(remark.code, kind), remark.detail]))
    return {"text": said, "code": remark.code}


def _list_subtypes(result: StudyResult) -> Iterator[dict[str, Any]]:
    """Yields the subtypes that are present, and those that the model cannot decide."""
    for name in result.subtypes:
        yield {"text": f"{name} {show_prob(result.labels[name].prob)}", "present": True}
    for name in result.others:
        label = result.labels[name]
        if label.threshold is None:
            yield {"text": f"{name} {show_prob(label.prob)}, not decided", "present": False}


def _list_labels(result: StudyResult) -> Iterator[list[str]]:
    if result.labels:
        for name in dict.fromkeys((result.headline, *result.others)):
            label = result.labels[name]
            yield [name, *show_label(label), _DECIDED[label.positive]]


def _explain_labels(result: StudyResult) -> str:
    decided = result.labels[result.headline].threshold is not None
    return (
        f"Probabilities of the study, pooled over its slices by {result.algorithm.pooling}"
        + (", calibrated if there is a threshold" if decided else ", not calibrated")
        + ". The threshold is the lowest probability at which a label is called present. Subtypes are "
        "decided only in a POSITIVE study."
    )


def _describe_view(result: StudyResult, view: SliceView, frame: Frame) -> dict[str, Any]:
    beside = "in the subdural window" if isinstance(view.heat, str) else "under a heat map"
    return {
        "name": f"slice_{view.number:04d}",
        "png": encode_png(draw_view(view, frame)),
        "alt": f"Slice {view.number + 1} of the study in the brain window, and {beside}",
        "caption": " ".join(filter(None, [_name_slice(result, view.number) + ".", *_warn(view)])),
    }


def _warn(view: SliceView) -> Iterator[str]:
    if not view.knows_sides:
        yield "Left and right are unknown."
    if view.strays:
        yield "Most of the evidence lies outside the head or the skull, so do not rely on this heat map."


def _name_slice(result: StudyResult, number: int) -> str:
    """Names a slice, with its own probabilities."""
    found = result.slices[number]
    probs = found.calibrated or found.probs
    said = ", ".join(f"{name} {show_prob(probs[name])}" for name in [result.headline, *result.subtypes])
    name = result.name_slice(number).capitalize().replace("instancenumber", "InstanceNumber")
    place = "" if found.position is None else f", at {found.position:.1f} mm"
    return f"{name}{place}: {said}"


def _explain_views(result: StudyResult, shown: Sequence[SliceView]) -> str:
    sides = "They are viewed from the feet, so the patient's left (L) is on the right of a picture."
    if not all(view.knows_sides for view in shown):
        sides = (
            "Those with R and L are viewed from the feet, so the patient's left (L) is on the right of a "
            "picture. In the others the left side is unknown, because their files do not give it or the "
            "pixels contradict them."
        )
    heat = _HEAT.format(label=say_label(result.headline, result.labels))
    return f"Slices are cropped to the head and shown in the brain window. {sides} {heat}"


def _list_missing(lost: Sequence[int], shown: Sequence[SliceView]) -> Iterator[str]:
    """Yields which slices and heat maps are missing, and why, once for each reason."""
    if lost:
        yield f"{_name_slices(lost)}: not available. The file could not be read again."
    without: dict[str, list[int]] = {}
    for view in shown:
        if isinstance(view.heat, str):
            without.setdefault(view.heat, []).append(view.number)
    for why, numbers in without.items():
        yield f"Heat map of {_name_slices(numbers).lower()}: not available. {why}"


def _name_slices(numbers: Sequence[int]) -> str:
    return f"{'Slice' if len(numbers) == 1 else 'Slices'} {', '.join(str(number + 1) for number in numbers)}"


def _list_strip(
    result: StudyResult, chosen: Sequence[int], pictures: Mapping[int, StripPicture]
) -> Iterator[dict[str, Any]]:
    """Yields the bars of the strip, one for each image that the network saw."""
    calibrated = _is_calibrated(result)
    for number in list_middles(result.slices):
        each = result.slices[number]
        prob = ((each.calibrated if calibrated else None) or each.probs)[result.headline]
        picture = pictures.get(number)
        why = "" if each.left_out is None else f". It does not count: {each.left_out.detail}"
        yield {
            "number": number + 1,
            "text": _name_slice(result, number) + why,
            "height": round(100 * prob, 1),
            "is_key": number in result.key_slices,
            "is_first": number == next(iter(chosen), 0),
            "left_out": bool(why),
            "jpeg": None if picture is None else picture.jpeg,
            "size": (0, 0) if picture is None else picture.size,
            "knows_sides": picture is not None and picture.knows_sides,
        }


def _is_calibrated(result: StudyResult) -> bool:
    return all(each.calibrated is not None for each in result.slices)


def _explain_strip(result: StudyResult, has_pictures: bool) -> str:
    use = "Click a bar, or use the arrow keys, to see the slice. " if has_pictures else ""
    key = "Thick lines below mark key slices. " if result.key_slices else ""
    kind = "calibrated" if _is_calibrated(result) else "not calibrated"
    label = say_label(result.headline, result.labels)
    unit = "slice" if all(each.slab is None for each in result.slices) else "mean of slices"
    return (
        f"{use}A bar is the probability of {label} in one {unit} alone, from 0 to 1, {kind}. {key}Do not "
        "compare it with the study's probability, which is on another scale."
    )


def _list_series(result: StudyResult, attributes: Attributes) -> dict[str, Any]:
    names = attributes.descriptions
    header = ["series", "modality", "files", *(["description"] if names is not None else []), "use"]
    rows = []
    for number, series in enumerate(result.series, start=1):
        name = [] if names is None else [names.get(series.SeriesInstanceUID, "")]
        row = [str(number), series.Modality or "not known", f"{series.files:,}", *name, describe_fate(series)]
        rows.append(row)
    return {"series_header": header, "series": rows}


def _list_algorithm(result: StudyResult) -> list[list[str]]:
    algorithm = result.algorithm
    rows = [
        ["network", algorithm.name],
        ["version of ich", algorithm.version],
        ["SHA-256 of the weights", ", ".join(f"{digest[:16]}..." for digest in algorithm.weights)],
        ["test-time augmentation", ", ".join(algorithm.tta) or "none"],
        ["pooling of slices", algorithm.pooling],
        ["rule for the threshold", algorithm.rule or "no threshold"],
    ]
    if result.distance is not None and result.distance_limit is not None:
        distance = f"{result.distance:.2f} (1 is typical; the limit is {result.distance_limit:.2f})"
        rows.append(["distance from the training data", distance])
    return rows
