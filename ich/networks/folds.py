"""Runs that are the folds of one split, and their predictions for patients that they did not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ich.evaluate.decisions import DEFAULT_RULE
from ich.schema import UserError
from ich.tables import read_predictions, restore_texts


class Fold(NamedTuple):
    """Which fold a run has as its test set.

    Attributes:
        number: Number of the fold, from 0.
        folds: Number of folds of the split.
    """

    number: int
    folds: int


def find_fold(run: Path) -> Fold | None:
    """Finds which fold a run has as its test set; None for a run without folds, and for anything else."""
    data = _read_config(run).get("data")
    fold, folds = (data.get("fold"), data.get("folds")) if isinstance(data, dict) else (None, None)
    return Fold(fold, folds) if isinstance(fold, int) and isinstance(folds, int) else None


def asks_for_smoothing(run: Path) -> bool:
    """Whether a run is to be smoothed over neighboring slices, which is left to all folds together."""
    return _read_config(run).get("smoothing") is True


def find_rule(runs: Sequence[Path]) -> str:
    """Finds the rule for operating points that runs ask for.

    Raises:
        UserError: If they ask for different rules.
    """
    rules = {str(_read_config(run).get("rule") or DEFAULT_RULE) for run in runs}
    if len(rules) > 1:
        raise UserError(f"the runs have rule={' and '.join(sorted(rules))}: give runs with one rule")
    return rules.pop()


def _read_config(run: Path) -> dict[str, Any]:
    """Reads the configuration of a run; empty if there is none."""
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def read_folds(runs: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Reads the test predictions of runs that are all folds of one split.

    Args:
        runs: Folders of finished runs with ``data.fold``.

    Returns:
        A predictions table for each fold, in the order of the folds, by its name.

    Raises:
        UserError: If a fold is missing or there twice, the runs have other slices or another split, or a run
            is not finished.
    """
    found = sorted(((_require_fold(run), run) for run in runs), key=lambda pair: pair[0])
    _require_all([fold for fold, _ in found])
    ordered = [run for _, run in found]
    _require_one_split(ordered, [_read_split(run) for run in ordered])
    tables = {}
    for fold, run in found:
        path = run / "predictions_test.csv"
        if not path.is_file():
            raise UserError(f"{run} has no {path.name}: finish it with ckpt_path={run}")
        tables[f"fold_{fold.number}"] = read_predictions(path)
    return tables


def _require_fold(run: Path) -> Fold:
    fold = find_fold(run)
    if fold is None:
        raise UserError(f"{run} is not a run with data.fold, so it has no part in out-of-fold predictions")
    return fold


def _require_all(folds: Sequence[Fold]) -> None:
    """Refuses folds that do not make up one split."""
    numbers, counts = sorted(fold.number for fold in folds), sorted({fold.folds for fold in folds})
    if len(counts) > 1:
        raise UserError(f"the runs have data.folds={' and '.join(map(str, counts))}: give folds of one split")
    if len(set(numbers)) < len(numbers):
        listed = ", ".join(map(str, numbers))
        raise UserError(f"the runs have data.fold={listed}: give one run for each fold")
    if missing := sorted(set(range(counts[0])) - set(numbers)):
        listed = ",".join(map(str, missing))
        raise UserError(
            f"no run has data.fold={listed} of {counts[0]} folds, so not all patients are predicted: train "
            "the missing folds too"
        )


def _read_split(run: Path) -> pd.DataFrame:
    path = run / "split.csv"
    try:
        split = restore_texts(pd.read_csv(path, dtype="str", keep_default_na=False))
        return split[["SOPInstanceUID", "PatientID", "part"]]
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{path} cannot be read, which says who is in the test set: {error}") from error


def _require_one_split(runs: Sequence[Path], splits: Sequence[pd.DataFrame]) -> None:
    """Refuses runs on other slices, and splits that test a patient twice or never."""
    first = splits[0]
    for run, split in zip(runs[1:], splits[1:], strict=True):
        if other := len(set(first["SOPInstanceUID"]).symmetric_difference(split["SOPInstanceUID"])):
            raise UserError(
                f"{runs[0]} and {run} are runs on different data: {other} slices are in only one of them. "
                "Train all folds on the same files, labels and phantom"
            )
    tested = pd.concat(
        [split.loc[split["part"] == "test", "PatientID"].drop_duplicates() for split in splits]
    )
    twice, never = int(tested.duplicated().sum()), len(set(first["PatientID"]) - set(tested))
    if twice or never:
        raise UserError(
            f"{runs[0]} and the others are not folds of one split: {twice} patients are in several test "
            f"sets, and {never} in none. Train all folds with one seed and the same settings of the split"
        )
