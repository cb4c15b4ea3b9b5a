"""A study's result as a page: what was found, where, how sure the model is, and reasons for caution.

The page names no patient, instance, file or folder. A study, its series and its slices have the same numbers
as in the tables beside it. Because the page shows the patient's head, only its owner can read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ich.files import for_owner_only
from ich.outputs.pages.drawing import Frame, draw_timeline, draw_view, find_frame
from ich.outputs.pages.views import SliceView, choose_slices
from ich.outputs.sentences import (
    describe_called,
    describe_glance,
    describe_outcome,
    list_grounds,
    list_left_out,
    list_limits,
    show_label,
    show_prob,
)
from ich.report.document import Block, Document, Listing, Missing, Picture, Section, Table, Text
from ich.report.figures import encode_png
from ich.report.html import write_html
from ich.schema.codes import Note, Reason, SetAside, describe_code
from ich.schema.labels import say_label
from ich.schema.results import Outcome, SeriesResult, StudyResult

__all__ = ["write_study_page"]

_HEAT = (
    "On the right is a heat map of the evidence for {label}. Lines mark a quarter (dotted), half "
    "(dashed) and three quarters (solid) of its peak, and the cross marks the peak. Without a heat map, "
    "the right side shows the subdural window. A map shows where in a slice the evidence lies, not how "
    "much there is."
)
_DECIDED = {True: "present", False: "absent", None: "not decided"}


def write_study_page(result: StudyResult, views: Sequence[SliceView], path: str | Path) -> None:
    """Writes a study's page, completely or not at all.

    Args:
        result: The study's result.
        views: Pictures of the slices that ``choose_slices`` names, from ``make_views``; a missing one is
            marked as missing.
        path: The page's path.
    """
    with for_owner_only():
        write_html(make_document(result, views), path)


def make_document(result: StudyResult, views: Sequence[SliceView]) -> Document:
    """Makes a study's page; see ``write_study_page``."""
    sections = [Section("Result", list(_say_result(result)))]
    if result.outcome is not None:
        positive = result.outcome is Outcome.POSITIVE
        title = "Key slices" if positive else "Slices with the highest probability"
        sections += [
            Section("Labels", [_tabulate_labels(result)]),
            Section(title, list(_show_slices(result, views))),
            Section("Probability along the slices", [_picture_timeline(result)]),
        ]
    sections += [
        Section("Series", [_tabulate_series(result)]),
        Section("Algorithm and limits", [_tabulate_algorithm(result), Listing(list_limits(result))]),
    ]
    outcome = "NOT READ" if result.outcome is None else str(result.outcome)
    return Document(f"Study {result.number}: {outcome}", describe_glance(result), sections)


def _say_result(result: StudyResult) -> Iterator[Block]:
    yield Text(describe_outcome(result), strong=True)
    if result.outcome is None:
        return
    if result.outcome is Outcome.POSITIVE:
        yield Text(describe_called(result))
    if result.reasons:
        against = result.outcome is Outcome.POSITIVE
        yield Text("Reasons for caution:" if against else "Why:")
        yield Listing([describe_code(Reason, reason.code, reason.detail) for reason in result.reasons])
    else:
        yield Text("These checks passed:")
        yield Listing(list_grounds(result))
    if result.notes:
        yield Text("Notes, which do not count against a negative result:")
        yield Listing([describe_code(Note, note.code, note.detail) for note in result.notes])
    if left_out := list_left_out(result):
        yield Text("These slices do not count for the study:")
        yield Listing(left_out)


def _tabulate_labels(result: StudyResult) -> Table:
    rows = []
    for name in dict.fromkeys((result.headline, *result.others)):
        label = result.labels[name]
        rows.append([name, *show_label(label), _DECIDED[label.positive]])
    decided = result.labels[result.headline].threshold is not None
    caption = (
        f"Probabilities of the study, pooled over its slices by {result.algorithm.pooling}"
        + (", calibrated if there is an operating point" if decided else ", not calibrated")
        + ". The operating point is the lowest probability at which a label is called present. Subtypes "
        "are decided only in a POSITIVE study."
    )
    return Table(["label", "probability", "operating point", "decision"], rows, caption)


def _show_slices(result: StudyResult, views: Sequence[SliceView]) -> Iterator[Block]:
    chosen = choose_slices(result)
    by_number = {view.number: view for view in views}
    shown = [by_number[number] for number in chosen if number in by_number]
    if result.outcome is not Outcome.POSITIVE:
        yield Text(
            "The study was not called positive. Look at these slices first, to check whether "
            "something was missed."
        )
    if shown:
        yield Text(
            f"Slices are cropped to the head and shown in the brain window. {_say_sides(shown)} "
            + _HEAT.format(label=say_label(result.headline, result.labels))
        )
    frame = find_frame(shown)
    for view in shown:
        yield _picture_view(result, view, frame)
    if lost := [number for number in chosen if number not in by_number]:
        yield Missing(_name_slices(lost), "The file could not be read again.")
    yield from _list_without_heat(shown)


