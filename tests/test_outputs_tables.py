"""Study results as tables, read as a spreadsheet, pandas or ``ich evaluate`` would."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
from command import call
from results import GAP, make_refused, make_result, make_slices

from ich.outputs.tables import SERIES_DTYPES, list_slice_columns, list_study_columns, write_tables
from ich.schema import LABELS, SUBTYPES
from ich.schema.codes import Reason
from ich.schema.results import Remark
from ich.tables import WEIGHTS_COLUMN, read_predictions

STUDIES = [
    make_result(number=1, present=("subdural",), reasons=[GAP, Remark(Reason.GAP, "another")]),
    make_result(number=2, present=()),
    make_result(make_slices().assign(PatientID="=1+1"), number=3, present=(), reasons=[GAP]),
    make_result(make_slices().assign(position=float("nan")), number=4, decided=False, known=False),
    make_refused(number=5),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tables(STUDIES, tmp_path)
    return tmp_path


def test_a_row_a_study(folder: Path) -> None:
    table = pd.read_csv(folder / "studies.csv", keep_default_na=False, dtype=str)
    assert list(table) == list(list_study_columns())
    assert table["outcome"].tolist() == ["POSITIVE", "NEGATIVE", "INDETERMINATE", "INDETERMINATE", ""]
    assert table["refusal"].tolist() == ["", "", "", "", "no_series"]
    assert table["reasons"].tolist() == ["gap", "", "gap", "no_decision no_reference", ""]
    assert table["positive_any"].tolist() == ["1", "0", "", "", ""]
    assert table["positive_subdural"].tolist() == ["1", "", "", "", ""]
    assert table["threshold_any"].tolist() == ["0.4", "0.4", "0.4", "", ""]
    assert table["SeriesInstanceUID"].tolist() == ["2.25.100"] * 4 + [""]
    assert table["distance_limit"].tolist() == ["1.6"] * 3 + ["", ""]
    for label in LABELS:
        expected = [repr(s.labels[label].prob) if s.labels else "" for s in STUDIES]
        assert table[f"prob_{label}"].tolist() == expected
    assert table["key_slices"].str.split().map(len).tolist() == [3, 0, 0, 0, 0]


def test_a_row_a_slice_is_a_prediction(folder: Path) -> None:
    table = pd.read_csv(folder / "slices.csv")
    assert list(table) == list(list_slice_columns())
    assert table.groupby("number").size().to_dict() == dict.fromkeys((1, 2, 3, 4), 12)
    keys = table[table["key"] == 1]
    assert set(keys["number"]) == {1}
    studies = pd.read_csv(folder / "studies.csv", dtype={"key_slices": str}, keep_default_na=False)
    assert set(keys["slice"]) == set(map(int, studies["key_slices"][0].split()))
    for number, of_study in table.groupby("number"):
        assert of_study["slice"].tolist() == list(range(1, 13)), number
    named = [STUDIES[0].name_slice(place).split()[1] for place in STUDIES[0].key_slices]
    assert studies["key_slices"][0].split() == named
    assert table["position"].isna().groupby(table["number"]).all().tolist() == [False, False, False, True]
    assert table["calibrated_any"].isna().groupby(table["number"]).all().tolist() == [
        False,
        False,
        False,
        True,
    ]
    predictions = read_predictions(folder / "slices.csv")
    assert set(predictions["PatientID"]) == {"P0", "=1+1"}
    first = [each.probs["any"] for each in STUDIES[0].slices]
    assert predictions["prob_any"][:12].tolist() == first


def test_slices_name_the_weights_of_one_model(folder: Path, tmp_path: Path) -> None:
    assert set(read_predictions(folder / "slices.csv")[WEIGHTS_COLUMN]) == {""}
    write_tables(STUDIES, tmp_path, "c0ffee" + "0" * 58)
    assert set(read_predictions(tmp_path / "slices.csv")[WEIGHTS_COLUMN]) == {"c0ffee" + "0" * 58}


def test_slices_go_into_an_evaluation(tmp_path: Path) -> None:
    """A table of predictions wants each slice once, and labels to hold them against."""
    studies = []
    for n in range(8):
        index = make_slices().astype({"PatientID": "str"})
        names = ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"]
        index[names] = index[names] + f"{n}"
        studies.append(make_result(index, number=n + 1, present=SUBTYPES[:1] if n % 2 else ()))
    write_tables(studies, tmp_path)
    labels = pd.DataFrame({"SOPInstanceUID": [s.SOPInstanceUID for study in studies for s in study.slices]})
    labels[list(LABELS)] = 0
    present = [study.labels["epidural"].prob > 0.5 for study in studies for _ in study.slices]
    labels.loc[present, ["epidural", "any"]] = 1
    labels.to_csv(tmp_path / "labels.csv", index=False)
    arguments = [str(tmp_path / "slices.csv"), "--labels", str(tmp_path / "labels.csv")]
    assert call("evaluate", *arguments, "--out", str(tmp_path / "evaluation")) == 0
    assert (tmp_path / "evaluation/report.html").exists()


def test_a_row_a_series(folder: Path) -> None:
    table = pd.read_csv(folder / "series.csv", keep_default_na=False)
    assert list(table) == list(SERIES_DTYPES)
    assert len(table) == 3 * 4 + 1
    assert (table["read"] == (table["code"] == "")).all()
    assert table["code"].unique().tolist() == ["", "localizer", "bone_kernel"]


def test_no_cell_is_a_formula_and_no_other_reads_them(folder: Path) -> None:
    for name in ("studies", "slices", "series"):
        path = folder / f"{name}.csv"
        assert path.stat().st_mode & 0o077 == 0
        with path.open(newline="", encoding="utf-8") as file:
            assert not [cell for row in csv.reader(file) for cell in row if cell.startswith("=")]


def test_tables_of_no_studies_have_their_columns(tmp_path: Path) -> None:
    write_tables([], tmp_path)
    assert list(pd.read_csv(tmp_path / "studies.csv")) == list(list_study_columns())
    write_tables([make_refused()], tmp_path)
    assert pd.read_csv(tmp_path / "slices.csv").empty
