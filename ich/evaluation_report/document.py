"""An evaluation as a document in the order of a paper: problem, data, method, results, limits, next steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from ich.evaluate.figures import FEW
from ich.evaluation_report.captions import DRAWN_LEVELS
from ich.evaluation_report.limits import list_few, list_limits, list_steps
from ich.evaluation_report.report_data import (
    NO_INDEX,
    NO_RUN,
    NO_VALIDATION,
    ReportData,
    describe_size,
    describe_subject,
    name_target,
)
from ich.evaluation_report.tables import (
    list_reasons,
    make_calibration,
    make_counts,
    make_discrimination,
    make_losses,
    make_models,
    make_operating,
    make_pairs,
    make_pooling,
    make_predictive,
    make_subgroups,
)
from ich.report.document import Block, Document, Listing, Missing, Picture, Section, Table, Text
from ich.schema.labels import RSNA_LABELS, LabelSet, say_label
from ich.schema.shares import show_number
from ich.tables import SETS, say

Pictures = Mapping[str, Picture]

_TOO_FEW = "No label has enough patients with positives and negatives."


def make_title(labels: LabelSet) -> str:
    """Makes the title of a report."""
    return f"Detecting {name_target(labels)} in head CT: an evaluation"


def make_document(data: ReportData, pictures: Pictures) -> Document:
    """Lays an evaluation out as a report.

    Args:
        data: The study.
        pictures: Its pictures, from ``plan_pictures``.
    """
    sections = [
        Section("Problem", list(_describe_problem(data.evaluation.labels))),
        Section("Data", list(_describe_data(data))),
        Section("Method", list(_describe_method(data))),
        Section("Results in short", list(_summarize(data))),
    ]
    sections += [
        Section(f"Results by {level}", list(_describe_level(data, level, pictures)))
        for level in data.evaluation.levels
    ]
    sections += [
        Section("From slices to studies", list(_describe_pooling(data, pictures))),
        Section("Subgroups", list(_describe_groups(data, pictures))),
        Section("Comparison of models", list(_describe_comparison(data))),
        Section("Worst false negatives and false positives", list(data.galleries)),
        Section("Limits", [Listing(list_limits(data))]),
        Section("Next steps", [Listing(list_steps(data))]),
    ]
    return Document(make_title(data.evaluation.labels), describe_subject(data), sections)


def make_deck(data: ReportData, pictures: Pictures) -> Document:
    """Lays an evaluation out as a short deck: what was done, the figures that matter most, every picture."""
    evaluation = data.evaluation
    galleries = [block for block in data.galleries if isinstance(block, Picture)]
    sections = [
        Section("Problem", list(_describe_problem(data.evaluation.labels))),
        Section("Data", [make_counts(evaluation)]),
        Section("Results in short", list(_summarize(data))),
        *(
            Section(f"Results by {level}", list(_list_main_tables(data, level)))
            for level in evaluation.levels
        ),
        *(Section(picture.caption.partition(".")[0], [picture]) for picture in pictures.values()),
        *(Section("Worst false negatives and false positives", [picture]) for picture in galleries),
        Section("Limits", [Listing(list_limits(data))]),
        Section("Next steps", [Listing(list_steps(data))]),
    ]
    return Document(make_title(data.evaluation.labels), describe_subject(data), sections)


def _describe_problem(labels: LabelSet) -> Iterator[Block]:
    task = (
        "CT of the head without contrast shows bleeding inside the skull. The model gives each slice a "
        f"probability for each of five subtypes ({', '.join(labels.subtypes)}) and for any of them."
        if labels == RSNA_LABELS
        else f"The model gives each slice of a head CT a probability for each of {', '.join(labels.names)}."
    )
    yield Text(
        f"{task} We ask how "
        f"well these probabilities separate slices, studies and patients with {labels.finding} from those "
        "without. We ask whether the probabilities are well calibrated. And we count false negatives and "
        "false positives at a threshold that was chosen beforehand."
    )


def _describe_data(data: ReportData) -> Iterator[Block]:
    yield Text(f"We evaluate the predictions for {data.parts}: {describe_size(data.predictions)}.")
    if data.run.phantom:
        yield Text("The data are synthetic head CT with synthetic hemorrhages.", strong=True)
    if data.run.leaky:
        yield Text(
            "The sets share patients, because slices were split without regard to patients.", strong=True
        )
    if data.run.parts:
        parts = {SETS.get(part, part): counts for part, counts in data.run.parts.items()}
        yield _tabulate_sizes("set", parts, "Training, validation and test set")
    yield make_counts(data.evaluation)
    first = next(iter(data.evaluation.levels.values())).labels
    if few := list_few(first):
        yield Text(
            f"Few patients have positives: {few}. With fewer than {FEW}, a figure has no interval and means "
            "next to nothing.",
            strong=True,
        )
    unknown = {label: each.counts.unknown for label, each in first.items() if each.counts.unknown}
    if unknown:
        listed = ", ".join(f"{label} {number:,}" for label, number in unknown.items())
        yield Text(f"Unknown targets are left out, label by label: {listed}.")
    if data.encodings:
        yield _tabulate_sizes("encoding", data.encodings, "How scanners stored the slices")
    else:
        yield Missing("Scanner encodings", NO_INDEX)


def _tabulate_sizes(name: str, sizes: Mapping[str, tuple[int, int]], caption: str) -> Table:
    """Tabulates numbers of slices and patients."""
    rows = [[each, f"{slices:,}", f"{patients:,}"] for each, (slices, patients) in sizes.items()]
    return Table([name, "slices", "patients"], rows, f"{caption}. Counts have no intervals")


def _describe_method(data: ReportData) -> Iterator[Block]:
    evaluation = data.evaluation
    if data.run.settings:
        rows = [[name, value] for name, value in data.run.settings.items()]
        yield Table(
            ["setting", "value"],
            rows,
            "Training settings. Settings have no patients and no intervals",
        )
    else:
        yield Missing("How the model was trained", NO_RUN)
    pooling = next(iter(evaluation.levels.values())).pooling
    yield Text(
        f"Slices are pooled to series, studies and patients by {pooling}. A unit is positive "
        "if one of its slices is. AUROC is exact with ties. Average precision is the sum over thresholds "
        "of the gain in recall times the precision. Probabilities are clipped to [1e-15, 1 - 1e-15] before "
        "a logarithm."
    )
    yield Text(
        "Intervals are 95 % percentile intervals from a bootstrap that draws patients with replacement "
        f"({evaluation.replicates:,} samples, seed {evaluation.seed}), because slices of one patient are "
        "not independent. DeLong's interval is given beside it, with patients as clusters. A figure needs "
        f"positives and negatives from at least {FEW} patients each. With fewer, it has no interval, and "
        "nothing is fitted or drawn."
    )
    if data.decisions:
        source = "" if data.validation is None else f" ({describe_size(data.validation)})"
        yield Text(
            f"Calibration ({data.method or 'none could be fitted'}) and operating points "
            f"({data.rule or 'none could be chosen'}) were fitted on "
            f"{data.evaluation.decided_on}{source} and applied unchanged."
        )
    else:
        yield Missing("Calibration and operating points", NO_VALIDATION)


def _summarize(data: ReportData) -> Iterator[Block]:
    labels = data.evaluation.labels
    name = say_label(labels.headline, labels.names)
    for level in (level for level in ("study", "slice") if level in data.evaluation.levels):
        figures = data.evaluation.levels[level]
        either = figures.labels[labels.headline]
        basis = (
            f"{say(either.counts.positives, level)} with and {either.counts.negatives:,} without "
            f"{labels.finding}"
        )
        if either.auroc.reason and math.isnan(either.auroc.value):
            yield Text(f"By {level}, {name}: not available, {either.auroc.reason} ({basis}).", strong=True)
            continue
        point = either.operating_point
        called = (
            f" At the threshold of {show_number(point.threshold)}, sensitivity {point.sensitivity:.3f} and "
            f"specificity {point.specificity:.3f}, with {point.false_negatives:,} false negatives and "
            f"{point.false_positives:,} false positives."
            if not math.isnan(point.threshold)
            else ""
        )
        yield Text(f"By {level}, {name}: AUROC {either.auroc:.3f} ({basis}).{called}", strong=True)
    yield make_losses(data.evaluation)


def _describe_level(data: ReportData, level: str, pictures: Pictures) -> Iterator[Block]:
    evaluation = data.evaluation
    figures = evaluation.levels[level].labels
    yield make_discrimination(evaluation, level)
    yield from _list_missing(list_reasons({label: each.auroc for label, each in figures.items()}))
    yield from _show(pictures, f"{level}_roc", f"{level}_precision_recall", f"{level}_histograms")
    sensitivities = {label: each.operating_point.sensitivity for label, each in figures.items()}
    if _has_operating_points(data, level):
        yield make_operating(evaluation, level)
        yield from _show(pictures, f"{level}_confusion")
        predictive = make_predictive(evaluation, level)
        if predictive.rows:
            yield predictive
        yield from _list_missing(list_reasons(sensitivities), "Not available at operating points:")
    else:
        reasons = list_reasons(sensitivities)
        yield Missing(
            f"Operating points by {level}", f"{'; '.join(reasons)}." if data.decisions else NO_VALIDATION
        )
    calibration = make_calibration(evaluation, level)
    if calibration.rows:
        yield calibration
        yield from _show(pictures, f"{level}_reliability")
    else:
        yield Missing(f"Calibration by {level}", _TOO_FEW)
    if level in DRAWN_LEVELS and not any(name.startswith(f"{level}_") for name in pictures):
        yield Missing(f"Curves by {level}", _TOO_FEW)


def _list_main_tables(data: ReportData, level: str) -> Iterator[Table]:
    yield make_discrimination(data.evaluation, level)
    if _has_operating_points(data, level):
        yield make_operating(data.evaluation, level)


def _has_operating_points(data: ReportData, level: str) -> bool:
    labels = data.evaluation.levels[level].labels.values()
    return any(not math.isnan(each.operating_point.threshold) for each in labels)


def _describe_pooling(data: ReportData, pictures: Pictures) -> Iterator[Block]:
    if data.evaluation.pooling_effect:
        yield make_pooling(data.evaluation)
        yield from _show(pictures, "pooling")
    else:
        yield Missing("The effect of pooling", "The predictions were not evaluated by study.")
    if "timelines" in pictures:
        yield pictures["timelines"]
    else:
        yield Missing("Timelines", "No study of several slices has a known target.")


def _describe_groups(data: ReportData, pictures: Pictures) -> Iterator[Block]:
    if data.groups is None:
        yield Missing("Subgroups", NO_INDEX)
        return
    yield from (picture for name, picture in pictures.items() if name.startswith("subgroups_"))
    yield make_subgroups(data.groups, "slice")
    yield from _list_missing(sorted(set(_list_reasons_of_groups(data.groups))))


def _list_missing(
    reasons: Sequence[str], title: str = "Without an interval, or not available:"
) -> Iterator[Block]:
    if reasons:
        yield Text(title)
        yield Listing(reasons)


def _list_reasons_of_groups(groups: pd.DataFrame) -> Iterator[str]:
    for _, row in groups[groups["figure"] == "auroc"].iterrows():
        if row["reason"]:
            yield f"{row['column']} {row['group']}, {row['label']}: {row['reason']}"


def _describe_comparison(data: ReportData) -> Iterator[Block]:
    if data.comparison is None:
        yield Missing("Comparison", "A comparison needs the predictions of another model on the same slices.")
        return
    if len(data.models) > 1:
        yield Text(
            f"All other sections describe the mean of the probabilities of {', '.join(data.models)}.",
            strong=True,
        )
    else:
        yield Text(f"All other sections describe {next(iter(data.comparison.models))}.", strong=True)
    yield make_models(data.comparison)
    yield from make_pairs(data.comparison)


def _show(pictures: Pictures, *names: str) -> Iterator[Picture]:
    yield from (pictures[name] for name in names if name in pictures)
