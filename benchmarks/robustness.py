"""What a model loses when Hounsfield units are off, slices are noisy, thicker or thinner.

Slices are read once, at the size of the network, and changed in memory. Each change is compared with the
unchanged slices on the same bootstrap samples of patients, so its intervals are paired. HU are scaled about
water. Noise is white, at the size of the network. Thick slices are means of two or three neighbors, with the
labels of them all. Thin slices cannot be made of thick ones; a phantom of the same seed can be written with
thin ones. They are read as they are, and averaged to the usual step of the others, as `ich predict` does.
Several runs are the folds of one split: each predicts the patients of its own test set.

    python benchmarks/robustness.py runs/mine data/ct_ich --split runs/mine/split.csv --json runs/robust.json
    python benchmarks/robustness.py runs/folds/fold_{0,1,2,3,4} data/ct_ich --brain-hu 35
    ich phantom data/thick --patients 100 --seed 7 --size 160 --step 5
    ich phantom data/thin --patients 100 --seed 7 --size 160 --step 1.67
    python benchmarks/robustness.py runs/mine data/thick --thin data/thin
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.progress import track

from ich.calibration import Decision
from ich.data.slices import SliceReader, to_arrays
from ich.evaluate.calibration_error import BINS
from ich.evaluate.estimate import REPLICATES, divide, draw_patients, estimate, sum_by_patient
from ich.evaluate.figures import Estimate, to_plain
from ich.evaluate.levels import sample_losses
from ich.evaluate.pooling import DEFAULT_POOLING
from ich.evaluate.units import Column, Patients, Units
from ich.image import average_slabs
from ich.index import build_index, find_labels, read_labels
from ich.index.joining import join_labels
from ich.predict import Predictor
from ich.schema import UserError
from ich.schema.labels import LabelSet
from ich.tables import make_predictions, restore_texts
from ich.tables.slabs import find_middle, find_slabs, measure_step, measure_thickness

UNCHANGED = "unchanged"
LEVELS = ("slice", "study")
STACK = ["StudyInstanceUID", "SeriesInstanceUID", "stack"]

Floats = NDArray[np.float64]
Samples = dict[str, Floats]


@dataclass(frozen=True)
class Stack:
    """The slices of a stack, in order: N rows of the index with labels, and (N, S, S) HU."""

    rows: pd.DataFrame
    hu: NDArray[np.int16]
    names: tuple[str, ...]


Change = Callable[[Stack, np.random.Generator], Stack]


def change_hu(slope: float, offset: float) -> Change:
    return lambda stack, _: replace(stack, hu=to_hu(stack.hu * slope + offset))


def add_noise(sigma: float) -> Change:
    return lambda stack, rng: replace(stack, hu=to_hu(stack.hu + rng.normal(0, sigma, stack.hu.shape)))


def to_hu(values: Floats) -> NDArray[np.int16]:
    return np.rint(values).clip(-32768, 32767).astype(np.int16)


def thicken(factor: float) -> Change:
    return lambda stack, _: average(stack, factor * measure_step(stack.rows["position"].to_numpy()))


def average(stack: Stack, thickness: float) -> Stack:
    """Averages slices to a thickness in mm; a slab has a label if one of its slices has it."""
    slabs = find_slabs(stack.rows["position"].to_numpy(), thickness)
    rows = stack.rows.iloc[[find_middle(slab) for slab in slabs]].copy()
    for name in stack.names:
        rows[name] = [stack.rows[name].iloc[slab].max() for slab in slabs]
    return replace(stack, rows=rows, hu=average_slabs(stack.hu, slabs))


CHANGES: dict[str, Change] = {
    UNCHANGED: lambda stack, _: stack,
    **{f"HU {offset:+d}": change_hu(1, offset) for offset in (-20, 20)},
    **{f"HU x {slope}": change_hu(slope, 0) for slope in (0.9, 1.1)},
    **{f"HU x {s} {o:+d}": change_hu(s, o) for s in (0.9, 1.1) for o in (-20, 20)},
    **{f"noise of {sigma} HU": add_noise(sigma) for sigma in (5, 10)},
    **{f"{count} slices as one": thicken(count) for count in (2, 3)},
}


def read_stacks(
    root: Path, labels: Path | None, patients: set[str] | None, label_set: LabelSet, size: int
) -> list[Stack]:
    """Reads the slices of some patients of a folder, or of all, with their labels."""
    file = labels or find_labels(root, label_set)
    table, _ = join_labels(build_index(root).table, read_labels(file, label_set))
    if patients is not None:
        table = table[table["PatientID"].isin(patients)].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{root} has no slices of these patients")
    reader, hu = SliceReader(root, to_arrays(table)), np.empty((len(table), size, size), np.int16)
    for row in track(range(len(table)), f"reading {root}", transient=True):
        reader.read(row, hu[row])
    groups = table.groupby(STACK, sort=False).indices.values()
    return [Stack(table.iloc[rows], hu[rows], label_set.names) for rows in groups]


def predict(predictor: Predictor, stacks: Sequence[Stack], change: Change) -> pd.DataFrame:
    """Predicts changed slices; noise is drawn anew for each stack, the same in each call."""
    tables = []
    for number, stack in enumerate(stacks):
        changed = change(stack, np.random.default_rng(number))
        window = changed.rows[["WindowCenter", "WindowWidth"]].to_numpy(np.float32)
        scores = predictor.predict_hu(list(changed.hu), window, changed.rows["position"])
        rows = changed.rows[list(changed.names)].notna().any(axis=1).to_numpy()
        probs = scores.probs.mean(axis=0)[rows]
        tables.append(make_predictions(changed.rows[rows], "test", probs, names=changed.names))
    return pd.concat(tables, ignore_index=True)


def sample(units: Units, labels: LabelSet, counts: NDArray[np.int32]) -> Samples:
    """(R + 1,) of each figure: the table's own first, then those of bootstrap samples."""
    column = units.column(labels.headline)
    areas = {label: units.column(label).score_areas(counts)[0] for label in labels.names}
    subtypes = [area for label, area in areas.items() if label in labels.averaged and not np.isnan(area[0])]
    positive = column.target == 1
    decided = np.nan if column.undecided else 1.0
    return {
        f"AUROC {labels.headline}": areas[labels.headline],
        "AUROC subtypes": np.mean(subtypes, axis=0) if subtypes else np.full(len(counts), np.nan),
        "log loss": sample_losses(units, units.probs, labels, counts),
        f"ECE {labels.headline}": sample_ece(column, counts),
        "sensitivity": decided * share(column.called[positive], column.codes[positive], counts),
        "specificity": decided * share(~column.called[~positive], column.codes[~positive], counts),
    }


