"""Figures of groups: by encoding, slice spacing, tilt or a column of anybody's."""

import math

import numpy as np
import pandas as pd
import pytest
from predictions import make_table

from ich.evaluate import evaluate
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.subgroups import SUBGROUP_COLUMNS, describe_slices, subgroups
from ich.index import build_index
from ich.schema import UserError


def test_groups_of_texts_are_evaluations_of_their_slices():
    table = make_table(patients=60)
    side = pd.Series(np.where(table.PatientID.str[-1].isin(list("0123")), "left", "right"), name="side")
    decision = fit_decisions(make_table(patients=60, seed=1, part="val"), levels=["slice"])["slice"]
    found = subgroups(table, side, decision=decision, labels=["any"], replicates=20, seed=4)
    assert list(found.columns) == list(SUBGROUP_COLUMNS)
    assert found["group"].unique().tolist() == ["left", "right"]
    assert found["figure"].tolist() == ["auroc", "average_precision", "sensitivity", "specificity"] * 2
    for group, rows in found.groupby("group"):
        part = table[(side == group).to_numpy()]
        own = evaluate(part, decisions={"slice": decision}, levels=["slice"], replicates=20, seed=4)
        label = own.levels["slice"].labels["any"]
        assert (rows["units"] == len(part)).all()
        assert (rows["patients"] == part["PatientID"].nunique()).all()
        for name, estimate in (
            ("auroc", label.auroc),
            ("average_precision", label.average_precision),
            ("sensitivity", label.operating_point.sensitivity),
            ("specificity", label.operating_point.specificity),
        ):
            row = rows[rows["figure"] == name].iloc[0]
            assert (row["value"], row["low"], row["high"]) == (estimate.value, estimate.low, estimate.high)


def test_numbers_are_cut_at_quantiles_and_missing_ones_are_a_group():
    table = make_table(patients=60)
    spacing = pd.Series(np.linspace(0, 100, len(table)), name="spacing")
    spacing.iloc[:7] = np.nan
    found = subgroups(table, spacing, labels=["any"], bins=4, replicates=5)
    units = found[found["figure"] == "auroc"].set_index("group")["units"]
    assert len(units) == 5
    assert units.index[-1] == "unknown"
    assert units["unknown"] == 7
    assert units.iloc[:4].max() - units.iloc[:4].min() <= 1
    assert units.sum() == len(table)


def test_few_distinct_numbers_are_groups_of_their_own():
    table = make_table(patients=40)
    thickness = pd.Series(np.where(table.index % 2, 5.0, 2.5), name="thickness")
    found = subgroups(table, thickness, labels=["any"], replicates=5)
    assert found["group"].unique().tolist() == ["2.5", "5"]


def test_rare_groups_are_one_and_few_patients_have_a_reason():
    table = make_table(patients=60)
    site = pd.Series(table.PatientID, name="site")
    found = subgroups(table, site, labels=["any"], replicates=5)
    assert len(found["group"].unique()) == 13
    assert found["group"].iloc[-1] == "other"
    alone = found[(found["group"] != "other") & (found["figure"] == "auroc")]
    assert alone["low"].isna().all()
    assert alone["reason"].str.contains("only [01] patients with .* slice; at least 5 needed").all()
    assert not math.isnan(found[(found["group"] == "other") & (found["figure"] == "auroc")]["value"].iloc[0])


def test_a_study_has_the_median_of_its_slices_or_their_one_text():
    table = make_table(patients=40)
    numbers = pd.Series(table.index % 2 * 1.0, name="number")
    medians = numbers.groupby(table.StudyInstanceUID).median()
    found = subgroups(table, numbers, level="study", labels=["any"], replicates=5)
    units = found[found["figure"] == "auroc"].set_index("group")["units"]
    assert units.to_dict() == {f"{value:g}": n for value, n in medians.value_counts().items()}
    texts = pd.Series(np.where(numbers, "odd", "even"), name="text")
    found = subgroups(table, texts, level="study", labels=["any"], replicates=5)
    kinds = texts.groupby(table.StudyInstanceUID).unique()
    units = found[found["figure"] == "auroc"].set_index("group")["units"]
    assert units["mixed"] == (kinds.str.len() == 2).sum()
    assert units.sum() == table.StudyInstanceUID.nunique()


def test_a_column_of_another_length_is_refused():
    with pytest.raises(UserError, match="side has 1 values"):
        subgroups(make_table(), pd.Series(["left"], name="side"))


def test_what_the_index_says_of_a_slice_follows_the_predictions(phantom):
    index = build_index(phantom).table
    predictions = index[["SOPInstanceUID"]].sample(frac=1, random_state=0)
    described = describe_slices(predictions, index.iloc[1:])
    headers = index.set_index("SOPInstanceUID").loc[predictions["SOPInstanceUID"]].reset_index()
    left_out = (headers["SOPInstanceUID"] == index["SOPInstanceUID"].iloc[0]).to_numpy()
    assert described[left_out].isna().all(axis=None)
    described, headers = described[~left_out], headers[~left_out]
    np.testing.assert_allclose(described["tilt"], headers["tilt"].abs(), atol=0.05)
    assert described["encoding"].nunique() == len(
        headers[["BitsStored", "PixelRepresentation", "RescaleIntercept"]].drop_duplicates()
    )
    assert described["encoding"].str.fullmatch(r"\d+ bit (un)?signed, intercept -?\d+").all()
    for series, rows in headers.groupby("SeriesInstanceUID"):
        positions = np.sort(index.loc[index["SeriesInstanceUID"] == series, "position"])
        expected = np.median(np.diff(positions))
        np.testing.assert_allclose(described.loc[rows.index, "slice_spacing"], expected, atol=0.01)
