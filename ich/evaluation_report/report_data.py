"""The input of a report, a model card and a checklist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import pandas as pd

from ich.calibration import Decision, NotFitted
from ich.evaluate.comparison import Comparison
from ich.evaluate.figures import Evaluation
from ich.evaluate.pooling import UNIT_COLUMNS
from ich.evaluate.subgroups import describe_slices
from ich.evaluation_report.run import Run
from ich.report.document import Block, Missing
from ich.schema.labels import RSNA_LABELS, LabelSet
from ich.tables import PLURALS, SETS, say

NO_VALIDATION = "This needs the predictions for the validation set: --val."
NO_INDEX = "This needs the index of the data: --root or --index."
NO_RUN = "The predictions are not in the folder of a run."
NO_GALLERIES = (
    Missing(
        "Galleries of false negatives and false positives",
        "Galleries need the folder of the DICOM files: --root.",
    ),
)


@dataclass(frozen=True)
class ReportData:
    """An evaluation with everything known about it.

    Attributes:
        evaluation: Figures of the evaluation.
        predictions: The table that was evaluated.
        validation: The table that calibration and operating points were fitted on, if there is one.
        decisions: Fitted decisions, by level.
        run: The run that made the table.
        members: Number of models with one fold each that predicted the table; 0 for a single model.
        models: Names of the models whose probabilities are averaged; one name or none if they are not.
        encodings: Slices and patients of each scanner encoding; empty without an index.
        groups: Figures from ``subgroups`` for some columns, by slice; None without them.
        comparison: Comparison with other models, if there are any.
        galleries: Worst false negatives and false positives, or what is missing for them.
        heat: Whether the galleries have heat maps.
        checked: False if a model was given but nothing shows whether it made the table.
    """

    evaluation: Evaluation
    predictions: pd.DataFrame
    validation: pd.DataFrame | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    run: Run = field(default_factory=Run)
    members: int = 0
    models: Sequence[str] = ()
    encodings: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    groups: pd.DataFrame | None = None
    comparison: Comparison | None = None
    galleries: Sequence[Block] = NO_GALLERIES
    heat: bool = False
    checked: bool = True

    @property
    def parts(self) -> str:
        """The sets that the predictions belong to, such as ``the test set``."""
        if self.members:
            return f"the test sets of {self.members} folds"
        names = [SETS.get(str(part), str(part)) for part in self.predictions["part"].unique() if part]
        if not names:
            return "a set without a name"
        return f"the {' and '.join(names)} set{'s' if len(names) > 1 else ''}"

    @property
    def rule(self) -> str:
        """Rule that chose the operating points; empty without them."""
        points = chain.from_iterable(each.operating_points.values() for each in self.decisions.values())
        return next((point.rule for point in points if not isinstance(point, NotFitted)), "")

    @property
    def method(self) -> str:
        """Method that calibrated the probabilities; empty if there was none."""
        fitted = chain.from_iterable(each.calibration.values() for each in self.decisions.values())
        return next((each.method for each in fitted if not isinstance(each, NotFitted)), "")

    @property
    def main_level(self) -> str:
        """The most important level for a reader: the study, if there is one."""
        levels = list(self.evaluation.levels)
        return "study" if "study" in levels else levels[0]


def describe_size(table: pd.DataFrame) -> str:
    """Returns the numbers of slices, series, studies and patients of a table, in words."""
    named = ((level, table[column].replace("", None).nunique()) for level, column in UNIT_COLUMNS.items())
    return ", ".join(
        say(number, level) if number else f"{PLURALS[level]} not named" for level, number in named
    )


def name_target(labels: LabelSet) -> str:
    """Names what a model detects."""
    return "intracranial hemorrhage" if labels == RSNA_LABELS else ", ".join(labels.shown)


def describe_subject(data: ReportData) -> str:
    """Describes in one line which predictions were evaluated."""
    backbone = data.run.settings.get("backbone")
    averaged = f"the mean of {len(data.models)} models, " if len(data.models) > 1 else ""
    model = f"{backbone}, " if backbone and not averaged else averaged
    return f"{model}{data.parts}: {describe_size(data.predictions)}"


def count_encodings(predictions: pd.DataFrame, index: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Counts slices and patients of each scanner encoding, the most frequent first."""
    encoding = describe_slices(predictions, index)["encoding"].fillna("not in the index")
    patients = predictions["PatientID"].groupby(encoding.to_numpy())
    counts = {str(name): (len(group), int(group.nunique())) for name, group in patients}
    return dict(sorted(counts.items(), key=lambda item: -item[1][0]))
