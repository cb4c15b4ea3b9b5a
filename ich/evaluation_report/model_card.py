"""A model card filled from the run.

After the verdict, it has the headings of Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Iterator

from ich import __version__
from ich.evaluate.figures import FEW
from ich.evaluation_report.document import VERDICT
from ich.evaluation_report.limits import list_limits
from ich.evaluation_report.report_data import (
    NO_INDEX,
    NO_RUN,
    ReportData,
    describe_size,
    describe_subject,
    name_target,
)
from ich.evaluation_report.run import describe_input
from ich.evaluation_report.tables import (
    make_calibration,
    make_counts,
    make_discrimination,
    make_losses,
    make_operating,
    make_subgroups,
)
from ich.evaluation_report.verdict import make_verdict
from ich.model_files.metadata import ModelMetadata
from ich.report.document import Block, Document, Listing, Missing, Section, Table, Text

_PEOPLE = "This program does not know this. Add it by hand."


def make_model_card(data: ReportData) -> Document:
    """Makes a model card: what a reader must know about a model before using it."""
    sections = [
        Section(VERDICT, list(make_verdict(data))),
        Section("Model details", list(_describe_model(data))),
        Section("Intended use", list(_describe_use(data.evaluation.labels.finding))),
        Section("Factors", list(_describe_factors(data))),
        Section("Metrics", list(_describe_metrics(data))),
        Section("Evaluation data", list(_describe_evaluation_data(data))),
        Section("Training data", list(_describe_training_data(data))),
        Section("Quantitative analyses", list(_list_analyses(data))),
        Section("Ethical considerations", list(_list_ethics(data.evaluation.labels.finding))),
        Section("Caveats and recommendations", [Listing(list_limits(data))]),
    ]
    title = f"Model card: {name_target(data.evaluation.labels)} in head CT"
    return Document(title, describe_subject(data), sections)


def make_imported_card(metadata: ModelMetadata) -> Document:
    """Makes the model card of an imported model. Only its metadata are known."""
    labels, model = metadata.labels, metadata.model
    origin = "not known" if metadata.origin is None else metadata.origin.describe()
    rows = [
        ["backbone", model.backbone],
        ["input", describe_input(model.input.to_dict())],
        ["labels", ", ".join(labels.names)],
        ["origin", origin],
    ]
    why = "This program imported the weights and did not train them. See their author's description."
    caveats = [
        "It has no calibration and no operating point. Until they are fitted, every study is INDETERMINATE.",
        "It has no reference to its training data. A study that is unlike them is not recognized.",
        "This program prepares slices in its own way: it resizes Hounsfield units, then applies windows.",
    ]
    sections = [
        Section("Model details", [Table(["setting", "value"], rows, "How it is built")]),
        Section("Intended use", list(_describe_use(labels.finding))),
        Section("Training data", [Missing("Training data", why)]),
        Section("Quantitative analyses", [Missing("Figures", "Measure it with ich evaluate.")]),
        Section("Ethical considerations", list(_list_ethics(labels.finding))),
        Section("Caveats and recommendations", [Listing(caveats)]),
    ]
    return Document("Model card: an imported model", f"{model.backbone}, imported weights", sections)


def _describe_model(data: ReportData) -> Iterator[Block]:
    names = ", ".join(data.evaluation.labels.names)
    yield Text(
        f"A network that gives each slice a probability for each of {names}. Written by ich {__version__}."
    )
    if data.members:
        yield Text(
            f"An ensemble of {data.members} models, whose probabilities are averaged. Each has another fold "
            "of the patients as its test set. The figures here are of these test sets. Each patient is "
            "predicted by the one model that did not learn from this patient, and not by the mean."
        )
    if len(data.models) > 1:
        yield Text(f"The evaluation uses the mean of the probabilities of {len(data.models)} models.")
    if data.run.settings:
        rows = [[name, value] for name, value in data.run.settings.items()]
        yield Table(["setting", "value"], rows, "How it was trained")
    else:
        yield Missing("Architecture and training", NO_RUN)
    yield Missing("Developers, date, license and contact", _PEOPLE)


def _describe_use(finding: str) -> Iterator[Block]:
    yield Text(f"Primary use: research on the detection of {finding} in head CT without contrast.")
    yield Text("Primary users: researchers.")
    yield Text(
        "Out of scope: any decision about a patient, including triage; CT with contrast, other modalities "
        f"and other parts of the body; {finding} outside the skull.",
        strong=True,
    )


def _describe_factors(data: ReportData) -> Iterator[Block]:
    yield Text(
        "Relevant: scanner and how it stores values, slice thickness, tilt, size and age of the "
        f"{data.evaluation.labels.finding}, age of the patient, metal, earlier surgery, and structures that "
        "look like blood."
    )
    if data.groups is None:
        yield Missing("Evaluated by factor", NO_INDEX)
    else:
        columns = ", ".join(map(str, data.groups["column"].unique()))
        yield Text(f"Evaluated: {columns}; see the quantitative analyses.")
    yield Missing("Age and sex", "The input tables do not contain them.")


def _describe_metrics(data: ReportData) -> Iterator[Block]:
    levels = ", ".join(f"by {level}" for level in data.evaluation.levels)
    rule = f"chosen on {data.evaluation.decided_on} with {data.rule}" if data.rule else "not available"
    yield Listing(
        [
            f"Discrimination: AUROC and average precision, {levels}.",
            f"Operating points: {rule}.",
            "Calibration: Brier score, calibration slope and intercept, and expected calibration error. "
            f"Calibration method: {data.method or 'not available'}.",
            "The weighted log loss of the RSNA 2019 challenge.",
            f"Intervals: 95 %, from a bootstrap over patients with {data.evaluation.replicates:,} samples. "
            f"A figure has no interval if a label's positives or negatives come from fewer than {FEW} "
            "patients.",
        ]
    )


def _describe_evaluation_data(data: ReportData) -> Iterator[Block]:
    synthetic = " The data are synthetic." if data.run.phantom else ""
    yield Text(f"We evaluate {data.parts}: {describe_size(data.predictions)}.{synthetic}")
    yield make_counts(data.evaluation)
    yield Missing("Where the data come from and why they were chosen", _PEOPLE)


def _describe_training_data(data: ReportData) -> Iterator[Block]:
    if "train" in data.run.parts:
        slices, patients = data.run.parts["train"]
        split = data.run.settings.get("split", "not known")
        yield Text(f"{slices:,} slices of {patients:,} patients. Split: {split}.")
    else:
        yield Missing("Training data", NO_RUN)


def _list_analyses(data: ReportData) -> Iterator[Block]:
    yield Text("Unitary results:")
    for level in data.evaluation.levels:
        yield make_discrimination(data.evaluation, level)
    yield make_losses(data.evaluation)
    level = data.main_level
    if data.rule:
        yield make_operating(data.evaluation, level)
    calibration = make_calibration(data.evaluation, level)
    if calibration.rows:
        yield calibration
    yield Text("Intersectional results:")
    if data.groups is None:
        yield Missing("Subgroups", NO_INDEX)
    else:
        yield make_subgroups(data.groups, "slice")


def _list_ethics(finding: str) -> Iterator[Block]:
    yield Listing(
        [
            f"A missed {finding} can cost a life. A false positive costs attention that another patient "
            "needs.",
            "Head CT can show a face. Protect slices and pictures of them like other patient data.",
            "This model card and the report name no patient, no file and no folder.",
        ]
    )
    yield Missing("Consent and approval by an ethics committee", _PEOPLE)
