from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ich.index.split import (
    Shares,
    check_split,
    labels_without_positives,
    read_split,
    sample_patients,
    split_patients,
    split_slices,
    write_split,
)
from ich.schema import LABELS, SUBTYPES, UserError

SHARES = Shares(val_fraction=0.15, test_fraction=0.15, fold=None, folds=5, seed=0)


def make_table(patients: int, positives: tuple[int, ...] = (0, 0, 0, 0, 0), seed: int = 0) -> pd.DataFrame:
    """20 to 40 slices a patient, of which some are positive in so many patients of each subtype."""
    rng = np.random.default_rng(seed)
    slices = rng.integers(20, 41, patients)
    patient = np.repeat(np.arange(patients), slices)
    table = pd.DataFrame({"PatientID": [f"P{number:05d}" for number in patient]})
    table["SOPInstanceUID"] = [f"S{row}" for row in range(len(table))]
    table["SeriesInstanceUID"] = table["PatientID"] + ".3"
    table["StudyInstanceUID"] = table["PatientID"] + rng.choice([".1", ".2"], len(table))
    for subtype, count in zip(SUBTYPES, positives, strict=True):
        has = np.isin(patient, rng.choice(patients, count, replace=False))
        table[subtype] = (has & (rng.random(len(table)) < 0.4)).astype(np.float32)
    table["any"] = table[list(SUBTYPES)].max(axis=1)
    return table


def count_patients(table: pd.DataFrame, parts: pd.Series, label: str) -> dict[str, int]:
    return table[table[label] == 1].groupby(parts)["PatientID"].nunique().to_dict()


@pytest.mark.parametrize("fold", [None, 2])
def test_parts_have_their_share_of_slices_and_of_every_label(fold: int | None) -> None:
    table = make_table(400, (20, 60, 40, 80, 100))
    parts = split_patients(table, replace(SHARES, fold=fold))
    assert parts.groupby(table["PatientID"]).nunique().eq(1).all()
    wanted = (
        {"train": 0.7, "val": 0.15, "test": 0.15}
        if fold is None
        else {"train": 0.65, "val": 0.15, "test": 0.2}
    )
    for part, share in wanted.items():
        inside = parts == part
        assert inside.mean() == pytest.approx(share, abs=0.01)
        for label in LABELS:
            assert count_patients(table, parts, label)[part] == pytest.approx(
                share * count_patients(table, pd.Series("all", table.index), label)["all"], abs=1.5
            )
            assert table.loc[inside, label].sum() / table[label].sum() == pytest.approx(share, abs=0.03)


def test_a_label_of_few_patients_reaches_as_many_parts_as_it_can() -> None:
    table = make_table(50, (12, 10, 3, 4, 2))
    for seed in range(5):
        parts = split_patients(table, replace(SHARES, seed=seed))
        for label, reached in zip(LABELS, (3, 3, 3, 3, 2, 3), strict=True):
            assert len(count_patients(table, parts, label)) == reached
        tests = [split_patients(table, replace(SHARES, fold=fold, seed=seed)) == "test" for fold in range(5)]
        folds = pd.Series(np.argmax(tests, axis=0), table.index)
        for label, reached in zip(LABELS, (5, 5, 3, 4, 2, 5), strict=True):
            assert len(count_patients(table, folds, label)) == reached


def test_folds_are_one_partition() -> None:
    table = make_table(23, (4, 5, 6, 7, 8))
    parts = [split_patients(table, replace(SHARES, fold=fold, seed=3)) for fold in range(5)]
    assert (np.sum([part == "test" for part in parts], axis=0) == 1).all()
    for part in parts:
        check_split(table, part)
        assert set(part) == {"train", "val", "test"}


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    table = make_table(60, (5, 6, 7, 8, 9))
    parts = split_patients(table, replace(SHARES, seed=1))
    shuffled = table.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(split_patients(shuffled, replace(SHARES, seed=1)).sort_index(), parts)
    assert (split_patients(table, replace(SHARES, seed=2)) != parts).any()


