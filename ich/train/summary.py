"""The end of a run: the summary in its checkpoint, and its model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ich.calibration import Decision
from ich.data import HeadCTDataModule
from ich.evaluate.figures import Evaluation
from ich.evaluation_report.model_card import make_model_card
from ich.evaluation_report.report_data import ReportData
from ich.evaluation_report.run import read_run
from ich.model_files.description import MODEL_CARD
from ich.model_files.metadata import Training
from ich.report.markdown import write_markdown
from ich.schema import MONITOR


def summarize(
    datamodule: HeadCTDataModule, metrics: pd.DataFrame, evaluations: Mapping[str, Evaluation]
) -> Training:
    """Summarizes a run for its checkpoint.

    Args:
        datamodule: Set up.
        metrics: One row per epoch.
        evaluations: Evaluations of the sets.
    """
    train = datamodule.part("train")
    return Training(
        patients=int(train["PatientID"].nunique()),
        studies=int(train["StudyInstanceUID"].nunique()),
        slices=len(train),
        positives={label: int((train[label] == 1).sum()) for label in datamodule.label_set.names},
        epochs=len(metrics),
        best_epoch=int(metrics["epoch"].iloc[int(metrics[MONITOR].argmin())]),
        val_log_loss=_find_loss(evaluations, "val"),
        test_log_loss=_find_loss(evaluations, "test"),
        phantom=datamodule.source.phantom is not None,
    )


def _find_loss(evaluations: Mapping[str, Evaluation], part: str) -> float | None:
    if part not in evaluations:
        return None
    by_slice = evaluations[part].levels.get("slice")
    value = math.nan if by_slice is None else by_slice.weighted_log_loss.value
    return None if math.isnan(value) else value


def write_model_card(
    run_dir: Path,
    tables: Mapping[str, pd.DataFrame],
    evaluations: Mapping[str, Evaluation],
    decisions: Mapping[str, Decision],
) -> None:
    """Writes the model card of a run for its test set, or for its validation set without a test set.

    Args:
        run_dir: The run's folder.
        tables: The predictions table of each part.
        evaluations: Evaluations of the sets.
        decisions: Decisions fitted on the validation set.
    """
    part = list(evaluations)[-1]
    data = ReportData(
        evaluation=evaluations[part],
        predictions=tables[part],
        validation=tables["val"] if part == "test" else None,
        decisions=dict(decisions) if part == "test" else {},
        run=read_run(run_dir),
    )
    write_markdown(make_model_card(data), run_dir / MODEL_CARD)
