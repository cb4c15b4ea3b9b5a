"""The old network on five patient-wise folds of CT-ICH: its parts replaced step by step.

Every row is trained on the same folds (seed 0). The epoch is chosen inside the training set, and the test
predictions of the five folds are pooled. Finished runs are not repeated.

    python benchmarks/baseline.py --root data/ct_ich --out runs/baseline               # hours on two cores
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from ich.evaluate import evaluate
from ich.evaluate.folds import pool_folds
from ich.tables import read_predictions

REPOSITORY = Path(__file__).parent.parent
FOLDS = range(5)
BASELINE = ["experiment=baseline_cnn"]
HEAD = ["model.link=sigmoid", "loss=weighted_bce"]
INPUT = ["input=three_windows", "augment=default", "data.split=patient"]
OPTIMIZER = ["optim=adamw", "optim.lr=1e-3"]
ROWS = {
    "baseline": BASELINE,
    "head": BASELINE + HEAD,
    "head_input": BASELINE + HEAD + INPUT,
    "head_input_optimizer": BASELINE + HEAD + INPUT + OPTIMIZER,
}


def train(root: Path, out: Path, row: str, fold: int) -> None:
    folder = out / f"{row}_{fold}"
    if (folder / "metrics.json").exists():
        return
    overrides = [*ROWS[row], f"data.root={root}", f"data.fold={fold}", f"run_dir={folder}"]
    command = [sys.executable, REPOSITORY / "train.py", "data=rsna", "logger=csv", *overrides]
    subprocess.run(command, check=True)


def pool(out: Path, row: str) -> pd.DataFrame:
    folders = [out / f"{row}_{fold}" for fold in FOLDS]
    return pool_folds({folder.name: read_predictions(folder / "predictions_test.csv") for folder in folders})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    args = parser.parse_args()
    root, out = args.root.resolve(), args.out.resolve()
    report: dict[str, Any] = {}
    for row in args.rows:
        for fold in FOLDS:
            train(root, out, row, fold)
        evaluation = evaluate(pool(out, row))
        report[row] = evaluation.to_dict()
        summary = evaluation.levels["slice"]
        print(
            f"{row:30} any AUROC {summary.labels['any'].auroc:.3f}  "
            f"subtypes {summary.auroc_mean_subtypes:.3f}  "
            f"log loss {summary.weighted_log_loss:.4f}, constant {summary.constant_log_loss:.4f}"
        )
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
