"""An evaluation as a document: the verdict first, then one section for each question, then how to repeat it.

In each section the most important level comes first. The other levels are details.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd

from ich import __version__
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
from ich.evaluation_report.verdict import make_verdict
from ich.report.document import Block, Details, Document, Listing, Missing, Picture, Section, Table, Text
from ich.schema.labels import RSNA_LABELS, LabelSet
from ich.tables import SETS

Pictures = Mapping[str, Picture]

VERDICT, DATA, DISCRIMINATION = "Verdict", "Data", "Discrimination"
OPERATING_POINTS, CALIBRATION, SUBGROUPS = "Operating points", "Calibration", "Subgroups"
ERRORS, COMPARISON, LIMITS = "Errors", "Comparison", "Limits"
REPRODUCTION = "How to reproduce"

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
    sections = {
        VERDICT: make_verdict(data),
        DATA: _describe_data(data),
        DISCRIMINATION: _describe_discrimination(data, pictures),
        OPERATING_POINTS: _describe_levels(data, pictures, _describe_operating_points),
        CALIBRATION: _describe_levels(data, pictures, _describe_calibration),
        SUBGROUPS: _describe_groups(data, pictures),
        ERRORS: _describe_errors(data, pictures),
        COMPARISON: _describe_comparison(data),
        LIMITS: _describe_limits(data),
        REPRODUCTION: _describe_reproduction(data),
    }
    return Document(
        make_title(data.evaluation.labels),
        describe_subject(data),
        [Section(title, list(blocks)) for title, blocks in sections.items()],
    )


def describe_task(labels: LabelSet) -> str:
    """Says what the model does, and what we ask."""
    task = (
        "CT of the head without contrast shows bleeding inside the skull. The model gives each slice a "
        f"probability for each of five subtypes ({', '.join(labels.subtypes)}) and for any of them."
        if labels == RSNA_LABELS
        else f"The model gives each slice of a head CT a probability for each of {', '.join(labels.names)}."
    )
    return (
        f"{task} We ask how "
        f"well these probabilities separate slices, studies and patients with {labels.finding} from those "
        "without. We ask whether the probabilities are well calibrated. And we count false negatives and "
        "false positives at a threshold that was chosen beforehand."
    )


def describe_data(data: ReportData) -> str:
    """Says what was evaluated."""
    return f"We evaluate the predictions for {data.parts}: {describe_size(data.predictions)}."


def _describe_data(data: ReportData) -> Iterator[Block]:
    yield Text(describe_task(data.evaluation.labels))
    yield Text(describe_data(data))
    if data.run.phantom:
        yield Text("The data are synthetic head CT with synthetic hemorrhages.", strong=True)
    if data.run.leaky:
        yield Text(
            "The sets share patients, because slices were split without regard to patients.", strong=True
        )
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
    yield from list_sizes(data)
    if not data.encodings:
        yield Missing("Scanner encodings", NO_INDEX)


def list_sizes(data: ReportData) -> Iterator[Table]:
    """Tabulates the sets of the run, and the encodings of the scanners, where they are known."""
    if data.run.parts:
        parts = {SETS.get(part, part): counts for part, counts in data.run.parts.items()}
        yield _tabulate_sizes("set", parts, "Training, validation and test set")
    if data.encodings:
        yield _tabulate_sizes("encoding", data.encodings, "How scanners stored the slices")


def _tabulate_sizes(name: str, sizes: Mapping[str, tuple[int, int]], caption: str) -> Table:
    """Tabulates numbers of slices and patients."""
    rows = [[each, f"{slices:,}", f"{patients:,}"] for each, (slices, patients) in sizes.items()]
    return Table([name, "slices", "patients"], rows, f"{caption}. Counts have no intervals")


_Describe = Callable[[ReportData, str, Pictures], Iterator[Block]]


def _describe_levels(data: ReportData, pictures: Pictures, describe: _Describe) -> Iterator[Block]:
    """Describes the main level, and the others as details."""
    yield from describe(data, data.main_level, pictures)
    for level in data.evaluation.levels:
        if level != data.main_level:
            yield Details(f"By {level}", list(describe(data, level, pictures)))


def _describe_discrimination(data: ReportData, pictures: Pictures) -> Iterator[Block]:
    yield from _describe_levels(data, pictures, _describe_areas)
    yield Details("Weighted log loss", [make_losses(data.evaluation)])
    if data.evaluation.pooling_effect:
        pooled: list[Block] = [make_pooling(data.evaluation), *_show(pictures, "pooling")]
        yield Details("From slices to studies", pooled)
    else:
        yield Missing("The effect of pooling", "The predictions were not evaluated by study.")


def _describe_areas(data: ReportData, level: str, pictures: Pictures) -> Iterator[Block]:
    figures = data.evaluation.levels[level].labels
    yield make_discrimination(data.evaluation, level)
    yield from _list_missing(list_reasons({label: each.auroc for label, each in figures.items()}))
    yield from _show(pictures, f"{level}_roc")
    if more := list(_show(pictures, f"{level}_precision_recall", f"{level}_histograms")):
        yield Details(f"Precision, recall and probabilities by {level}", more)
    if level in DRAWN_LEVELS and not any(name.startswith(f"{level}_") for name in pictures):
        yield Missing(f"Curves by {level}", _TOO_FEW)


def _describe_operating_points(data: ReportData, level: str, pictures: Pictures) -> Iterator[Block]:
    evaluation = data.evaluation
    figures = evaluation.levels[level].labels
    reasons = list_reasons({label: each.operating_point.sensitivity for label, each in figures.items()})
    if not has_operating_points(data, level):
        why = f"{'; '.join(reasons)}." if data.decisions else NO_VALIDATION
        yield Missing(f"Operating points by {level}", why)
        return
    yield make_operating(evaluation, level)
    yield from _show(pictures, f"{level}_confusion")
    predictive = make_predictive(evaluation, level)
    if predictive.rows:
        yield Details(f"Predictive values by {level}", [predictive])
    yield from _list_missing(reasons, "Not available at operating points:")


def has_operating_points(data: ReportData, level: str) -> bool:
    """Whether a label has an operating point at a level."""
    labels = data.evaluation.levels[level].labels.values()
    return any(not math.isnan(each.operating_point.threshold) for each in labels)


def _describe_calibration(data: ReportData, level: str, pictures: Pictures) -> Iterator[Block]:
    calibration = make_calibration(data.evaluation, level)
    if calibration.rows:
        yield calibration
        yield from _show(pictures, f"{level}_reliability")
    else:
        yield Missing(f"Calibration by {level}", _TOO_FEW)


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


def _describe_errors(data: ReportData, pictures: Pictures) -> Iterator[Block]:
    yield from data.galleries
    if "timelines" in pictures:
        yield Details("Probabilities along studies", [pictures["timelines"]])
    else:
        yield Missing("Timelines", "No study of several slices has a known target.")


def _describe_comparison(data: ReportData) -> Iterator[Block]:
    if data.comparison is None:
        yield Missing("Comparison", "A comparison needs the predictions of another model on the same slices.")
        return
    yield Text(say_compared(data), strong=True)
    yield make_models(data.comparison)
    yield from make_pairs(data.comparison)


def say_compared(data: ReportData) -> str:
    """Says which of the compared models all other sections describe."""
    if len(data.models) > 1:
        return f"All other sections describe the mean of the probabilities of {', '.join(data.models)}."
    return f"All other sections describe {next(iter(data.comparison.models if data.comparison else ()))}."


def _describe_limits(data: ReportData) -> Iterator[Block]:
    yield Listing(list_limits(data))
    yield Text("Next steps:", strong=True)
    yield Listing(list_steps(data))


def _describe_reproduction(data: ReportData) -> Iterator[Block]:
    yield Text(say_command(data))
    yield from (Text(text) for text in list_methods(data))
    if not data.decisions:
        yield Missing("Calibration and operating points", NO_VALIDATION)
    if data.run.settings:
        yield make_settings(data)
    else:
        yield Missing("How the model was trained", NO_RUN)


def say_command(data: ReportData) -> str:
    """Says the command that computes the same figures, without a name of a file or folder."""
    evaluation = data.evaluation
    options = {
        "pooling": next(iter(evaluation.levels.values())).pooling,
        "rule": f'"{data.rule}"' if data.rule else "",
        "calibration": data.method,
        "replicates": str(evaluation.replicates),
        "seed": str(evaluation.seed),
    }
    given = " ".join(f"--{name} {value}" for name, value in options.items() if value)
    return f"With the same inputs, ich {__version__} gives the same figures: ich evaluate PREDICTIONS {given}"


def list_methods(data: ReportData) -> list[str]:
    """Describes how slices are pooled, what the figures are, and what was fitted, one paragraph each."""
    evaluation = data.evaluation
    pooling = next(iter(evaluation.levels.values())).pooling
    methods = [
        f"Slices are pooled to series, studies and patients by {pooling}. A unit is positive "
        "if one of its slices is. AUROC is exact with ties. Average precision is the sum over thresholds "
        "of the gain in recall times the precision. Probabilities are clipped to [1e-15, 1 - 1e-15] before "
        "a logarithm.",
        "Intervals are 95 % percentile intervals from a bootstrap that draws patients with replacement "
        f"({evaluation.replicates:,} samples, seed {evaluation.seed}), because slices of one patient are "
        "not independent. DeLong's interval is given beside it, with patients as clusters. A figure needs "
        f"positives and negatives from at least {FEW} patients each. With fewer, it has no interval, and "
        "nothing is fitted or drawn.",
    ]
    if data.decisions:
        source = "" if data.validation is None else f" ({describe_size(data.validation)})"
        methods.append(
            f"Calibration ({data.method or 'none could be fitted'}) and operating points "
            f"({data.rule or 'none could be chosen'}) were fitted on "
            f"{data.evaluation.decided_on}{source} and applied unchanged."
        )
    return methods


def make_settings(data: ReportData) -> Table:
    """Tabulates how the model was trained."""
    rows = [[name, value] for name, value in data.run.settings.items()]
    return Table(["setting", "value"], rows, "Training settings. Settings have no patients and no intervals")


def _show(pictures: Pictures, *names: str) -> Iterator[Picture]:
    yield from (pictures[name] for name in names if name in pictures)