def test_unknown_labels_do_not_hinder_and_a_share_of_nothing_is_empty() -> None:
    table = make_table(5).assign(**dict.fromkeys(LABELS, np.nan))
    parts = split_patients(table, replace(SHARES, test_fraction=0.0))
    assert set(parts) == {"train", "val"}
    assert set(split_patients(make_table(3), SHARES)) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, r"data\.fold=5: expected 0 to 4, as data\.folds=5"),
        ({"fold": -1}, r"data\.fold=-1"),
        ({"fold": 0, "folds": 1}, r"data\.folds=1: at least 2"),
        ({"fold": 0, "folds": 2, "val_fraction": 0.5}, r"one of data\.folds=2 leave nothing to train on"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, r"data\.test_fraction=0\.5 leave nothing to train on"),
        ({"val_fraction": -0.1}, r"data\.val_fraction=-0\.1"),
        ({"test_fraction": float("nan")}, r"data\.test_fraction=nan"),
        ({"fold": 0, "folds": 9}, "8 patients cannot be split into 9 parts"),
    ],
)
@pytest.mark.parametrize("split", [split_patients, split_slices])
def test_impossible_shares_are_an_error(split: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(make_table(8), replace(SHARES, **options))


@pytest.mark.parametrize("blank", ["", " ", None])
def test_slices_without_a_patient_need_a_file(tmp_path: Path, blank: str | None) -> None:
    table = make_table(8)
    table.loc[[3, 4], "PatientID"] = blank
    for refuse in (
        lambda: split_patients(table, SHARES),
        lambda: sample_patients(table, 9, seed=0),
    ):
        with pytest.raises(UserError, match=r"2 of \d+ slices have no PatientID.*data\.split=FILE"):
            refuse()
    of_study = table["StudyInstanceUID"].map(lambda uid: "test" if uid < "P00004" else "train")
    write_split(table, of_study, tmp_path / "split.csv")
    parts = read_split(tmp_path / "split.csv", table)
    check_split(table, parts)
    parts[3] = "val"
    with pytest.raises(UserError, match="studies in more than one part of the split: 1"):
        check_split(table, parts)


def test_a_split_by_slice_has_its_shares_and_leaks() -> None:
    table = make_table(40, (3, 4, 5, 6, 7))
    parts = split_slices(table, SHARES)
    shares = parts.value_counts(normalize=True)
    assert shares.to_dict() == pytest.approx({"train": 0.7, "val": 0.15, "test": 0.15}, abs=0.001)
    with pytest.raises(UserError, match="patients in more than one part of the split: 40"):
        check_split(table, parts)
    pd.testing.assert_series_equal(split_slices(table, SHARES), parts)
    assert (split_slices(table, replace(SHARES, seed=1)) != parts).any()


def test_a_split_by_slice_is_tested_on_the_fold_of_a_split_by_patient() -> None:
    table = make_table(40, (3, 4, 5, 6, 7))
    for fold in range(5):
        leaky = split_slices(table, replace(SHARES, fold=fold, seed=4))
        sound = split_patients(table, replace(SHARES, fold=fold, seed=4))
        pd.testing.assert_series_equal(leaky == "test", sound == "test")
        assert (leaky == "val").mean() == pytest.approx(0.15, abs=0.001)
        assert not set(table["PatientID"][leaky == "test"]) & set(table["PatientID"][leaky == "val"])


def test_a_split_comes_back_from_its_file(tmp_path: Path) -> None:
    table = make_table(9)
    table["PatientID"] = table["PatientID"].str[1:]  # digits with leading zeros
    parts = split_patients(table, SHARES)
    write_split(table, parts, tmp_path / "split.csv")
    shuffled = table.sample(frac=0.5, random_state=0)  # a sample is served by the file of the whole
    pd.testing.assert_series_equal(read_split(tmp_path / "split.csv", shuffled), parts[shuffled.index])
    by_patient = pd.DataFrame({"part": parts, "PatientID": table["PatientID"]}).drop_duplicates()
    by_patient.to_csv(tmp_path / "patients.csv", index=False)
    pd.testing.assert_series_equal(read_split(tmp_path / "patients.csv", table), parts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "PatientID,part\nP00000,train\nP00001,valid\n",
            "the part 'valid': expected one of train, val, test",
        ),
        ("PatientID,part\nP00000,train\n", r"no part to \d+ of \d+ slices; add their PatientID"),
        (
            "PatientID,part\nP00000,train\nP00000,val\nP00001,val\n",
            "more than one part to a PatientID, 1 times",
        ),
        ("PatientID,split\nP00000,train\n", "lacks the columns part"),
        ("Patient,part\nP00000,train\n", "lacks the columns PatientID"),
        ("", "cannot be read as CSV"),
        (None, "cannot be read as CSV"),
    ],
)
def test_a_split_file_that_is_wrong_is_an_error(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "split.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_split(path, make_table(2))
    assert "P0000" not in str(caught.value)


def test_a_shared_study_is_refused_though_its_patients_differ() -> None:
    table = make_table(4)
    parts = split_patients(table, SHARES)
    check_split(table, parts)
    table["StudyInstanceUID"] = "1.2.3"
    with pytest.raises(UserError, match="studies in more than one part of the split: 1"):
        check_split(table, parts)


def test_a_sample_holds_whole_patients_whatever_the_order_of_rows() -> None:
    table = make_table(100)
    sample = sample_patients(table, 1000, seed=0)
    assert 960 <= len(sample) <= 1000
    drawn = set(sample["PatientID"])
    pd.testing.assert_frame_equal(sample, table[table["PatientID"].isin(drawn)])
    assert set(sample_patients(table[::-1], 1000, seed=0)["PatientID"]) == drawn
    assert set(sample_patients(table, 1000, seed=1)["PatientID"]) != drawn
    assert set(sample_patients(table, 500, seed=0)["PatientID"]) < drawn
    others_gone = table[table["PatientID"].isin(drawn)]
    assert set(sample_patients(others_gone, 1000, seed=0)["PatientID"]) == drawn
    assert len(set(sample_patients(table, 1, seed=0)["PatientID"])) == 1
    pd.testing.assert_frame_equal(sample_patients(table, 10**9, seed=0), table)
    with pytest.raises(UserError, match=r"data\.limit_slices=0"):
        sample_patients(table, 0, seed=0)


def test_labels_without_positives_are_listed_by_part() -> None:
    table = pd.DataFrame(0.0, index=range(4), columns=list(LABELS))
    parts = pd.Series(["val", "train", "train", "val"])
    table.loc[[0, 1], :] = 1
    assert labels_without_positives(table, parts) == {}
    table.loc[0, "epidural"] = np.nan
    table.loc[[0, 1], "subdural"] = 0
    assert labels_without_positives(table, parts) == {"train": ["subdural"], "val": ["epidural", "subdural"]}
