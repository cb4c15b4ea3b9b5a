"""An evaluation as a deck of ten slides, which tell the same story every time.

A slide is left out if nothing is known for it. Without another model, the comparison is of the methods that
pool slices to studies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ich.evaluation_report.document import (
    CALIBRATION,
    COMPARISON,
    DATA,
    DISCRIMINATION,
    ERRORS,
    LIMITS,
    OPERATING_POINTS,
    REPRODUCTION,
    SUBGROUPS,
    VERDICT,
    Pictures,
    describe_data,
    describe_task,
    has_operating_points,
    list_methods,
    list_sizes,
    make_settings,
    make_title,
    say_command,
    say_compared,
)
from ich.evaluation_report.limits import list_limits, list_steps
from ich.evaluation_report.report_data import ReportData, describe_subject
from ich.evaluation_report.tables import (
    make_calibration,
    make_counts,
    make_discrimination,
    make_models,
    make_operating,
    make_pairs,
    make_pooling,
    make_subgroups,
)
from ich.evaluation_report.verdict import list_errors, make_verdict, say_calibration, say_main_figure
from ich.report.document import Deck, Listing, Picture, Plain, Slide, Table, Text

_CALIBRATION_COLUMNS = ("label", "slope", "in the large", "expected error")
_OPERATING_COLUMNS = ("label", "threshold", "sensitivity", "specificity", "TP / FN / TN / FP")
_AREA_COLUMNS = ("label", "positives (patients)", "AUROC", "average precision")


def make_deck(data: ReportData, pictures: Pictures) -> Deck:
    """Lays an evaluation out as slides.

    Args:
        data: The study.
        pictures: Its pictures, from ``plan_pictures``.
    """
    slides = [
        Slide(VERDICT, [list(make_verdict(data))]),
        _show_data(data, pictures),
        _show_discrimination(data, pictures),
        _show_operating_points(data, pictures),
        _show_calibration(data, pictures),
        _show_subgroups(data, pictures),
        _show_errors(data, pictures),
        _show_comparison(data, pictures),
        _show_limits(data),
        _show_reproduction(data),
    ]
    shown = [slide for slide in slides if slide is not None]
    return Deck(make_title(data.evaluation.labels), describe_subject(data), shown)


def _show_data(data: ReportData, pictures: Pictures) -> Slide:
    words: list[Plain] = [
        Text(describe_task(data.evaluation.labels)),
        Text(describe_data(data)),
        *list_sizes(data),
    ]
    picture = _take(pictures, f"{data.main_level}_histograms", "slice_histograms")
    return _beside(DATA, [*words, make_counts(data.evaluation)], picture)


def _show_discrimination(data: ReportData, pictures: Pictures) -> Slide:
    level = data.main_level
    words: list[Plain] = [
        Text(say_main_figure(data), strong=True),
        _keep(make_discrimination(data.evaluation, level), _AREA_COLUMNS),
    ]
    return _beside(DISCRIMINATION, words, _take(pictures, f"{level}_roc", "slice_roc"))


def _show_operating_points(data: ReportData, pictures: Pictures) -> Slide | None:
    """Shows the main level, or else the first one with an operating point."""
    levels = [data.main_level, *data.evaluation.levels]
    level = next((each for each in levels if has_operating_points(data, each)), None)
    if level is None:
        return None
    table = _keep(make_operating(data.evaluation, level), _OPERATING_COLUMNS)
    return _beside(OPERATING_POINTS, [table], _take(pictures, f"{level}_confusion"))


def _show_calibration(data: ReportData, pictures: Pictures) -> Slide | None:
    table = make_calibration(data.evaluation, data.main_level)
    if not table.rows:
        return None
    words: list[Plain] = [Text(say_calibration(data), strong=True), _keep(table, _CALIBRATION_COLUMNS)]
    return _beside(CALIBRATION, words, _take(pictures, f"{data.main_level}_reliability"))


def _show_subgroups(data: ReportData, pictures: Pictures) -> Slide | None:
    if data.groups is None:
        return None
    picture = [each for name, each in pictures.items() if name.startswith("subgroups_")][:1]
    return _beside(SUBGROUPS, [make_subgroups(data.groups, "slice")], picture)


def _show_errors(data: ReportData, pictures: Pictures) -> Slide | None:
    """Shows the worst false negatives and false positives, or else the probabilities along studies."""
    galleries = [block for block in data.galleries if isinstance(block, Picture)]
    worst = [picture for picture in galleries if picture.name.endswith("_1")]  # the first of each kind
    shown = [*worst, *_take(pictures, "timelines")][:2]
    if not shown:
        return None
    words = Listing(list_errors(data))
    return Slide(ERRORS, [[words], *([picture] for picture in shown)], (2, 3, 3) if shown[1:] else (2, 3))


def _show_comparison(data: ReportData, pictures: Pictures) -> Slide | None:
    if data.comparison is not None:
        pairs = list(make_pairs(data.comparison))[:1]
        return Slide(COMPARISON, [[Text(say_compared(data)), make_models(data.comparison), *pairs]])
    if not data.evaluation.pooling_effect:
        return None
    words: list[Plain] = [make_pooling(data.evaluation)]
    return _beside(f"{COMPARISON} of the methods that pool slices", words, _take(pictures, "pooling"))


def _show_limits(data: ReportData) -> Slide:
    steps: list[Plain] = [Text("Next steps", strong=True), Listing(list_steps(data))]
    return Slide(LIMITS, [[Listing(list_limits(data))], steps])


def _show_reproduction(data: ReportData) -> Slide:
    words: list[Plain] = [Text(say_command(data), strong=True), *map(Text, list_methods(data))]
    settings: list[list[Plain]] = [[make_settings(data)]] if data.run.settings else []
    return Slide(REPRODUCTION, [words, *settings])


def _beside(title: str, words: Sequence[Plain], pictures: Sequence[Picture]) -> Slide:
    """Makes a slide of words and tables with a picture at their right, if there is one."""
    return Slide(title, [words, pictures], (8, 5)) if pictures else Slide(title, [words])


def _take(pictures: Pictures, *names: str) -> list[Picture]:
    """Takes the first of the named pictures that there is, in a list, or none."""
    return [pictures[name] for name in names if name in pictures][:1]


def _keep(table: Table, columns: Iterable[str]) -> Table:
    """Keeps some columns of a table, as a slide has less room than a page."""
    places = [table.header.index(column) for column in columns]
    return replace(
        table,
        header=[table.header[place] for place in places],
        rows=[[row[place] for place in places] for row in table.rows],
    )
