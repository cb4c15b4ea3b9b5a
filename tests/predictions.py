"""Predictions tables for tests of what is computed from them."""

import numpy as np
import pandas as pd

from ich.schema import LABELS, SUBTYPES


def make_table(patients=30, seed=0, prevalence=0.3, signal=1.5, part="test"):
    """Patients of one or two studies of 1 to 5 slices; probabilities rounded, so that many are tied."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"P{p}", f"P{p}-{study}", f"P{p}-{study}-0", f"{part}-P{p}-{study}-{n}")
        for p in range(patients)
        for study in range(rng.integers(1, 3))
        for n in range(rng.integers(1, 6))
    ]
    uids = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    table = pd.DataFrame(rows, columns=uids).assign(part=part)
    for label in LABELS:
        target = (rng.random(len(table)) < prevalence).astype(float)
        logits = rng.normal(size=len(table)) + signal * target - 1
        table[f"prob_{label}"] = (1 / (1 + np.exp(-logits))).round(1)
        table[f"target_{label}"] = target
    return table


def keep_any(table):
    """A table that knows no target but any hemorrhage: there is less to compute and to draw."""
    return table.assign(**dict.fromkeys([f"target_{label}" for label in SUBTYPES], np.nan))


def draw_tables(table, replicates, seed):
    """The tables that a bootstrap over patients draws, row by row."""
    by_patient = dict(list(table.groupby("PatientID", sort=False)))
    names = list(by_patient)
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield pd.concat(
            [by_patient[names[i]] for i in rng.integers(len(names), size=len(names))], ignore_index=True
        )
