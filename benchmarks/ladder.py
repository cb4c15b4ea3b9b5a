"""A ladder of steps on CT-ICH: what each step of training brings, and what it costs.

Every step is trained on the same five patient-wise folds. A validation set within the training set chooses
the epoch. `train` is resumable: it leaves one JSON per step, fold and seed in `benchmarks/ladder/`, with the
probabilities of the validation and the test set. `report` reads them and writes `docs/ladder.md`. The data
set is needed for both, because the JSONs hold no labels and no identifiers.

A step is kept if it lowers the mean log loss of the validation sets. The table shows the test sets, which
nothing chooses from.

    python benchmarks/ladder.py train --root data/ct_ich --out runs/ladder --steps recipe imagenet
    python benchmarks/ladder.py train --root data/ct_ich --out runs/ladder --steps both --seeds 0 1 2
    python benchmarks/ladder.py report --root data/ct_ich
"""

import argparse
import json
import math
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from ladder_steps import STEPS, list_trained

from ich.data import HeadCTDataModule
from ich.evaluate import evaluate
from ich.evaluate.comparison import Pair, compare, ensemble
from ich.evaluate.figures import Estimate, Evaluation
from ich.evaluate.smoothing import smooth_folds
from ich.index.split import write_split
from ich.schema import InputSpec
from ich.tables import PROB_COLUMNS, hash_slices, make_predictions, read_predictions

REPOSITORY = Path(__file__).parent.parent
RECORDS = REPOSITORY / "benchmarks" / "ladder"
PAGE = REPOSITORY / "docs" / "ladder.md"
FOLDS = range(5)
PARTS = ("val", "test")
PEER, BEST = "timm", "mean_smoothed"


def find_record(name: str, fold: int, seed: int) -> Path:
    return RECORDS / f"{name}_{fold}_{seed}.json"


class Folds:
    """The slices of the data set, and the part of each in every fold. Each fold has the seed 0."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables: list[pd.DataFrame] = []
        for fold in FOLDS:
            datamodule = HeadCTDataModule(str(root), InputSpec(), fold=fold, folds=len(FOLDS), seed=0)
            datamodule.prepare_data()
            datamodule.setup()
            self.tables.append(datamodule.table)

    def select(self, fold: int, part: str) -> pd.DataFrame:
        """Returns the slices of a part in the order of the records."""
        table = self.tables[fold]
        return table[table["part"] == part].sort_values("SOPInstanceUID", ignore_index=True)

    def write(self, fold: int, path: Path) -> Path:
        """Writes the split of a fold for `data.split`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_split(self.tables[fold], self.tables[fold]["part"], path)
        return path


def train(folds: Folds, out: Path, name: str, fold: int, seed: int) -> None:
    """Trains one fold of a step, unless its record exists."""
    record = find_record(name, fold, seed)
    if record.exists():
        return
    folder = out / f"{name}_{fold}_{seed}"
    split = folds.write(fold, out / f"fold_{fold}.csv")
    before = measure_minutes()
    if not (folder / "predictions_test.csv").exists():
        subprocess.run([sys.executable, *make_command(folds.root, folder, split, name, seed)], check=True)
    minutes = measure_minutes() - before
    content: dict[str, Any] = {
        "step": name,
        "fold": fold,
        "seed": seed,
        "settings": list(STEPS[name].overrides),
        "processor_minutes": round(minutes, 2),
    }
    for part in PARTS:
        slices = folds.select(fold, part)
        table = read_predictions(folder / f"predictions_{part}.csv").set_index("SOPInstanceUID")
        probs = table.loc[slices["SOPInstanceUID"], list(PROB_COLUMNS)].to_numpy()
        content[f"{part}_slices"] = hash_slices(slices)
        content[part] = [[float(f"{prob:.4g}") for prob in row] for row in probs]
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(content) + "\n", encoding="utf-8")


