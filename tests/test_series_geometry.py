from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ich.schema.codes import Note, Reason
from ich.studies.series.geometry import check_geometry

PRONE, SIDEWAYS = "-1\\0\\0\\0\\-1\\0", "0\\1\\0\\1\\0\\0"
UP, TURNED = "1\\0\\0\\0\\1\\0", "0.9962\\0.0872\\0\\-0.0872\\0.9962\\0"  # by 5 degrees about z
WHOLE = [5.0 * number for number in range(24)]
BELOW = [2.5 * number for number in range(17)]  # thin slices at the base, then one short step, as RSNA has it
FINER = [*BELOW, *(BELOW[-1] + 0.98 + 5.0 * number for number in range(24))]
COARSER = [*WHOLE[:12], *(WHOLE[11] + 10.0 * number for number in range(1, 7))]


def make_slices(positions: list[float], **columns) -> pd.DataFrame:
    defaults = {
        "StudyInstanceUID": "study",
        "SeriesInstanceUID": "series",
        "InstanceNumber": np.nan,
        "tilt": 0.0,
        "Rows": 512,
        "Columns": 512,
        "row_spacing": 0.45,
        "column_spacing": 0.45,
        "ImageOrientationPatient": UP,
        "SliceThickness": "",
        "RescaleType": "HU",
    }
    return pd.DataFrame({"position": positions}).assign(**defaults | columns)


@pytest.mark.parametrize(
    ("slices", "codes"),
    [
        (make_slices(WHOLE), []),
        (make_slices(WHOLE, InstanceNumber=range(40, 16, -1)), []),
        (make_slices(WHOLE, InstanceNumber=range(1, 49, 2)), []),  # two series of one scan
        (make_slices(WHOLE, ImageOrientationPatient=""), []),
        (make_slices(WHOLE, ImageOrientationPatient=[UP, PRONE, SIDEWAYS] * 8), []),
        (make_slices(WHOLE[::2], InstanceNumber=range(1, 25, 2)), []),
        (make_slices(WHOLE[::2], InstanceNumber=range(1, 25, 2), SliceThickness="5.0"), [Reason.GAP]),
        (make_slices(WHOLE, SliceThickness="10"), []),
        (make_slices(WHOLE, SliceThickness="thin"), []),
        (make_slices(COARSER), [Note.UNEVEN_STEPS]),
        (make_slices(COARSER[:11] + COARSER[12:]), [Reason.GAP, Note.UNEVEN_STEPS]),  # one at the change
        (make_slices(COARSER[:10] + COARSER[12:]), [Reason.GAP, Note.UNEVEN_STEPS]),  # two
        (make_slices([*COARSER, *(COARSER[-1] + 5.0 * n for n in (1, 2, 3))]), [Note.UNEVEN_STEPS]),
        (make_slices(COARSER[:-4]), [Note.UNEVEN_STEPS, Reason.SHORT_COVERAGE]),
        (make_slices(COARSER, InstanceNumber=range(1, 19)), [Note.UNEVEN_STEPS]),
        (make_slices(FINER), [Note.UNEVEN_STEPS]),
        (make_slices([*WHOLE[:8], *WHOLE[20:]]), [Reason.GAP, Note.UNEVEN_STEPS]),
        (make_slices([0.7 * n for n in (*range(50), *range(140, 200))]), [Reason.GAP, Note.UNEVEN_STEPS]),
        (make_slices(FINER[:8] + FINER[9:]), [Reason.GAP, Note.UNEVEN_STEPS]),
        (make_slices([*WHOLE, 51.2, 62.4]), [Note.UNEVEN_STEPS]),  # slices in between
        (make_slices([*WHOLE, *(50.3 + 5.0 * n for n in range(6))]), [Note.UNEVEN_STEPS]),  # a second scan
        (
            make_slices([*WHOLE, *WHOLE[8:12]], InstanceNumber=[*range(1, 25), *range(101, 105)]),
            [Note.DUPLICATE_POSITION],
        ),
        (
            make_slices(
                [*WHOLE, *(50.3 + 5.0 * n for n in range(6))], InstanceNumber=[*range(1, 25), *range(41, 47)]
            ),
            [Note.UNEVEN_STEPS],
        ),
        (make_slices([*WHOLE, 55.0], InstanceNumber=range(1, 26)), [Note.DUPLICATE_POSITION]),
        (make_slices([*WHOLE, 55.0], InstanceNumber=[*range(1, 25), 12]), [Note.DUPLICATE_POSITION]),
        (make_slices([*WHOLE, 52.5], InstanceNumber=range(1, 26)), [Note.UNEVEN_STEPS, Reason.NOT_MONOTONE]),
        (make_slices([*WHOLE[12:], *WHOLE[:12]], InstanceNumber=range(1, 25)), []),  # in two parts
        (
            make_slices([15.0, *WHOLE[1:3], 0.0, *WHOLE[4:]], InstanceNumber=range(1, 25)),
            [Reason.NOT_MONOTONE],
        ),
        (make_slices(WHOLE[:9] + WHOLE[10:]), [Reason.GAP, Note.UNEVEN_STEPS]),
        (
            make_slices(COARSER, InstanceNumber=[*range(1, 13), *range(14, 20)]),  # at the change of steps
            [Reason.GAP, Note.UNEVEN_STEPS],
        ),
        (make_slices(WHOLE[:17]), [Reason.SHORT_COVERAGE]),
        (make_slices([3.0]), [Reason.SHORT_COVERAGE]),
        (make_slices([np.nan] * 20), [Reason.NO_POSITION, Reason.SHORT_COVERAGE]),
        (make_slices(WHOLE, row_spacing=np.nan), [Reason.NO_SPACING]),
        (make_slices([*WHOLE, 15.0]), [Note.DUPLICATE_POSITION]),
        (make_slices(WHOLE, tilt=[0.0] * 20 + [9.0] * 4), [Reason.MIXED_ORIENTATION]),
        (make_slices(WHOLE, ImageOrientationPatient=[UP] * 23 + [TURNED]), [Reason.MIXED_ORIENTATION]),
        (make_slices(WHOLE, Rows=[512] * 23 + [256]), [Reason.MIXED_SHAPE]),
        (make_slices(WHOLE, InstanceNumber=[2, 1, *range(3, 25)]), [Reason.NOT_MONOTONE]),
    ],
)
def test_reasons_against_a_series(slices: pd.DataFrame, codes: list[str]) -> None:
    for rows in (slices, slices.sample(frac=1, random_state=0)):
        assert [remark.code for remark in check_geometry(rows)] == codes


def test_details_have_values() -> None:
    (remark,) = check_geometry(make_slices(WHOLE[:10]))
    assert remark.detail == "50 mm, but a head needs 90 mm or more"
