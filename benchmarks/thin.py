"""A model of thick slices on slices of a third, of the same phantom patients: averaged, and as they are.

The patients are none of the run's. The operating points are the run's own, by study and by slice. A study is
positive if one of its slices has a hemorrhage of 150 mm².

    python train.py run_dir=runs/phantom
    python benchmarks/thin.py runs/phantom --out runs/thin       # needs pip install -e '.[test]'
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ich.index import read_labels
from ich.networks import Network, load_network
from ich.phantom import write_phantom
from ich.predict import Predictor

SEED = 1000  # the patients of a run have seed 0


def score(network: Network, root: Path) -> dict[str, float]:
    """Sensitivity and specificity of ``any`` at the operating points, by study and by slice."""
    target = read_labels(root / "stage_2_train.csv")["any"]
    point = network.metadata.decisions["slice"].find_point("any")
    studies, slices = [], []
    for result in Predictor([network]).predict(root / "stage_2_train"):
        if result.outcome is None:
            continue
        truth = [target[each.SOPInstanceUID] for each in result.slices]
        studies.append((max(truth), result.labels["any"].reached))
        slices += [
            (here, each.calibrated["any"] >= point.threshold)
            for here, each in zip(truth, result.slices, strict=True)
        ]
    figures: dict[str, float] = {}
    for level, rows in (("study", studies), ("slice", slices)):
        table = pd.DataFrame(rows, columns=["target", "called"])
        for name, value in (("sensitivity", 1), ("specificity", 0)):
            of = table[table["target"] == value]
            figures |= {
                f"{name} by {level}": float((of["called"] == value).mean()),
                f"{name} n {level}": len(of),
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run on the phantom, or its bundle")
    parser.add_argument("--out", type=Path, required=True, help="folder for the phantoms and thin.json")
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--size", type=int, default=160, help="rows and columns, as the run's")
    args = parser.parse_args()
    network = load_network(args.run)
    step = round(network.metadata.thickness / 3, 2)
    sets = {"thick": None, "thin": step}
    for name, each in sets.items():
        write_phantom(
            args.out / name, patients=args.patients, seed=SEED, size=args.size, conformant=True, step=each
        )
    found = {
        "thick": score(network, args.out / "thick"),
        f"{step:g} mm, averaged": score(network, args.out / "thin"),
    }
    network.metadata = replace(network.metadata, thickness=None)
    found[f"{step:g} mm, as they are"] = score(network, args.out / "thin")
    print(pd.DataFrame(found).T.round(3).to_string())
    (args.out / "thin.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