def make_command(root: Path, folder: Path, split: Path, name: str, seed: int) -> list[str]:
    """Returns the arguments of Python that train one fold of a step, or resume it."""
    step = STEPS[name]
    if step.script is not None:
        script = str(REPOSITORY / "benchmarks" / step.script)
        data = ["--root", str(root), "--split", str(split)]
        return [script, *data, "--out", str(folder), "--seed", str(seed)]
    program = str(REPOSITORY / "train.py")
    if (folder / "checkpoints" / "last.ckpt").exists():
        return [program, f"ckpt_path={folder}"]
    run = ("data=rsna", "logger=csv", f"data.root={root}", f"data.split={split}", f"seed={seed}")
    # Pretraining sees no slice of the data and is the same for every fold, so the first fold's serves all.
    owner = folder.parent / f"{step.start or name}_0_{seed}"
    start = owner / "pretrain" / "checkpoints" / "best.ckpt"
    if not start.exists():
        return [program, *run, f"run_dir={folder}", *step.overrides]
    own = [override for override in step.overrides if not override.startswith("pretrain")]
    return [program, *run, f"run_dir={folder}", *own, "pretrain=none", f"model.init_from={start}"]


def measure_minutes() -> float:
    """Returns the processor time of the trainings so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 60


def read_fold(folds: Folds, name: str, fold: int, seed: int, part: str) -> pd.DataFrame:
    """Reads the predictions of one part from a record; of a mean of steps from those of its members."""
    if members := STEPS[name].members:
        return ensemble({member: read_fold(folds, member, fold, seed, part) for member in members})
    record = json.loads(find_record(name, fold, seed).read_text(encoding="utf-8"))
    slices = folds.select(fold, part)
    if record[f"{part}_slices"] != hash_slices(slices):
        raise SystemExit(f"{find_record(name, fold, seed)} is of other slices than those of {folds.root}")
    return make_predictions(slices, part, np.array(record[part]))


def pool(folds: Folds, name: str, seed: int) -> pd.DataFrame:
    """Returns the test predictions of all folds."""
    tables = {str(fold): read_fold(folds, STEPS[name].smooths or name, fold, seed, "test") for fold in FOLDS}
    if STEPS[name].smooths is not None:
        tables, _ = smooth_folds(tables)
    return pd.concat(tables.values(), ignore_index=True)


def measure_validation(folds: Folds, name: str, seed: int) -> float:
    """Returns the mean log loss of the validation sets; NaN where the test sets of other folds had a say."""
    if STEPS[name].smooths is not None:
        return math.nan
    tables = [read_fold(folds, name, fold, seed, "val") for fold in FOLDS]
    return mean(
        evaluate(table, levels=["slice"], replicates=1).levels["slice"].weighted_log_loss.value
        for table in tables
    )


def list_seeds(name: str) -> list[int]:
    """Lists the seeds of which all folds are there."""
    found = [
        {
            int(path.stem.rpartition("_")[2])
            for path in RECORDS.glob(f"{step}_0_*.json")
            if all(find_record(step, fold, int(path.stem.rpartition("_")[2])).exists() for fold in FOLDS)
        }
        for step in list_trained(name)
    ]
    return sorted(set.intersection(*found))


def count_minutes(name: str, seed: int) -> float:
    """Returns the processor minutes of a fold, on average; pretraining is in the first fold's."""
    return sum(
        mean(json.loads(find_record(step, fold, seed).read_text())["processor_minutes"] for fold in FOLDS)
        for step in list_trained(name)
    )


@dataclass(frozen=True)
class Row:
    """The figures of a step: an evaluation for each seed, and the first seed compared with its base."""

    name: str
    seeds: list[int]
    evaluations: list[Evaluation]
    validation: list[float]
    minutes: float
    pair: Pair | None


def measure(folds: Folds, name: str) -> Row | None:
    """Measures a step; None if not all folds of a seed are there."""
    if not (seeds := list_seeds(name)):
        return None
    tables = {seed: pool(folds, name, seed) for seed in seeds}
    base, pair = STEPS[name].base, None
    if base is not None and (shared := [seed for seed in list_seeds(base) if seed in seeds]):
        both = {name: tables[shared[0]], base: pool(folds, base, shared[0])}
        (pair,) = compare(both).pairs
    return Row(
        name,
        seeds,
        [evaluate(table, levels=["slice", "patient"]) for table in tables.values()],
        [measure_validation(folds, name, seed) for seed in seeds],
        mean(count_minutes(name, seed) for seed in seeds),
        pair,
    )


def say(values: Sequence[float], digits: int = 3) -> str:
    """Says the mean over seeds, and each seed's value if there are several."""
    text = f"{mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({', '.join(f'{value:.{digits}f}' for value in values)})"


