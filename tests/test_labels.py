"""Label files as people have them: any delimiter, encoding and case that leaves no doubt."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ich.data import HeadCTDataModule
from ich.index import find_labels, read_labels
from ich.index.csv_files import read_csv
from ich.index.joining import join_labels, match_slices
from ich.schema import LABELS, InputSpec, UserError

PLAIN = "SOPInstanceUID,epidural,any,note\ns,0,0,\nt,1,1,x\nu,,,\n"


def write(folder: Path, content: bytes | str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", "|"),
        PLAIN.replace("\n", ",\n"),  # a delimiter at the end of each row, that of the names included
        PLAIN.replace("note\n", "note\n ").replace(",\n", ",,\n").replace("x\n", "x,\n"),  # and not included
        PLAIN.replace("\n", ",,,\n").replace("note,,,", "note"),
        PLAIN.replace(",", " , "),
        PLAIN.replace("epidural", "Epidural").replace("any", "ANY").replace("SOPI", "sopi"),
        PLAIN.replace("1", "True").replace("0", "FALSE"),
        PLAIN.replace("1", " 1 ").replace("0", "0.0"),
        PLAIN + ",,,\n , ,,\n\n",
        PLAIN.replace("\n", "\r\n").encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace("x", "Übersicht").encode("cp1252"),
        PLAIN.replace("x", '"a; b, ""c"""'),
        "ID,Label\ns_Epidural,0\nt_EPIDURAL,1\ns_Any,false\nt_any,true\nu_any,\nu_epidural, \n",
        "id;label;\n s_epidural;0;\nt_epidural;1;\ns_any;0;\nt_any;1;\nu_any;;\nu_epidural;;\n",
    ],
)
def test_what_leaves_no_doubt_is_read(tmp_path: Path, content: bytes | str) -> None:
    labels = read_labels(write(tmp_path, content)).sort_index()
    assert labels.index.tolist() == ["s", "t", "u"]
    np.testing.assert_array_equal(labels["epidural"], [0, 1, np.nan])
    np.testing.assert_array_equal(labels["any"], [0, 1, np.nan])
    assert find_labels(tmp_path) == tmp_path / "labels.csv"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("SOPInstanceUID,any\ns,1,\nt,0,9\n", "row 3 holds more than 2 values, one of them '9'"),
        ("SOPInstanceUID,any\ns,1" + 17 * "," + "9\n", "rows hold more than 18 values"),
        ("SOPInstanceUID,any\ns,yes\n", "'yes' for any of s: expected 0, 1, true, false or nothing"),
        ("SOPInstanceUID,any, Any\ns,1,1\n", "2 columns for any: 'any', ' Any'; keep one"),
        ("SOPInstanceUID,any\n,1\n", "labels without a SOPInstanceUID"),
        (b"SOPInstanceUID,any\ns,1\0\n", "not text"),
        ("ID,Label\ns_sub dural,1\n", "'sub dural' is not a label; nearest is subdural"),
    ],
)
def test_what_leaves_doubt_is_one_message(tmp_path: Path, content: bytes | str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_labels(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.csv does not exist"):
        read_labels(tmp_path / "gone.csv")


def test_other_columns_keep_their_names_and_texts(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path, "id;any; Side ;;\n7;1;Größe;a;b\n8;;;;\n".encode("cp1252")))
    assert table.columns.tolist() == ["ID", "any", " Side ", "", ".2"]
    assert table.to_numpy().tolist() == [["7", "1", "Größe", "a", "b"], ["8", "", "", "", ""]]


def make_table(*uids: str) -> pd.DataFrame:
    return pd.DataFrame({"SOPInstanceUID": pd.Series(uids, dtype="str")})


def test_uids_are_the_same_in_any_case_that_leaves_no_doubt(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, "ID,any\nID_A1,0\nID_B2,1\nid_b2,0\nID_C3,1\nID_D4,0\nID_d4,1\n"))
    uids = make_table("ID_a1", "id_B2", "ID_C3", "id_c3", "ID_d4", "ID_e5")["SOPInstanceUID"]
    assert match_slices(uids, labels).tolist() == [0, -1, 3, -1, 5, -1]


def test_upper_case_uids_are_all_found(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pd.read_csv(phantom / "stage_2_train.csv")
    table["ID"] = table["ID"].str.rpartition("_")[0].str.upper() + "_" + table["ID"].str.rpartition("_")[2]
    table.to_csv(tmp_path / "upper.csv", index=False)
    with caplog.at_level(logging.INFO):
        data = set_up(phantom, tmp_path / "upper.csv")
    expected = set_up(phantom, phantom / "stage_2_train.csv")
    pd.testing.assert_frame_equal(data.table[list(LABELS)], expected.table[list(LABELS)])
    assert not [record for record in caplog.records if "label file names" in record.getMessage()]


def set_up(phantom: Path, labels: Path) -> HeadCTDataModule:
    data = HeadCTDataModule(str(phantom), InputSpec(size=64), labels=str(labels), num_workers=0)
    data.setup()
    return data


def test_labels_of_few_of_the_slices_are_a_warning_and_of_hardly_any_an_error(
    phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wide = read_labels(phantom / "stage_2_train.csv").reset_index()
    count = len(wide)
    for share in (0.95, 0.5, 0.05):
        kept = int(share * count)
        renamed = wide["SOPInstanceUID"].where(wide.index < kept, "other_" + wide["SOPInstanceUID"])
        wide.assign(SOPInstanceUID=renamed).to_csv(tmp_path / "labels.csv", index=False)
        caplog.clear()
        if share < 0.1:
            with pytest.raises(
                UserError, match=f"only {kept} of {count} slices have a label.*give another label file"
            ):
                set_up(phantom, tmp_path / "labels.csv")
            continue
        set_up(phantom, tmp_path / "labels.csv")
        warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        told = f"names {kept} of {count} slices (50 %), and {count - kept} slices that do not exist"
        assert any(told in text for text in warned) is (share < 0.9)


def test_a_file_that_labels_a_few_slices_is_accepted(tmp_path: Path) -> None:
    table = make_table(*(f"s{number}" for number in range(100)))
    _, counts = join_labels(table, read_labels(write(tmp_path, "ID,any\ns3,1\ns7,0\n")))
    assert counts.matched == 2
    assert "2 of 100 slices (2 %), and 0 slices that do not exist" in counts.warning
