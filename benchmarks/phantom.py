"""The default run on three seeds, beside a logistic regression on each slice's histogram of HU.

The phantom must not be easy: a threshold or a count of bright pixels must not do what the network does. Both
see the same patients. The regression gets the logarithm of the counts in bins of 4 HU from -100 to 200.
Slices below and above the brain hold no hemorrhage, and their bone and air are enough to identify them. So
`any` is also scored among the slices that show the brain, for the same network and the same regression.

    python benchmarks/phantom.py --out runs/phantom          # needs pip install -e '.[test]'
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
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
from ich.studies.series.pixels import measure_series
from ich.tables import PROB_COLUMNS, read_index, read_predictions

REPOSITORY = Path(__file__).parent.parent
BINS = np.arange(-100, 201, 4)


def count_hu(path: Path) -> np.ndarray:
    return np.log1p(np.histogram(read_hu(path), BINS)[0])


def shows_brain(path: Path, spacing_mm: float) -> bool:
    return measure_series(read_hu(path)[None], spacing_mm).slices[0].is_brain


def score(root: Path, run: Path) -> dict[str, float]:
    """AUROC on the run's test set, of the network and of a regression fitted on its training set."""
    split = pd.read_csv(run / "split.csv").merge(
        read_index(root / ".ich" / "index.parquet"), on="SOPInstanceUID"
    )
    labels = pd.read_csv(root / "stage_2_train.csv")
    labels[["uid", "label"]] = labels["ID"].str.rsplit("_", n=1, expand=True)
    target = labels.pivot(index="uid", columns="label", values="Label").loc[split["SOPInstanceUID"]]
    features = np.stack([count_hu(root / path) for path in split["path"]])
    train, test = (np.flatnonzero(split["part"] == part) for part in ("train", "test"))
    table = read_predictions(run / "predictions_test.csv").set_index("SOPInstanceUID")
    network = table.loc[split["SOPInstanceUID"].iloc[test], list(PROB_COLUMNS)]
    probs = {"network": network.set_axis(list(LABELS), axis=1)}
    probs["histogram"] = pd.DataFrame(index=probs["network"].index)
    for label in LABELS:
        y = target[label].to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegressionCV(cv=5, scoring="roc_auc", max_iter=2000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of arguments that older versions do not have
            model.fit(features[train], y[train])
        probs["histogram"][label] = model.predict_proba(features[test])[:, 1]
    found = target.iloc[test]
    slices = split.iloc[test]
    brain = np.array(
        [shows_brain(root / path, mm) for path, mm in zip(slices["path"], slices["row_spacing"], strict=True)]
    )
    scores = {}
    for name, of in probs.items():
        scores |= {f"{name}_{label}": roc_auc_score(found[label], of[label]) for label in LABELS}
        scores[f"{name}_subtypes"] = np.mean([scores[f"{name}_{label}"] for label in SUBTYPES])
        scores[f"{name}_any_in_brain"] = roc_auc_score(found["any"][brain], of["any"][brain])
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
        test = report["test"]["levels"]["slice"]
        loss, constant = test["weighted_log_loss"]["value"], test["constant_log_loss"]
        rows.append({"seed": seed, "log_loss": loss, "constant": constant} | score(root, run))
    table = pd.DataFrame(rows).set_index("seed")
    print(table.T.to_string(float_format="{:.3f}".format))
    table.to_json(args.out / "report.json", orient="index", indent=2)


if __name__ == "__main__":
    main()