def sample_ece(column: Column, counts: NDArray[np.int32]) -> Floats:
    """Expected calibration error over bins of equal width, of calibrated probabilities if there are any."""
    prob = column.calibrated
    bins = np.eye(BINS)[np.minimum((prob * BINS).astype(int), BINS - 1)]  # (N, BINS)
    gaps = counts @ sum_by_patient(column.codes, counts.shape[1], bins * (prob - column.target)[:, None])
    units = counts @ np.bincount(column.codes, minlength=counts.shape[1])
    return divide(np.abs(gaps).sum(axis=1), units)


def share(holds: NDArray[np.bool_], codes: NDArray[np.intp], counts: NDArray[np.int32]) -> Floats:
    hits, units = (np.bincount(codes, each, counts.shape[1]) for each in (holds, np.ones_like(holds)))
    return divide(counts @ hits, counts @ units)


def compare(
    tables: Mapping[str, pd.DataFrame],
    labels: LabelSet,
    level: str,
    counts: NDArray[np.int32],
    decision: Decision | None,
) -> dict[str, dict[str, tuple[Estimate, Estimate]]]:
    """Figures of each table, and their differences from the unchanged slices on the same samples."""
    pooling = DEFAULT_POOLING if decision is None else decision.pooling
    patients = Patients(tables[UNCHANGED])
    rows: dict[str, dict[str, tuple[Estimate, Estimate]]] = {}
    samples: dict[str, Samples] = {}
    for name, table in tables.items():
        units = Units(table, patients, level, pooling, decision)
        samples[name] = sample(units, labels, counts)
        shortage = units.column(labels.headline).shortage
        rows[name] = {
            figure: (estimate(values, shortage), estimate(values - samples[UNCHANGED][figure], shortage))
            for figure, values in samples[name].items()
        }
    return rows