def _list_without_heat(shown: Sequence[SliceView]) -> Iterator[Missing]:
    """Yields why slices have no heat map, once for each reason."""
    without: dict[str, list[int]] = {}
    for view in shown:
        if isinstance(view.heat, str):
            without.setdefault(view.heat, []).append(view.number)
    for why, numbers in without.items():
        yield Missing(f"Heat map of {_name_slices(numbers).lower()}", why)


def _say_sides(shown: Sequence[SliceView]) -> str:
    """Says from where slices are viewed, and where the patient's left is."""
    if all(view.knows_sides for view in shown):
        return "They are viewed from the feet, so the patient's left (L) is on the right of a picture."
    return (
        "Those with R and L are viewed from the feet, so the patient's left (L) is on the right of a "
        "picture. In the others the left side is unknown, because their files do not give it or the pixels "
        "contradict them."
    )


def _name_slices(numbers: Sequence[int]) -> str:
    return f"{'Slice' if len(numbers) == 1 else 'Slices'} {', '.join(str(number + 1) for number in numbers)}"


def _picture_view(result: StudyResult, view: SliceView, frame: Frame) -> Picture:
    found = result.slices[view.number]
    probs = found.calibrated or found.probs
    named = [result.headline, *result.subtypes]
    place = "" if found.position is None else f", at {found.position:.1f} mm"
    said = ", ".join(f"{name} {show_prob(probs[name])}" for name in named)
    kind = "calibrated" if found.calibrated else "not calibrated"
    alone = "this slice" if len(result.list_slab(view.number)) == 1 else "this mean"
    name = result.name_slice(view.number).capitalize().replace("instancenumber", "InstanceNumber")
    caption = (
        f"{name}{place}. Probability of {alone} alone, {kind}: {said}. Do not compare it with the "
        "study's probabilities and operating points, which are on another scale."
    )
    beside = "in the subdural window" if isinstance(view.heat, str) else "under a heat map"
    alt = f"Slice {view.number + 1} of the study in the brain window, and {beside}"
    return Picture(f"slice_{view.number:04d}", encode_png(draw_view(view, frame)), caption, alt)


def _picture_timeline(result: StudyResult) -> Picture:
    calibrated = all(each.calibrated is not None for each in result.slices)
    values = [(each.calibrated if calibrated else None) or each.probs for each in result.slices]
    highest = max(range(len(values)), key=lambda number: values[number][result.headline])
    kind = "calibrated" if calibrated else "not calibrated"
    called = ", ".join((result.headline, *result.subtypes))
    caption = (
        f"Probability of each slice, {kind}, for {called}. Slices are counted from 1 in order of position. "
        "A triangle marks a slice that is shown above. The study's probability and operating point are on "
        "another scale, so they are not drawn."
    )
    label = say_label(result.headline, result.labels)
    alt = f"Probability along the slices; the highest for {label} is at slice {highest + 1}"
    return Picture("timeline", encode_png(draw_timeline(result)), caption, alt)


def _tabulate_series(result: StudyResult) -> Table:
    rows = [
        [
            str(number),
            series.Modality or "not known",
            f"{series.files:,}",
            _say_fate(series),
        ]
        for number, series in enumerate(result.series, start=1)
    ]
    return Table(["series", "modality", "files", "how it was used"], rows, "All series of the study.")


def _say_fate(series: SeriesResult) -> str:
    remark = series.set_aside
    return "read" if remark is None else f"not read: {describe_code(SetAside, remark.code, remark.detail)}"


def _tabulate_algorithm(result: StudyResult) -> Table:
    algorithm = result.algorithm
    rows = [
        ["network", algorithm.name],
        ["version of ich", algorithm.version],
        ["SHA-256 of the weights", ", ".join(digest[:16] for digest in algorithm.weights)],
        ["test-time augmentation", ", ".join(algorithm.tta) or "none"],
        ["pooling of slices", algorithm.pooling],
        ["rule for the operating point", algorithm.rule or "no operating point"],
    ]
    if result.distance is not None and result.distance_limit is not None:
        distance = (
            f"{result.distance:.2f} (1 is typical; above {result.distance_limit:.2f} the study is "
            "out of distribution)"
        )
        rows.append(["distance from the training data", distance])
    return Table(["algorithm", "value"], rows, "First 16 digits of each SHA-256.")
