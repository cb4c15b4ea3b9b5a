"""The end of a run: what its checkpoint and its model card say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ich.bundle import MODEL_CARD
from ich.calibration import parse_decisions
from ich.card import Training
from ich.checkpoint import read_checkpoint
from ich.data import HeadCTDataModule
from ich.evaluate.figures import Evaluation
from ich.evaluate.model_card import make_model_card
from ich.evaluate.run import read_run
from ich.evaluate.study import Study
from ich.report.markdown import write_markdown
from ich.schema import LABELS, MONITOR
from ich.tables import read_predictions
from ich.train.keeping import keep


def keep_summary(
    checkpoint: Path,
    datamodule: HeadCTDataModule,
    metrics: pd.DataFrame,
    evaluations: Mapping[str, Evaluation],
) -> None:
    """Puts into a checkpoint what its run was.

    Args:
        checkpoint: Of the best epoch.
        datamodule: Set up.
        metrics: A row an epoch.
        evaluations: Of the parts.

    Raises:
        UserError: If the checkpoint cannot be read or written; then it stays as it was.
    """
    train = datamodule.part("train")
    training: Training = {
        "patients": int(train["PatientID"].nunique()),
        "studies": int(train["StudyInstanceUID"].nunique()),
        "slices": len(train),
        "positives": {label: int((train[label] == 1).sum()) for label in LABELS},
        "epochs": len(metrics),
        "best_epoch": int(metrics["epoch"].iloc[int(metrics[MONITOR].argmin())]),
        "val_log_loss": _find_loss(evaluations, "val"),
        "test_log_loss": _find_loss(evaluations, "test"),
        "phantom": datamodule.phantom is not None,
    }
    keep(checkpoint, {"training": training})


def _find_loss(evaluations: Mapping[str, Evaluation], part: str) -> float | None:
    if part not in evaluations:
        return None
    value = evaluations[part].levels["slice"].weighted_log_loss.value
    return None if math.isnan(value) else value


def write_model_card(
    run_dir: Path, paths: Mapping[str, Path], evaluations: Mapping[str, Evaluation], checkpoint: Path
) -> None:
    """Writes the model card of a run, on its test part; on its validation part where it has no other.

    Args:
        run_dir: The run's folder.
        paths: Of the predictions table of each part.
        evaluations: Of the parts.
        checkpoint: Of the best epoch.
    """
    part = list(evaluations)[-1]
    validation = read_predictions(paths["val"])
    carried = read_checkpoint(checkpoint)["card"]["decisions"] if part == "test" else {}
    study = Study(
        evaluation=evaluations[part],
        predictions=validation if part == "val" else read_predictions(paths[part]),
        validation=validation if part == "test" else None,
        decisions=parse_decisions(carried, str(checkpoint)),
        run=read_run(run_dir),
    )
    write_markdown(make_model_card(study), run_dir / MODEL_CARD)
