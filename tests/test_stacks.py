"""Which images of a series lie in one stack: by the tables that headers make."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ich.tables.stacks import NO_STACK, find_odd, find_stacks, number_stacks

AXIAL, ACROSS = 0, -1


def make_images(positions: list[float], **values: object) -> pd.DataFrame:
    """Axial slices of one series whose headers tell nothing but ``values``."""
    columns: dict[str, object] = {
        "StudyInstanceUID": "1",
        "SeriesInstanceUID": "1.1",
        "orientation": AXIAL,
        "ImageType": "ORIGINAL\\PRIMARY\\AXIAL",
        **dict.fromkeys(("ConvolutionKernel", "AcquisitionNumber", "AcquisitionTime", "ContentTime"), ""),
    }
    table = pd.DataFrame(columns | values | {"position": np.array(positions, float)})
    return table.assign(SOPInstanceUID=[f"1.1.{row}" for row in range(len(table))])


def join(*images: pd.DataFrame) -> pd.DataFrame:
    """The images of one series, in the order in which positions interleave them."""
    table = pd.concat(images, ignore_index=True).sort_values("position", kind="stable", ignore_index=True)
    return table.assign(SOPInstanceUID=[f"1.1.{row}" for row in range(len(table))])


HEAD = [5.0 * number for number in range(30)]


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [
        ("AcquisitionNumber", "1", "2"),
        ("ImageType", "ORIGINAL\\PRIMARY\\AXIAL", "DERIVED\\PRIMARY\\AXIAL"),
        ("ConvolutionKernel", "H30s", "H60s"),
        ("AcquisitionTime", "101500.25", "102000"),
        ("ContentTime", "101500", "101900"),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_two_scans_of_a_head_are_separated_by_what_differs(
    column: str, first: str, second: str, shift: float
) -> None:
    if "Time" in column and shift:
        pytest.skip("times distinguish scans only at the same positions")
    both = (make_images(HEAD, **{column: first}), make_images([z + shift for z in HEAD], **{column: second}))
    table = join(*both)
    stacks = find_stacks(table)
    assert {frozenset(table[column][stacks == n]) for n in (0, 1)} == {
        frozenset([first]),
        frozenset([second]),
    }
    assert set(stacks) == {0, 1}
    np.testing.assert_array_equal(number_stacks(table), stacks)


def test_times_that_differ_from_slice_to_slice_tell_as_well() -> None:
    first, second = (
        make_images(HEAD, AcquisitionTime=[f"10{minute}{n:02}.5" for n in range(len(HEAD))])
        for minute in (15, 20)
    )
    table = join(first, second)
    stacks = find_stacks(table)
    assert set(table["AcquisitionTime"][stacks == 0]) == set(first["AcquisitionTime"])
    assert set(table["AcquisitionTime"][stacks == 1]) == set(second["AcquisitionTime"])


def test_numbers_that_go_up_with_each_slice_tell_as_well() -> None:
    first, second = (
        make_images(HEAD, AcquisitionNumber=[str(start + n) for n in range(len(HEAD))]) for start in (1, 31)
    )
    table = join(first, second)
    assert (find_stacks(table) == (table["AcquisitionNumber"].astype(int) > 30)).all()


def test_a_rescan_with_the_same_headers_is_not_separated() -> None:
    table = join(make_images(HEAD), make_images(HEAD))
    assert not find_stacks(table).any()
    slow = table.assign(ContentTime=[f"10{n:04}" for n in range(len(table))])  # twin after twin
    assert not find_stacks(slow).any()


@pytest.mark.parametrize("seam", [40.0, 42.5, 45.0])
def test_blocks_one_upon_the_other_stay_one_stack(seam: float) -> None:
    """As of a thin skull base and a thick vertex; at 40 mm the two share a position."""
    base = make_images([2.5 * n for n in range(17)], AcquisitionNumber="1")
    top = make_images([seam + 5.0 * n for n in range(20)], AcquisitionNumber="2", ConvolutionKernel="H40s")
    assert not find_stacks(join(base, top)).any()
    turns = join(make_images(HEAD, AcquisitionNumber=[str(n // 2) for n in range(30)]))
    assert not find_stacks(turns).any()


def test_a_short_step_between_scans_does_not_part_them() -> None:
    singles = make_images([*HEAD[:10], *(z + 0.98 for z in HEAD[9:])], AcquisitionNumber="")
    assert not find_stacks(singles.assign(AcquisitionNumber=[str(n) for n in range(len(singles))])).any()


def test_a_repeated_part_is_the_smaller_stack() -> None:
    table = join(make_images(HEAD, AcquisitionNumber="2"), make_images(HEAD[20:25], AcquisitionNumber="1"))
    stacks = find_stacks(table)
    assert (stacks == (table["AcquisitionNumber"] == "1")).all()


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("localizer", {"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER", "orientation": ACROSS}),
        ("localizer", {"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER", "position": np.nan}),
        ("across", {"orientation": ACROSS}),
        ("no_geometry", {"orientation": ACROSS, "position": np.nan}),
        ("secondary", {"ImageType": "DERIVED\\SECONDARY\\OTHER\\CT_SOM5 PROT", "position": np.nan}),
        ("secondary", {"ImageType": "DERIVED\\SECONDARY\\SCREEN SAVE"}),
    ],
)
def test_a_scout_or_a_page_is_in_no_stack(code: str, values: dict[str, object]) -> None:
    table = join(make_images(HEAD), make_images([12.0]).assign(**values))
    is_odd = find_odd(table) != ""
    assert is_odd.sum() == 1
    assert find_odd(table)[is_odd] == [code]
    np.testing.assert_array_equal(find_stacks(table), np.where(is_odd, NO_STACK, 0))
    np.testing.assert_array_equal(number_stacks(table), np.where(is_odd, NO_STACK, 0))


def test_a_series_of_nothing_but_scouts_is_not_odd() -> None:
    scouts = make_images([0.0, 1.0], ImageType="ORIGINAL\\PRIMARY\\LOCALIZER", orientation=ACROSS)
    assert not (find_odd(scouts) != "").any()
    assert not find_stacks(scouts).any()
    silent = make_images([np.nan] * 5, orientation=ACROSS)
    assert not (find_odd(silent) != "").any()
