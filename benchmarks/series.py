"""What the neighbors of a slice are worth: simple ways to read a series from a model's probabilities alone.

It takes predictions tables of patients that the model did not learn from, such as the test tables of all
folds of a split. Each way is fitted on four fifths of these patients and applied to the last fifth, in turn,
so no patient is scored by what was fitted on it. The runs must not have smoothed: ``smoothing=false``.

    python benchmarks/series.py runs/fold_*/predictions_test.csv
    python benchmarks/series.py runs/fold_*/predictions_test.csv --json series.json --repeats 5

``as it is`` leaves the probabilities. ``calibrated`` is Platt's curve, ``smoothed`` a Gaussian over mm with
such a curve where it helps (``ich.evaluate.smoothing``), and ``boosted`` a gradient boosting on the
probabilities of a slice and its neighbors, their distances, and the highest and mean of the series.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from ich.calibration import NotFitted, fit_calibrator, to_logits
from ich.evaluate.comparison import compare
from ich.evaluate.pooling import METHODS
from ich.evaluate.smoothing import find_place, fit_table, smooth_table
from ich.tables import find_names, name_columns, read_predictions

FOLDS = 5
AROUND = 2  # neighbors on either side that the boosting sees
BASE = "as it is"


def calibrate(fitted: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Platt's curve for each label that has enough cases."""
    calibrated = table.copy()
    for name in find_names(table):
        curve = fit_calibrator(
            fitted[f"target_{name}"], fitted[f"prob_{name}"], "platt", patients=fitted["PatientID"]
        )
        if curve is not None:
            calibrated[f"prob_{name}"] = curve.apply(table[f"prob_{name}"])
    return calibrated


def smooth(fitted: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The kernels of this library; a label without one is calibrated, so that only the neighbors differ."""
    kernels = fit_table(fitted)
    smoothed, calibrated = smooth_table(table, kernels), calibrate(fitted, table)
    for name, kernel in kernels.items():
        if isinstance(kernel, NotFitted):
            smoothed[f"prob_{name}"] = calibrated[f"prob_{name}"]
    return smoothed


def boost(fitted: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Gradient boosting over neighbors, for each label that has a curve."""
    boosted, before, after = calibrate(fitted, table), describe(fitted), describe(table)
    for name in find_names(table):
        target = fitted[f"target_{name}"].to_numpy()
        known = ~np.isnan(target)
        if min((target == 0).sum(), (target == 1).sum()) < 10:
            continue
        model = HistGradientBoostingClassifier(
            max_iter=60, learning_rate=0.05, max_leaf_nodes=6, min_samples_leaf=20, random_state=0
        )
        model.fit(before[known], target[known])
        boosted[f"prob_{name}"] = model.predict_proba(after)[:, 1]
    return boosted


def describe(table: pd.DataFrame) -> NDArray[np.float64]:
    """(N, K) what the boosting sees of each slice; NaN beyond the ends of its series."""
    probs = to_logits(table[name_columns("prob", find_names(table))])
    positions, series = find_place(table)
    width = probs.shape[1] + 1
    described = np.full((len(table), (2 * AROUND + 1) * width + 2 * probs.shape[1]), np.nan)
    for _, found in pd.Series(np.arange(len(table))).groupby(series):
        rows = found.to_numpy()[np.argsort(positions[found])]
        for place, row in enumerate(rows):
            for shift in range(-AROUND, AROUND + 1):
                if 0 <= place + shift < len(rows):
                    other = rows[place + shift]
                    start = (shift + AROUND) * width
                    distance = positions[other] - positions[row]
                    described[row, start : start + width] = [*probs[other], distance]
        described[rows, -2 * probs.shape[1] :] = [*probs[rows].max(axis=0), *probs[rows].mean(axis=0)]
    return described


WAYS: dict[str, Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]] = {
    BASE: lambda _, table: table,
    "calibrated": calibrate,
    "smoothed": smooth,
    "boosted": boost,
}


def cross_fit(table: pd.DataFrame, way: Callable[..., pd.DataFrame], seed: int) -> pd.DataFrame:
    """Applies a way to each fifth of the patients, fitted on the others."""
    folds = GroupKFold(FOLDS, shuffle=True, random_state=seed).split(table, groups=table["PatientID"])
    return pd.concat([way(table.iloc[rest], table.iloc[own]) for rest, own in folds]).sort_index()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", type=Path, nargs="+", help="predictions tables of different patients")
    parser.add_argument("--repeats", type=int, default=1, help="splits into fifths, each with its own seed")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    table = pd.concat([read_predictions(path) for path in args.tables], ignore_index=True).assign(part="test")
    report = []
    for seed in range(args.repeats):
        ways = {name: cross_fit(table, way, seed) for name, way in WAYS.items()}
        for level in ("slice", "patient"):
            found = compare(ways, level=level)
            report.append({"split": seed, **found.to_dict()})
            print(f"\nby {level}, {found.patients} patients, split {seed}")
            for name, figures in found.models.items():
                any_, mean = figures.labels["any"].auroc.value, figures.auroc_mean_subtypes.value
                loss = figures.weighted_log_loss.value
                print(f"  {name:12} AUROC any {any_:.3f}  mean of subtypes {mean:.3f}  log loss {loss:.4f}")
            for pair in found.pairs:
                loss = pair.weighted_log_loss
                shown = f"{loss.value:+.4f} ({loss.low:+.4f} to {loss.high:+.4f})"
                print(f"  log loss, {pair.a} minus {pair.b}: {shown}")
    for method in METHODS:
        areas = compare({"a": table, "b": table}, level="patient", pooling=method).models["a"].labels["any"]
        print(f"by patient, {method:10} AUROC any {areas.auroc.value:.3f}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