def show(rows: Mapping[str, Mapping[str, tuple[Estimate, Estimate]]]) -> str:
    table = {
        name: {figure: tell(*pair, is_first=name == UNCHANGED) for figure, pair in figures.items()}
        for name, figures in rows.items()
    }
    return pd.DataFrame(table).T.to_string()


def tell(value: Estimate, difference: Estimate, *, is_first: bool) -> str:
    if np.isnan(value.value):
        return "n/a"
    if is_first:
        return f"{value.value:.3f}"
    told = f"{value.value:.3f} {difference.value:+.3f}"
    known = not np.isnan(difference.low)
    return f"{told} ({difference.low:+.3f} to {difference.high:+.3f})" if known else told


def load(model: Path, args: argparse.Namespace) -> Predictor:
    """Loads a model, with another ``brain_hu`` if it is given."""
    predictor = Predictor.load(model, gpus=args.gpus, threads=args.threads)
    if args.brain_hu is not None:
        for network in predictor.networks:
            network.input = replace(network.input, brain_hu=args.brain_hu)
    return predictor


def predict_changed(
    predictor: Predictor, split: Path | None, args: argparse.Namespace
) -> dict[str, pd.DataFrame]:
    """Predicts the patients of a split's test set, or all, from slices with each change."""
    labels, size = predictor.label_set, predictor.networks[0].input.size
    chosen = None
    if split is not None:
        rows = restore_texts(pd.read_csv(split, dtype=str, keep_default_na=False))
        chosen = set(rows.loc[rows["part"] == "test", "PatientID"])
    stacks = read_stacks(args.root, args.labels, chosen, labels, size)
    changes = track(CHANGES.items(), "predicting", transient=True)
    tables = {name: predict(predictor, stacks, change) for name, change in changes}
    if args.thin:
        patients = set(tables[UNCHANGED]["PatientID"])
        thickness = measure_thickness(pd.concat([stack.rows for stack in stacks]))
        thin = read_stacks(args.thin, None, patients, labels, size)
        tables["thin slices"] = predict(predictor, thin, CHANGES[UNCHANGED])
        tables["thin, averaged"] = predict(predictor, thin, lambda stack, _: average(stack, thickness))
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        type=Path,
        nargs="+",
        help="a run, a checkpoint, a bundle or an ONNX file; or folds",
    )
    parser.add_argument("root", type=Path, help="folder of the DICOM files")
    parser.add_argument("--labels", type=Path, help="label CSV (default: that in ROOT)")
    parser.add_argument("--split", type=Path, help="split.csv of a run: only patients of its test set")
    parser.add_argument("--brain-hu", type=float, help="predict with this input.brain_hu")
    parser.add_argument("--thin", type=Path, help="the same patients with thinner slices")
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="bootstrap samples")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the samples")
    parser.add_argument("--gpus", type=int, help="0 is the CPU, 1 a GPU (default: a GPU if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads; 1 is fastest for small networks")
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args()
    if len(args.models) > 1 and args.split:
        parser.error("--split is for one model; the folds have splits of their own")
    predictors = [load(model, args) for model in args.models]
    splits = [args.split] if len(args.models) == 1 else [model / "split.csv" for model in args.models]
    parts = [predict_changed(*pair, args) for pair in zip(predictors, splits, strict=True)]
    tables = {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}
    labels = predictors[0].label_set
    decisions = predictors[0].networks[0].metadata.decisions if len(predictors) == 1 else None
    counts = draw_patients(tables[UNCHANGED]["PatientID"].nunique(), args.replicates, args.seed)
    positive = tables[UNCHANGED].groupby("PatientID")[f"target_{labels.headline}"].max().sum()
    print(f"{len(tables[UNCHANGED])} slices of {counts.shape[1]} patients, {positive:.0f} of them positive")
    found = {level: compare(tables, labels, level, counts, (decisions or {}).get(level)) for level in LEVELS}
    for level, rows in found.items():
        print(f"\nby {level}: each figure, and its difference from unchanged slices (95 % interval)")
        print(show(rows))
    if args.json:
        plain = {
            level: {
                name: {
                    figure: {"value": to_plain(a), "difference": to_plain(b)}
                    for figure, (a, b) in each.items()
                }
                for name, each in rows.items()
            }
            for level, rows in found.items()
        }
        args.json.write_text(json.dumps({"patients": counts.shape[1], **plain}, indent=2) + "\n")


if __name__ == "__main__":
    main()
