"""The CLAIM checklist, filled from the run as far as possible.

Items of Tejani et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update,
Radiology: Artificial Intelligence 2024;6:e240300.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ich import __version__
from ich.evaluate.figures import FEW
from ich.evaluation_report.document import DATA, ERRORS, OPERATING_POINTS, VERDICT, make_title
from ich.evaluation_report.limits import list_limits
from ich.evaluation_report.report_data import ReportData, describe_size, describe_subject
from ich.report.document import Document, Picture, Section, Table
from ich.schema import DISCLAIMER
from ich.tables import SETS

NOT_AVAILABLE = "not available"

_Fill = Callable[[ReportData], str]
_Answer: TypeAlias = _Fill | str | None  # None: only people know


def make_claim(data: ReportData) -> Document:
    """Makes the checklist. Every item is named, and filled or marked as not available."""
    sections, number = [], 0
    for title, items in _ITEMS.items():
        rows = []
        for item, answer in items:
            number += 1
            text = answer(data) if callable(answer) else answer
            rows.append([str(number), item, text or NOT_AVAILABLE])
        sections.append(Section(title, [Table(["item", "requirement", "answer"], rows)]))
    subtitle = (
        f"Filled from the run by ich {__version__}. Items that only people can answer are marked as "
        "not available. "
    )
    return Document("CLAIM 2024 checklist", subtitle + describe_subject(data), sections)


def _setting(*names: str) -> _Fill:
    def fill(data: ReportData) -> str:
        known = {name: data.run.settings[name] for name in names if name in data.run.settings}
        return "; ".join(f"{name}: {value}" for name, value in known.items())

    return fill


def _summarize(data: ReportData) -> str:
    level = data.main_level
    label = data.evaluation.labels.headline
    figures = data.evaluation.levels[level].labels[label]
    size = describe_size(data.predictions)
    return f"report.html, {VERDICT}. By {level}, {label}: AUROC {figures.auroc:.3f}, {size}"


def _describe_missing(data: ReportData) -> str:
    first = next(iter(data.evaluation.levels.values())).labels
    unknown = sum(each.counts.unknown for each in first.values())
    return f"unknown targets are left out, label by label: {unknown:,} of them"


def _describe_disjointness(data: ReportData) -> str:
    if data.run.leaky:
        return "slices: the sets share patients"
    if data.validation is not None:
        shared = data.predictions["PatientID"].isin(data.validation["PatientID"])
        number = data.predictions.loc[shared, "PatientID"].nunique()
        return f"patients shared by the validation set and the evaluated set: {number:,}"
    return ""


def _describe_partition(data: ReportData) -> str:
    parts = ", ".join(
        f"{SETS.get(part, part)} set {slices:,} slices of {patients:,} patients"
        for part, (slices, patients) in data.run.parts.items()
    )
    return "; ".join(filter(None, [data.run.settings.get("split", ""), parts]))


def _describe_uncertainty(data: ReportData) -> str:
    evaluation = data.evaluation
    return (
        f"95 % intervals from a bootstrap over patients ({evaluation.replicates:,} samples, seed "
        f"{evaluation.seed}); DeLong, with patients as clusters; no interval with fewer than {FEW} patients "
        "behind positives or negatives"
    )


def _describe_robustness(data: ReportData) -> str:
    effect = "by pooling method" if data.evaluation.pooling_effect else ""
    groups = "" if data.groups is None else f"by {', '.join(map(str, data.groups['column'].unique()))}"
    return "; ".join(filter(None, [effect, groups]))


def _describe_failures(data: ReportData) -> str:
    shown = any(isinstance(block, Picture) for block in data.galleries)
    return f"report.html, {ERRORS}" if shown else ""


_ITEMS: dict[str, tuple[tuple[str, _Answer], ...]] = {
    "Title and abstract": (
        (
            "Identification as a study of AI methodology, specifying the category of technology used "
            "(e.g., deep learning)",
            lambda data: f"{make_title(data.evaluation.labels)}; deep learning",
        ),
        ("Summary of study design, methods, results, and conclusions", _summarize),
    ),
    "Introduction": (
        (
            "Scientific and/or clinical background, including the intended use and role of the AI approach",
            f"report.html, {DATA}. {DISCLAIMER}",
        ),
        (
            "Study aims, objectives, and hypotheses",
            f"report.html, {DATA}; no hypothesis was registered",
        ),
    ),
    "Methods: study design": (
        (
            "Prospective or retrospective study",
            "retrospective: predictions on stored slices",
        ),
        ("Study goal", "evaluation of a model's probabilities"),
    ),
    "Methods: data": (
        ("Data sources", lambda data: "synthetic head CT" if data.run.phantom else ""),
        ("Inclusion and exclusion criteria", None),
        ("Data preprocessing", _setting("input", "augmentation")),
        ("Selection of data subsets", _describe_partition),
        ("De-identification methods", None),
        ("How missing data were handled", _describe_missing),
        (
            "Image acquisition protocol",
            lambda data: f"how scanners stored slices: {', '.join(data.encodings)}" if data.encodings else "",
        ),
    ),
    "Methods: reference standard": (
        ("Definition of method(s) used to obtain reference standard", None),
        ("Rationale for choosing the reference standard", None),
        ("Source of reference standard annotations", None),
        ("Annotation of test set", None),
        ("Measures of inter- and intra-rater variability of features described by the annotators", None),
    ),
    "Methods: data partitions": (
        ("How data were assigned to partitions", _setting("split")),
        ("Level at which partitions are disjoint", _describe_disjointness),
    ),
    "Methods: testing data": (("Intended sample size", None),),
    "Methods: model": (
        ("Detailed description of model", _setting("backbone", "input")),
        (
            "Software libraries, frameworks, and packages",
            f"ich {__version__}, PyTorch Lightning, timm",
        ),
        ("Initialization of model parameters", _setting("start")),
    ),
    "Methods: training": (
        (
            "Details of training approach",
            _setting("augmentation", "loss", "optimizer", "epochs", "batch size", "sampling", "seed"),
        ),
        (
            "Method of selecting the final model",
            lambda data: (
                "the epoch with the lowest weighted log loss on the validation set"
                if data.run.settings
                else ""
            ),
        ),
        (
            "Ensembling techniques",
            lambda data: (
                f"mean of the probabilities of {len(data.models)} models" if len(data.models) > 1 else "none"
            ),
        ),
    ),
    "Methods: evaluation": (
        (
            "Metrics of model performance",
            lambda data: (
                "AUROC, average precision, sensitivity, specificity, predictive values, F1, Brier score, "
                "calibration, weighted log loss; by " + ", ".join(data.evaluation.levels)
            ),
        ),
        ("Statistical measures of significance and uncertainty", _describe_uncertainty),
        ("Robustness or sensitivity analysis", _describe_robustness),
        (
            "Methods for explainability or interpretability",
            lambda data: (
                "HiResCAM heat maps of the worst false negatives and false positives" if data.heat else ""
            ),
        ),
        (
            "Evaluation on internal data",
            lambda data: f"{data.parts}: {describe_size(data.predictions)}" if data.run.parts else "",
        ),
        ("Testing on external data", None),
        ("Clinical trial registration", None),
    ),
    "Results: data": (
        (
            "Numbers of patients or examinations included and excluded",
            lambda data: f"included: {describe_size(data.predictions)}; excluded: not known",
        ),
        ("Demographic and clinical characteristics of cases in each partition", None),
    ),
    "Results: model performance": (
        (
            "Performance metrics and measures of statistical uncertainty",
            "report.html; metrics.json",
        ),
        (
            "Estimates of diagnostic performance and their precision",
            lambda data: f"report.html, {OPERATING_POINTS}, with {data.rule}" if data.rule else "",
        ),
        ("Failure analysis of incorrect results", _describe_failures),
    ),
    "Discussion": (
        ("Study limitations", lambda data: " ".join(list_limits(data))),
        (
            "Implications for practice, including intended use and/or clinical role",
            f"none: {DISCLAIMER}",
        ),
    ),
    "Other information": (
        ("Provide a reference to the full study protocol or to additional technical details", None),
        ("Statement about the availability of software, trained model, and/or data", None),
        ("Sources of funding and other support; role of funders", None),
    ),
}
