"""Evaluation: coverage of the intervals, time and memory, and a loop of scikit-learn beside it.

The tables are drawn at random: patients with one or two studies, whose slices are correlated.

    python benchmarks/evaluation.py coverage    # 2,000 simulated tables: minutes on a core
    python benchmarks/evaluation.py timing      # 121,232 slices, 1,000 bootstrap samples
    python benchmarks/evaluation.py loop        # the same samples, one by one through scikit-learn
"""

import argparse
import resource
import sys
import time

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from ich.evaluate import evaluate
from ich.evaluate.delong import estimate_delong
from ich.evaluate.estimate import draw_patients, estimate
from ich.evaluate.roc import Ranking, find_auroc, find_average_precision
from ich.evaluate.units import Patients, Units
from ich.schema import LABELS
from ich.tables import PROB_COLUMNS, TARGET_COLUMNS

AREA = 0.85
PATIENTS, POSITIVE_SHARE, SLICES = 300, 0.3, 8
REPETITIONS, REPLICATES = 2000, 1000

SLICE_SHARES = (0.0041, 0.048, 0.035, 0.048, 0.063)
"""Of the subtypes, about as in RSNA 2019."""


def simulate_patients(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One unit a patient, binormal with an area of ``AREA``: target, score, patient."""
    target = (rng.random(PATIENTS) < POSITIVE_SHARE).astype(float)
    return target, rng.normal(size=PATIENTS) + np.sqrt(2) * norm.ppf(AREA) * target, np.arange(PATIENTS)


def simulate_slices(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Several slices a patient that share half of the score's variance, of an area of ``AREA`` on the whole.

    A patient with the label has it in half of the slices. Slices of two patients compare as before, and a
    patient's own slices compare more easily; of all pairs those are too few to matter.
    """
    patients = np.repeat(np.arange(PATIENTS), SLICES)
    has = rng.random(PATIENTS) < POSITIVE_SHARE
    target = (has[patients] & (rng.random(len(patients)) < 0.5)).astype(float)
    score = np.sqrt(0.5) * (rng.normal(size=PATIENTS)[patients] + rng.normal(size=len(patients)))
    return target, score + np.sqrt(2) * norm.ppf(AREA) * target, patients


def measure_coverage(repetitions: int) -> None:
    """Prints how often the 95 % intervals hold the true area, and on which side they miss."""
    for simulate in (simulate_patients, simulate_slices):
        found: dict[str, list[tuple[float, float]]] = {"bootstrap": [], "DeLong, clustered": []}
        for repetition in range(repetitions):
            target, score, patients = simulate(np.random.default_rng([7, repetition]))
            counts = draw_patients(PATIENTS, REPLICATES, repetition)
            (areas,) = Ranking(target, score, patients).score(counts, [find_auroc])
            for name, interval in (
                ("bootstrap", estimate(areas)),
                ("DeLong, clustered", estimate_delong(target, score, patients)),
            ):
                found[name].append((interval.low, interval.high))
        for name, intervals in found.items():
            low, high = np.array(intervals).T
            inside = ((low <= AREA) & (high >= AREA)).mean()
            error = np.sqrt(inside * (1 - inside) / repetitions)
            print(
                f"{simulate.__name__[9:]:9} {name:18} covers {100 * inside:.1f} % (+- {100 * error:.1f}), "
                f"too high {100 * (low > AREA).mean():.1f} %, too low {100 * (high < AREA).mean():.1f} %, "
                f"mean width {(high - low).mean():.4f}"
            )


def make_table(slices: int, studies: int, patients: int, seed: int, part: str) -> pd.DataFrame:
    """A predictions table of a made-up data set and model."""
    rng = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(patients), rng.integers(patients, size=studies - patients)])
    size = 5 + rng.multinomial(slices - 5 * studies, np.full(studies, 1 / studies))
    study = np.repeat(np.arange(studies), size)
    height = np.concatenate([np.linspace(0, 1, n) for n in size])
    target, logits = np.zeros((slices, len(LABELS))), np.zeros((slices, len(LABELS)))
    for i, share in enumerate(SLICE_SHARES):
        has = rng.random(studies) < 2.6 * share
        middle, reach = rng.uniform(0.3, 0.7, studies), rng.uniform(0.1, 0.28, studies)
        target[:, i] = has[study] & (np.abs(height - middle[study]) < reach[study])
        noise = rng.normal(size=slices) + 0.7 * rng.normal(size=studies)[study]
        logits[:, i] = 1.3 * (3 * target[:, i] + noise - 3.5)
    target[:, -1] = target.max(axis=1)
    probs = 1 / (1 + np.exp(-logits))
    probs[:, -1] = 1 - np.prod(1 - probs[:, :-1], axis=1)
    table = pd.DataFrame(
        {
            "SOPInstanceUID": [f"{part}-{i}" for i in range(slices)],
            "SeriesInstanceUID": [f"{part}-{i}-1" for i in study],
            "StudyInstanceUID": [f"{part}-{i}" for i in study],
            "PatientID": [f"{part}-{i}" for i in owner[study]],
            "part": part,
        }
    )
    table[list(PROB_COLUMNS)] = probs
    table[list(TARGET_COLUMNS)] = target
    return table


