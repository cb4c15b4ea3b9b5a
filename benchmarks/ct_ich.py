"""CT-ICH on five patient-wise folds: the recipe against a plain script, and the old network step by step.

Every row is trained on the same folds (seed 0). The epoch is chosen inside the training set, and the test
predictions of the five folds are pooled. Finished runs are not repeated. The recipe's pretraining sees no
slice of the data and is the same for every fold, so all folds use that of the first.

    python benchmarks/ct_ich.py --root data/ct_ich --out runs/ct_ich               # hours on two cores
    python benchmarks/ct_ich.py --root data/ct_ich --out runs/ct_ich --rows recipe plain
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from ich.evaluate import evaluate
from ich.evaluate.comparison import compare
from ich.evaluate.folds import pool_folds
from ich.tables import read_predictions

REPOSITORY = Path(__file__).parent.parent
FOLDS = range(5)
BASELINE = ["experiment=baseline_cnn"]
HEAD = ["model.link=sigmoid", "loss=weighted_bce"]
INPUT = ["input=three_windows", "augment=default", "data.split=patient"]
OPTIMIZER = ["optim=adamw", "optim.lr=1e-3"]
RECIPE, PLAIN = "recipe", "plain"
ROWS = {
    RECIPE: ["experiment=ct_ich"],
    "baseline": BASELINE,
    "baseline_head": BASELINE + HEAD,
    "baseline_head_input": BASELINE + HEAD + INPUT,
    "baseline_head_input_optimizer": BASELINE + HEAD + INPUT + OPTIMIZER,
}


def train(root: Path, out: Path, row: str, fold: int) -> None:
    folder = out / f"{row}_{fold}"
    if (folder / "metrics.json").exists():
        return
    overrides = [*ROWS[row], f"data.root={root}", f"data.fold={fold}", f"run_dir={folder}"]
    if row == RECIPE and fold > 0:
        start = out / f"{RECIPE}_0" / "pretrain" / "checkpoints" / "best.ckpt"
        overrides += ["pretrain=none", f"model.init_from={start}"]
    command = [sys.executable, REPOSITORY / "train.py", "data=rsna", "logger=csv", *overrides]
    subprocess.run(command, check=True)


def train_plain(root: Path, folder: Path, split: Path) -> None:
    out = folder / "predictions_test.csv"
    if out.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    script = REPOSITORY / "benchmarks" / "plain_resnet18.py"
    subprocess.run([sys.executable, script, "--root", root, "--split", split, "--out", out], check=True)


def pool(out: Path, row: str) -> pd.DataFrame:
    folders = [out / f"{row}_{fold}" for fold in FOLDS]
    return pool_folds({folder.name: read_predictions(folder / "predictions_test.csv") for folder in folders})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, PLAIN], default=[*ROWS, PLAIN])
    args = parser.parse_args()
    root, out = args.root.resolve(), args.out.resolve()
    for row in args.rows:
        for fold in FOLDS:
            if row == PLAIN:
                train_plain(root, out / f"{PLAIN}_{fold}", out / f"{RECIPE}_{fold}" / "split.csv")
            else:
                train(root, out, row, fold)
    tables = {row: pool(out, row) for row in args.rows}
    evaluations = {row: evaluate(table) for row, table in tables.items()}
    report: dict[str, Any] = {"rows": {row: each.to_dict() for row, each in evaluations.items()}}
    summaries = {row: each.levels["slice"] for row, each in evaluations.items()}
    for row, summary in summaries.items():
        print(
            f"{row:30} any AUROC {summary.labels['any'].auroc:.3f}  "
            f"subtypes {summary.auroc_mean_subtypes:.3f}  "
            f"log loss {summary.weighted_log_loss:.4f}, constant {summary.constant_log_loss:.4f}"
        )
    for label, first in summaries[args.rows[0]].labels.items():
        counts = first.counts
        areas = "  ".join(f"{row} {summary.labels[label].auroc:.3f}" for row, summary in summaries.items())
        print(f"{label}: {counts.positives} slices of {counts.positive_patients} patients  {areas}")
    if {RECIPE, PLAIN} <= tables.keys():
        comparison = compare({row: tables[row] for row in (RECIPE, PLAIN)})
        report["comparison"] = comparison.to_dict()
        (pair,) = comparison.pairs
        print(
            f"recipe minus plain: any AUROC {pair.labels['any'].auroc:.3f}, "
            f"log loss {pair.weighted_log_loss:.4f}"
        )
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
