"""The default run on three seeds, beside a logistic regression on each slice's histogram of HU.

The phantom must not be easy: a threshold or a count of bright pixels must not do what the network does. Both
see the same patients; the regression gets the logarithm of the counts in bins of 4 HU from -100 to 200.

    python benchmarks/phantom.py --out runs/phantom          # needs pip install -e '.[test]'
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ich.dicom import read_hu
from ich.schema import LABELS, SUBTYPES
from ich.tables import read_index

REPOSITORY = Path(__file__).parent.parent
BINS = np.arange(-100, 201, 4)


def count_hu(path: Path) -> np.ndarray:
    return np.log1p(np.histogram(read_hu(path), BINS)[0])


def score_histogram(root: Path, run: Path) -> dict[str, float]:
    """AUROC by label on the run's test part, of a regression fitted on its training part."""
    split = pd.read_csv(run / "split.csv").merge(
        read_index(root / ".ich" / "index.parquet"), on="SOPInstanceUID"
    )
    labels = pd.read_csv(root / "stage_2_train.csv")
    labels[["uid", "label"]] = labels["ID"].str.rsplit("_", n=1, expand=True)
    target = labels.pivot(index="uid", columns="label", values="Label").loc[split["SOPInstanceUID"]]
    features = np.stack([count_hu(root / path) for path in split["path"]])
    train, test = (np.flatnonzero(split["part"] == part) for part in ("train", "test"))
    scores = {}
    for label in LABELS:
        y = target[label].to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegressionCV(cv=5, scoring="roc_auc", max_iter=2000))
        model.fit(features[train], y[train])
        scores[label] = roc_auc_score(y[test], model.predict_proba(features[test])[:, 1])
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        run = args.out.resolve() / str(seed)
        if not (run / "metrics.json").exists():
            start = time.monotonic()
            subprocess.run(
                [sys.executable, REPOSITORY / "train.py", f"seed={seed}", f"run_dir={run}"], check=True
            )
            print(f"seed {seed}: {time.monotonic() - start:.0f} s in all")
        report = json.loads((run / "metrics.json").read_text())
        root = Path(yaml.safe_load((run / "config.yaml").read_text())["data"]["root"])
        histogram, test = score_histogram(root, run), report["test"]["levels"]["slice"]
        network = {label: test["labels"][label]["auroc"]["value"] for label in LABELS}
        loss, constant = test["weighted_log_loss"]["value"], test["constant_log_loss"]
        rows.append(
            {"seed": seed, "log_loss": loss, "constant": constant}
            | {f"network_{label}": network[label] for label in LABELS}
            | {f"histogram_{label}": histogram[label] for label in LABELS}
            | {f"{name}_subtypes": np.mean([scores[label] for label in SUBTYPES])
               for name, scores in (("network", network), ("histogram", histogram))}
        )  # fmt: skip
    table = pd.DataFrame(rows).set_index("seed")
    print(table.T.to_string(float_format="{:.3f}".format))
    table.to_json(args.out / "report.json", orient="index", indent=2)


if __name__ == "__main__":
    main()