def say_difference(found: Estimate) -> str:
    """Says a difference with its interval, all of them with signs."""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def describe(row: Row) -> Iterator[str]:
    """Yields the cells of a row of the table."""
    slices = [evaluation.levels["slice"] for evaluation in row.evaluations]
    patients = [evaluation.levels["patient"] for evaluation in row.evaluations]
    yield STEPS[row.name].text
    yield f"{row.minutes:.0f}"
    yield "" if math.isnan(row.validation[0]) else say(row.validation)
    first = slices[0].labels["any"].auroc
    yield f"{say([each.labels['any'].auroc.value for each in slices])} [{first.low:.3f}-{first.high:.3f}]"
    yield say([each.auroc_mean_subtypes.value for each in slices])
    first = patients[0].labels["any"].auroc
    yield f"{say([each.labels['any'].auroc.value for each in patients])} [{first.low:.3f}-{first.high:.3f}]"
    first = slices[0].weighted_log_loss
    yield f"{say([each.weighted_log_loss.value for each in slices])} [{first.low:.3f}-{first.high:.3f}]"
    yield say([each.labels["any"].raw.expected_error.value for each in slices])
    yield "" if row.pair is None else say_difference(row.pair.labels["any"].auroc)
    yield "" if row.pair is None else say_difference(row.pair.weighted_log_loss)
    yield STEPS[row.name].base or ""


COLUMNS = (
    *("step", "minutes", "validation log loss", "AUROC any by slice", "mean of subtypes"),
    *("AUROC any by patient", "log loss", "ECE any", "AUROC minus base", "log loss minus base", "base"),
)

TEXT = """\
# The ladder on CT-ICH

`python benchmarks/ladder.py report --root data/ct_ich` writes this page from the records in
`benchmarks/ladder/`.

CT-ICH has {slices:,} slices of {patients} patients. All steps use the same five patient-wise folds. The
figures are those of the pooled test sets. Several seeds are given as their mean, with each seed's value in
parentheses. Intervals in brackets are 95 % intervals of the first seed, from a bootstrap over patients.
Differences are paired, and those of the first seed. Minutes are processor minutes per fold. They include a
fifth of the pretraining where a step is the first to need it. A step is chosen by the mean log loss of the
validation sets. The kernels that smooth a fold were fitted on the test sets of the other folds, so a
smoothed step has no such figure. The constant predictor has a log loss of {constant:.3f}.

Research use only; not a medical device.

"""


def compare_with_peer(folds: Folds) -> Iterator[str]:
    """Yields lines on the best step against the peer's, for each seed that both have."""
    yield f"\n`{BEST}` minus `{PEER}`, paired:\n\n"
    for seed in sorted(set(list_seeds(BEST)) & set(list_seeds(PEER))):
        (pair,) = compare({BEST: pool(folds, BEST, seed), PEER: pool(folds, PEER, seed)}).pairs
        area, loss = pair.labels["any"].auroc, pair.weighted_log_loss
        yield f"- seed {seed}: AUROC any {say_difference(area)}, log loss {say_difference(loss)}\n"


def report(folds: Folds) -> None:
    """Writes the page."""
    rows = [row for row in (measure(folds, name) for name in STEPS) if row is not None]
    if not rows:
        raise SystemExit(f"{RECORDS} holds no step with all folds; run `train` first")
    evaluation = rows[0].evaluations[0]
    text = TEXT.format(
        slices=evaluation.slices,
        patients=evaluation.patients,
        constant=evaluation.levels["slice"].constant_log_loss,
    )
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join([f"`{row.name}`: {text}", *rest]) for row in rows for text, *rest in [describe(row)]]
    table = "".join(f"| {line} |\n" for line in lines)
    PAGE.write_text(text + table + "".join(compare_with_peer(folds)), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train steps that have no record yet")
    training.add_argument("--out", type=Path, required=True, help="folder of the runs")
    trained = [name for name, step in STEPS.items() if not step.parts]
    training.add_argument("--steps", nargs="+", choices=trained, default=trained)
    training.add_argument("--seeds", nargs="+", type=int, default=[0])
    training.add_argument("--folds", nargs="+", type=int, choices=FOLDS, default=list(FOLDS))
    for command in (training, commands.add_parser("report", help="write docs/ladder.md")):
        command.add_argument("--root", type=Path, required=True, help="CT-ICH in the RSNA layout")
    args = parser.parse_args()
    folds = Folds(args.root.resolve())
    if args.command == "report":
        report(folds)
        return
    for seed in args.seeds:
        for name in args.steps:
            for fold in args.folds:
                train(folds, args.out.resolve(), name, fold, seed)


if __name__ == "__main__":
    main()
