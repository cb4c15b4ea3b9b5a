"""CT-ICH on five patient-wise folds: the recipe against a plain script, and the old network step by step.

Every row is trained on the same folds (seed 0), the epoch chosen inside the training part, and the test
predictions of the five folds are pooled. What is done already is not done again.

    python benchmarks/ct_ich.py --root data/ct_ich --out runs/ct_ich
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from ich.evaluate import compare, summarize
from ich.tables import read_predictions

REPOSITORY = Path(__file__).parent.parent
FOLDS = range(5)
BASELINE = ["experiment=baseline_cnn"]
HEAD = ["model.link=sigmoid", "loss=weighted_bce"]
INPUT = ["input=three_windows", "augment=default", "data.split=patient"]
OPTIMIZER = ["optim=adamw", "optim.lr=1e-3"]
ROWS = {
    "recipe": ["experiment=ct_ich"],
    "baseline": BASELINE,
    "baseline_head": BASELINE + HEAD,
    "baseline_head_input": BASELINE + HEAD + INPUT,
    "baseline_head_input_optimizer": BASELINE + HEAD + INPUT + OPTIMIZER,
}
PLAIN = "plain"


def train(root: Path, folder: Path, overrides: list[str], fold: int) -> None:
    if (folder / "metrics.json").exists():
        return
    common = ["data=rsna", f"data.root={root}", f"data.fold={fold}", f"run_dir={folder}", "logger=csv"]
    subprocess.run([sys.executable, REPOSITORY / "train.py", *common, *overrides], check=True)


def train_plain(root: Path, folder: Path, split: Path) -> None:
    out = folder / "predictions_test.csv"
    if out.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    script = REPOSITORY / "benchmarks" / "plain_resnet18.py"
    subprocess.run([sys.executable, script, "--root", root, "--split", split, "--out", out], check=True)


def pool(out: Path, row: str) -> pd.DataFrame:
    return pd.concat([read_predictions(out / f"{row}_{fold}" / "predictions_test.csv") for fold in FOLDS])


def describe(table: pd.DataFrame) -> dict:
    summary = summarize(table).to_dict()
    return {key: summary[key] for key in ("slices", "patients", "labels", "weighted_log_loss",
            "weighted_log_loss_interval", "constant_log_loss", "auroc_mean_subtypes")}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, PLAIN], default=[*ROWS, PLAIN])
    args = parser.parse_args()
    for row in args.rows:
        for fold in FOLDS:
            folder = args.out.resolve() / f"{row}_{fold}"
            if row == PLAIN:
                train_plain(args.root, folder, args.out / f"recipe_{fold}" / "split.csv")
            else:
                train(args.root.resolve(), folder, ROWS[row], fold)
    tables = {row: pool(args.out, row) for row in args.rows}
    report = {"rows": {row: describe(table) for row, table in tables.items()}}
    if {"recipe", PLAIN} <= tables.keys():
        report["recipe_minus_plain"] = compare(tables["recipe"], tables[PLAIN]).to_dict()
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    for row, figures in report["rows"].items():
        any_label = figures["labels"]["any"]
        print(
            f"{row:32} any AUROC {any_label['auroc']:.3f} {any_label['auroc_interval']}  log loss "
            f"{figures['weighted_log_loss']:.4f} {figures['weighted_log_loss_interval']}, "
            f"constant {figures['constant_log_loss']:.4f}"
        )


if __name__ == "__main__":
    main()
