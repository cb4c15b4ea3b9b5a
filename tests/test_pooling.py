"""Slices pooled into series, studies and patients, against pandas and by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from ich.evaluate.pooling import LEVELS, METHODS, pool
from ich.schema import LABELS, UserError
from ich.tables import PROB_COLUMNS, TARGET_COLUMNS


def make_slices(seed=0, patients=12):
    """Patients of one or two studies of one or two series of 1 to 6 slices, in mixed order."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"P{p}", f"P{p}-{study}", f"P{p}-{study}-{series}", f"P{p}-{study}-{series}-{n}")
        for p in range(patients)
        for study in range(rng.integers(1, 3))
        for series in range(rng.integers(1, 3))
        for n in range(rng.integers(1, 7))
    ]
    uids = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    table = pd.DataFrame(rows, columns=uids).assign(part="test")
    table[list(PROB_COLUMNS)] = rng.random((len(table), 6)).round(2)
    table[list(TARGET_COLUMNS)] = rng.choice([0.0, 1.0, math.nan], (len(table), 6), p=[0.7, 0.2, 0.1])
    return table.sample(frac=1, random_state=seed, ignore_index=True)


REFERENCES = {
    "max": lambda p: p.max(),
    "mean": lambda p: p.mean(),
    "top3_mean": lambda p: p.nlargest(3).mean(),
    "top5_mean": lambda p: p.nlargest(5).mean(),
    "noisy_or": lambda p: 1 - (1 - p).prod(),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("level", "key"),
    [("series", "SeriesInstanceUID"), ("study", "StudyInstanceUID"), ("patient", "PatientID")],
)
def test_pooling_equals_pandas(level, key, method):
    slices = make_slices()
    pooled = pool(slices, level, method)
    groups = slices.groupby(key, sort=False)
    assert pooled["unit"].tolist() == list(groups.groups)
    assert pooled["slices"].tolist() == groups.size().tolist()
    assert pooled["PatientID"].tolist() == groups["PatientID"].first().tolist()
    for column in PROB_COLUMNS:
        expected = groups[column].apply(REFERENCES[method])
        np.testing.assert_allclose(pooled[column], expected, rtol=0, atol=1e-12)
    for column in TARGET_COLUMNS:
        expected = [1.0 if (t == 1).any() else math.nan if t.isna().any() else 0.0 for _, t in groups[column]]
        np.testing.assert_array_equal(pooled[column], expected)


@pytest.mark.parametrize(
    ("method", "expected"), [("max", 0.5), ("mean", 0.275), ("top3_mean", 1.1 / 3), ("noisy_or", 0.76)]
)
def test_pooling_by_hand(method, expected):
    slices = make_slices().iloc[:4].assign(StudyInstanceUID="S", PatientID="P", prob_any=[0.2, 0.5, 0.0, 0.4])
    assert pool(slices, "study", method)["prob_any"].tolist() == [pytest.approx(expected)]


def test_a_certain_slice_makes_its_study_certain_without_a_warning():
    slices = make_slices().iloc[:3].assign(StudyInstanceUID="S", PatientID="P", prob_any=[1.0, 0.3, 0.0])
    assert pool(slices, "study", "noisy_or")["prob_any"].tolist() == [1.0]


def test_slices_stay_as_they_are_whatever_the_method():
    slices = make_slices()
    for method in METHODS:
        pooled = pool(slices, "slice", method)
        assert pooled["unit"].tolist() == slices["SOPInstanceUID"].tolist()
        assert (pooled["slices"] == 1).all()
        columns = ["PatientID", "part", *PROB_COLUMNS, *TARGET_COLUMNS]
        pd.testing.assert_frame_equal(pooled[columns], slices[columns])


@pytest.mark.parametrize("level", LEVELS)
def test_an_empty_table_pools_to_an_empty_one(level):
    assert len(pool(make_slices().iloc[:0], level, "noisy_or")) == 0


@pytest.mark.parametrize(
    ("change", "level", "method", "message"),
    [
        (lambda t: t, "organ", "max", "level=organ: expected one of slice, series, study, patient"),
        (lambda t: t, "study", "median", "pooling=median: expected one of max"),
        (lambda t: t.drop(columns="StudyInstanceUID"), "study", "max", "lacks the columns Study"),
        (lambda t: t.assign(StudyInstanceUID=""), "study", "max", "lacks the StudyInstanceUID of"),
        (
            lambda t: t.assign(StudyInstanceUID="S"),
            "study",
            "max",
            "share their Study",
        ),
        (
            lambda t: t.drop(columns=f"target_{LABELS[0]}"),
            "study",
            "max",
            "lacks the columns target",
        ),
    ],
)
def test_what_cannot_be_pooled_is_refused(change, level, method, message):
    with pytest.raises(UserError, match=message):
        pool(change(make_slices()), level, method)
