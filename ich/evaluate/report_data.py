"""All that a report, a model card and a checklist are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from ich.calibration import Decision, NotFitted
from ich.evaluate.comparison import Comparison
from ich.evaluate.figures import Evaluation
from ich.evaluate.pooling import UNIT_COLUMNS
from ich.evaluate.run import Run
from ich.evaluate.subgroups import describe_slices
from ich.report.document import Block, Missing
from ich.tables import PLURALS, say

NO_VALIDATION = "It needs the predictions of the validation part: --val."
NO_INDEX = "It needs the index of the data: --root or --index."
NO_GALLERIES = (
    Missing("Galleries of misses and false alarms", "They need the folder of the DICOM files: --root."),
)


@dataclass(frozen=True)
class ReportData:
    """An evaluation with what is known around it.

    Attributes:
        evaluation: Its figures.
        predictions: The table that they are of.
        validation: The table that calibration and operating points were fitted on, if there is one.
        decisions: By level, what was fitted.
        run: The run that made the table.
        models: Names of the models whose probabilities are averaged; of one, or of none, where they are not.
        encodings: Slices and patients of each scanner encoding; empty without an index.
        groups: ``subgroups`` of some columns, by slice; None without them.
        comparison: With other models, if there are any.
        galleries: Worst misses and false alarms, or what they lack.
        heat: Whether those have heat maps.
        checked: False where a model was given, and nothing tells whether it made the table.
    """

    evaluation: Evaluation
    predictions: pd.DataFrame
    validation: pd.DataFrame | None = None
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    run: Run = field(default_factory=Run)
    models: Sequence[str] = ()
    encodings: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    groups: pd.DataFrame | None = None
    comparison: Comparison | None = None
    galleries: Sequence[Block] = NO_GALLERIES
    heat: bool = False
    checked: bool = True

    @property
    def parts(self) -> str:
        """The parts that the predictions are of, such as ``test``."""
        named = [part for part in self.predictions["part"].unique() if part]
        return " and ".join(map(str, named)) or "not named"

    @property
    def rule(self) -> str:
        """How the operating points were chosen; empty without them."""
        rules = [
            p.rule
            for d in self.decisions.values()
            for p in d.operating_points.values()
            if not isinstance(p, NotFitted)
        ]
        return rules[0] if rules else ""

    @property
    def method(self) -> str:
        """How probabilities were calibrated; empty where none were."""
        fitted = [
            c.method
            for decision in self.decisions.values()
            for c in decision.calibration.values()
            if not isinstance(c, NotFitted)
        ]
        return fitted[0] if fitted else ""

    @property
    def main_level(self) -> str:
        """The level that a reader cares for most: the study, if there is one."""
        levels = list(self.evaluation.levels)
        return "study" if "study" in levels else levels[0]


def describe_size(table: pd.DataFrame) -> str:
    """How many slices, series, studies and patients a table has, in words."""
    named = ((level, table[column].replace("", None).nunique()) for level, column in UNIT_COLUMNS.items())
    return ", ".join(
        say(number, level) if number else f"{PLURALS[level]} not named" for level, number in named
    )


def describe_subject(data: ReportData) -> str:
    """What an evaluation is of, in a line."""
    backbone = data.run.settings.get("backbone")
    averaged = f"the mean of {len(data.models)} models, " if len(data.models) > 1 else ""
    model = f"{backbone}, " if backbone and not averaged else averaged
    return f"{model}part: {data.parts}, {describe_size(data.predictions)}"


def count_encodings(predictions: pd.DataFrame, index: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """Counts slices and patients of each scanner encoding, the most frequent first."""
    encoding = describe_slices(predictions, index)["encoding"].fillna("not in the index")
    patients = predictions["PatientID"].groupby(encoding.to_numpy())
    counts = {str(name): (len(group), int(group.nunique())) for name, group in patients}
    return dict(sorted(counts.items(), key=lambda item: -item[1][0]))
