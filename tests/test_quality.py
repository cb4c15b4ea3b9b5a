from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from command import call

from ich.index import build_index
from ich.index.quality import COLUMNS, check_series, check_slices, find_in_slice, write_quality
from ich.schema import UserError
from ich.schema.codes import Quality


def make_series(positions: list[float], name: str = "series", **columns) -> pd.DataFrame:
    table = pd.DataFrame({"position": positions, "SeriesInstanceUID": name, "StudyInstanceUID": f"{name}.s"})
    defaults = {"InstanceNumber": np.nan, "stack": 0, "tilt": 3.0, "Rows": 512, "Columns": 512}
    defaults |= {"row_spacing": 0.5, "column_spacing": 0.5, "RescaleType": "HU"}
    return table.assign(**defaults | columns)


STEADY = [5.0 * number for number in range(8)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (make_series(STEADY), {}),
        (make_series(STEADY[::-1], InstanceNumber=range(1, 9)), {}),
        (make_series([7.0]), {}),
        (make_series([0, 2.5, 5, 7.5, 12.5, 17.5, 22.5, 27.5]), {}),  # thinner at the skull base
        (make_series([0, 5, np.nan, 15, np.nan]), {"no_position": "2 slices have no position"}),
        (make_series([np.nan, np.nan]), {"no_position": "2 slices have no position"}),
        (make_series([*STEADY, np.nan]), {"no_position": "1 slice has no position"}),
        (
            make_series([*STEADY, 10.0, 15.001]),
            {"duplicate_position": "2 slices lie where another does"},
        ),
        (make_series([*STEADY, 10.0]), {"duplicate_position": "1 slice lies where another does"}),
        (make_series([*STEADY[:4], *STEADY[5:], 55.0]), {"gap": "2 gaps between slices"}),
        (make_series([*STEADY[:4], *STEADY[5:]]), {"gap": "1 gap between slices"}),
        (
            make_series(STEADY, InstanceNumber=[1, 2, 4, 3, 5, 6, 7, 8]),
            {"not_monotone": "back and forth in the order of InstanceNumber"},
        ),
        (make_series(STEADY, tilt=[3.0] * 7 + [4.0]), {"mixed_orientation": "tilt from 3 to 4"}),
        (make_series(STEADY, tilt=[3.0] * 7 + [np.nan]), {}),
        (
            make_series(STEADY, row_spacing=[0.5] * 7 + [0.6]),
            {"mixed_spacing": "row_spacing from 0.5 to 0.6; column_spacing from 0.5 to 0.5"},
        ),
        (make_series(STEADY, Columns=[512] * 7 + [511]), {"mixed_shape": "Columns from 511 to 512"}),
        (make_series(STEADY, RescaleType=["", "US", *["HU"] * 6]), {"no_unit": "1 slice has RescaleType US"}),
        (make_series(STEADY, RescaleType="US"), {"no_unit": "8 slices have RescaleType US"}),
    ],
)
def test_what_is_not_plausible_of_a_series(rows: pd.DataFrame, expected: dict[str, str]) -> None:
    others = make_series([0.0, 5.0, 10.0], "other"), make_series([100.0, 103.0], "one more")
    found = check_series(pd.concat([others[0], rows, others[1]], ignore_index=True))
    assert tuple(found) == COLUMNS
    assert found["code"].tolist() == list(expected)
    assert (found["SeriesInstanceUID"] == "series").all()
    for detail, text in zip(found["detail"], expected.values(), strict=True):
        assert text in detail


@pytest.mark.parametrize("rest", [-1000, 40])
def test_what_is_not_plausible_of_a_slice(rest: int) -> None:
    hu = np.full((100, 100), rest, np.int16)
    assert [code for code, _ in find_in_slice(hu)] == [Quality.CONSTANT]
    hu.flat[:40] = 40 if rest < 0 else -1000
    ((code, detail),) = find_in_slice(hu)
    assert code == (Quality.LITTLE_TISSUE if rest < 0 else Quality.LITTLE_AIR)
    assert "0.40 %" in detail
    hu.flat[:1000] = hu.flat[0]
    assert find_in_slice(hu) == []
    hu.flat[5000:7600] = 1000
    assert [code for code, _ in find_in_slice(hu)] == [Quality.MUCH_BONE]


def test_a_phantom_is_plausible_and_a_wrong_intercept_is_not(phantom: Path, tmp_path: Path) -> None:
    table = build_index(phantom).table
    assert check_series(table).empty
    assert check_slices(phantom, table).empty
    with pydicom.config.disable_value_validation():
        path = table["path"][table["BitsStored"] == 16].iloc[9]
        ds = pydicom.dcmread(phantom / path)
        ds.RescaleIntercept = ds.RescaleIntercept + 1024
        ds.save_as(tmp_path / "shifted.dcm")
    found = check_slices(tmp_path, build_index(tmp_path).table)
    assert "much_bone" in found["code"].tolist()
    assert found["path"].unique().tolist() == ["shifted.dcm"]


def test_problems_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        write_quality(pd.DataFrame(columns=list(COLUMNS)), tmp_path / "nowhere")


def test_the_command_lists_problems_and_twins(
    phantom: Path, tmp_path: Path, damage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = build_index(phantom).table
    study = table[table["PatientID"] == table["PatientID"][0]]
    root = tmp_path / "data"
    root.mkdir()
    for number, path in enumerate(study["path"]):
        if number != 4:  # a gap
            (root / Path(path).name).write_bytes((phantom / path).read_bytes())
    names = [Path(path).name for path in study["path"]]
    damage(root / names[7])
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(root / names[2])
        ds.PatientID, ds.SOPInstanceUID, ds.SeriesInstanceUID = "twin", "ID_twin", "twin"
        ds.save_as(root / "twin.dcm")

    def index(*options: str) -> str:
        assert call("index", str(root), *options) == 0
        return capsys.readouterr().out

    printed = index()
    assert "1 data-quality problems" in printed
    assert "gap: 1" in printed
    printed = index("--check", "--hash")
    assert "2 data-quality problems" in printed
    assert "corrupt: 1" in printed
    assert "2 slices of 2 patients have the same pixels" in printed
    assert "twin.dcm" in printed
    found = root / ".ich" / "quality.csv"
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert pd.read_csv(found)["path"].tolist()[1] == names[7]