def measure_time() -> None:
    """Prints what a whole evaluation takes."""
    table = make_table(121_232, 3_700, 2_400, 0, "test")
    validation = make_table(30_000, 900, 600, 1, "val")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, worked = time.perf_counter(), time.process_time()
    evaluation = evaluate(table, validation=validation, replicates=REPLICATES)
    took, worked = time.perf_counter() - start, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1e9 if sys.platform == "darwin" else 1e6  # bytes there, kB elsewhere
    print(
        f"{len(table):,} slices, {evaluation.levels['study'].units:,} studies, "
        f"{evaluation.patients:,} patients, {REPLICATES} samples, {', '.join(evaluation.levels)}: "
        f"{took:.1f} s ({worked:.1f} s of processor time), "
        f"peak {peak / unit:.2f} GB (before it {before / unit:.2f} GB)"
    )


def measure_loop(samples: int) -> None:
    """Prints AUROC and average precision of all labels beside a loop of scikit-learn, and how they differ."""
    table = make_table(121_232, 3_700, 2_400, 0, "test")
    patients = Patients(table)
    counts = draw_patients(len(patients), REPLICATES, 0)
    units = Units(table, patients, "slice", "max")
    columns = [units.column(label) for label in LABELS]
    start, worked = time.perf_counter(), time.process_time()
    ours = [column.score(counts, [find_auroc, find_average_precision]) for column in columns]
    took, worked = time.perf_counter() - start, time.process_time() - worked
    worst, start, started = 0.0, time.perf_counter(), time.process_time()
    for i in range(samples):
        for column, (areas, precisions) in zip(columns, ours, strict=True):
            weight = counts[i][column.codes]
            area = roc_auc_score(column.target, column.prob, sample_weight=weight)
            precision = average_precision_score(column.target, column.prob, sample_weight=weight)
            worst = max(worst, abs(area - areas[i]), abs(precision - precisions[i]))
    loop = (time.perf_counter() - start) / samples * len(counts)
    loop_worked = (time.process_time() - started) / samples * len(counts)
    print(
        f"AUROC and average precision of {len(LABELS)} labels, {len(table):,} slices, {REPLICATES} samples: "
        f"{took:.1f} s ({worked:.1f} s of processor time); scikit-learn {loop:.0f} s ({loop_worked:.0f} s; "
        f"from {samples} of the samples): {loop / took:.0f} times as long, {loop_worked / worked:.0f} times "
        f"the work; figures differ by {worst:.1e} at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["coverage", "timing", "loop"])
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="simulated tables, of coverage")
    parser.add_argument("--samples", type=int, default=10, help="samples that scikit-learn sees, of loop")
    args = parser.parse_args()
    if args.what == "coverage":
        measure_coverage(args.repetitions)
    elif args.what == "timing":
        measure_time()
    else:
        measure_loop(args.samples)


if __name__ == "__main__":
    main()
