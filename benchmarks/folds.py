"""Decisions from out-of-fold predictions of single models, applied to the mean of the models.

A run over all folds fits calibration and operating points on predictions of its models one by one, and then
averages the models. The mean of probabilities is less extreme than each of them, so it is not clear that
these decisions fit it. New patients of a phantom show the difference: half fit decisions on the mean itself,
and half test both. Intervals are from a bootstrap over patients.

    python benchmarks/folds.py --out runs/folds                                    # an hour on two cores
    python benchmarks/folds.py --out runs/tiny --patients 24 --new 24 -- trainer.max_epochs=1 data.folds=2
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ich.calibration import Decision
from ich.data import HeadCTDataModule
from ich.evaluate import evaluate
from ich.evaluate.comparison import ensemble
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.figures import LabelFigures
from ich.evaluate.smoothing import smooth_table
from ich.models import SliceNet, load_ensemble
from ich.tables import read_predictions
from ich.train.scores import predict_parts

REPOSITORY = Path(__file__).parent.parent
SEED, NEW_SEED = 0, 1000
LEVELS = ("slice", "study")


def train(out: Path, patients: int, overrides: list[str]) -> None:
    """Trains all folds, or continues where an earlier call stopped."""
    run = out / "run"
    settings = (
        [f"ckpt_path={run}"]
        if (run / "config.yaml").exists()
        else [
            *("data.fold=all", f"data.root={out / 'phantom'}", f"data.phantom.patients={patients}"),
            *(f"+data.phantom.seed={SEED}", f"seed={SEED}", f"run_dir={run}", "logger=csv", *overrides),
        ]
    )
    if not (run / "metrics.json").exists():
        subprocess.run([sys.executable, REPOSITORY / "train.py", *settings], check=True)


def predict_new(net: SliceNet, root: Path, patients: int, size: int) -> dict[str, pd.DataFrame]:
    """Predicts new patients: the set ``val`` to fit on, and ``test``."""
    data = HeadCTDataModule(
        str(root),
        net.input,
        phantom={"patients": patients, "size": size, "seed": NEW_SEED},
        val_fraction=0.45,
        test_fraction=0.45,
    )
    data.prepare_data()
    data.setup()
    return predict_parts(net, data)


def describe(name: str, level: str, figures: LabelFigures) -> dict[str, object]:
    """Prints and returns the figures of `any` at one level."""
    point, error = figures.operating_point, figures.calibrated.expected_error
    print(
        f"{level:6} {name:44} sensitivity {point.sensitivity:.3f}  specificity {point.specificity:.3f}  "
        f"calibration error {error:.3f}"
    )
    named = {"sensitivity": point.sensitivity, "specificity": point.specificity, "calibration_error": error}
    plain = {key: figure.to_dict() for key, figure in named.items()}
    return {"decisions": name, "level": level, "threshold": point.threshold, **plain}


def measure(out: Path, patients: int) -> list[dict[str, object]]:
    nets, metadata = load_ensemble(out / "run" / "ensemble.zip")
    tables = [predict_new(net, out / "phantom_new", patients, 160) for net in nets]

    def smooth(table: pd.DataFrame) -> pd.DataFrame:
        return table if metadata.smoothing is None else smooth_table(table, metadata.smoothing)

    val, test = (
        smooth(ensemble({str(number): each[part] for number, each in enumerate(tables)}))
        for part in ("val", "test")
    )
    out_of_fold = read_predictions(out / "run" / "predictions_oof.csv")
    for name, table in (("out of fold", out_of_fold), ("new, to fit", val), ("new, to test", test)):
        print(f"{name}: {len(table)} slices of {table['PatientID'].nunique()} patients")
    chosen: dict[str, Mapping[str, Decision]] = {
        "single models out of fold, applied to the mean": metadata.decisions or {},
        "the mean on new patients, applied to the mean": fit_decisions(val),
    }
    rows = []
    for name, decisions in chosen.items():
        levels = evaluate(test, decisions=decisions, levels=LEVELS).levels
        rows += [describe(name, level, levels[level].labels["any"]) for level in LEVELS]
    for number, each in enumerate(tables):
        levels = evaluate(smooth(each["test"]), decisions=metadata.decisions, levels=LEVELS).levels
        name = f"single models out of fold, applied to model {number}"
        rows += [describe(name, level, levels[level].labels["any"]) for level in LEVELS]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=80, help="patients to train on")
    parser.add_argument("--new", type=int, default=240, help="new patients, half to fit on and half to test")
    parser.add_argument("overrides", nargs="*", help="settings of the training, after --")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    train(out, args.patients, args.overrides)
    rows = measure(out, args.new)
    (out / "report.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
