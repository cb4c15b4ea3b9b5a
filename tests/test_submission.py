"""The challenge's CSV has the rows of its sample, all of them in their order, with what was predicted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ich.evaluate.submission import write_submission
from ich.schema import LABELS, UserError
from ich.tables import PROB_COLUMNS

PREVALENCES = (0.0041, 0.048, 0.035, 0.048, 0.063, 0.144)
SLICES = ["ID_0fbf6a978", "ID_d62ec3412", "ID_6431af929"]
ROWS = [f"{uid}_{label},0.5" for uid in SLICES for label in LABELS]


def make_predictions(uids):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"SOPInstanceUID": pd.Series(uids, dtype="str")})
    table[list(PROB_COLUMNS)] = rng.random((len(uids), 6)).astype(np.float32)
    return table


@pytest.fixture
def sample(tmp_path):
    def write(rows=ROWS, header="ID,Label"):
        path = tmp_path / "stage_2_sample_submission.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return path

    return write


def read(path):
    head, *rows = path.read_text().splitlines()
    assert head == "ID,Label"
    return {name: float(value) for name, value in (row.split(",") for row in rows)}


def test_rows_are_those_of_the_sample_with_what_was_predicted(tmp_path, sample):
    rows = [*ROWS[6:], *ROWS[:6][::-1]]
    predictions = make_predictions(SLICES[::-1])
    predictions.loc[0, "prob_any"] = 1e-9
    assert write_submission(predictions, sample(rows), tmp_path / "out.csv") == 0
    written = read(tmp_path / "out.csv")
    assert list(written) == [row.partition(",")[0] for row in rows]
    assert (tmp_path / "out.csv").read_bytes().endswith(b"\n")
    for prediction in predictions.to_dict("records"):
        for label in LABELS:
            value = written[f"{prediction['SOPInstanceUID']}_{label}"]
            assert np.float32(value) == np.float32(prediction[f"prob_{label}"])
    assert written["ID_6431af929_any"] == pytest.approx(1e-9)


def test_a_slice_without_prediction_is_filled_and_counted(tmp_path, sample):
    predictions = make_predictions(SLICES[:2])
    assert write_submission(predictions, sample(), tmp_path / "out.csv", PREVALENCES) == 1
    written = read(tmp_path / "out.csv")
    assert [written[f"ID_6431af929_{label}"] for label in LABELS] == list(PREVALENCES)


@pytest.mark.parametrize("prevalences", [None, PREVALENCES[:5], (*PREVALENCES[:5], np.nan)])
def test_nothing_is_made_up_where_no_prevalence_is_known(tmp_path, sample, prevalences):
    with pytest.raises(UserError, match="1 slices have no prediction, for example ID_6431af929"):
        write_submission(make_predictions(SLICES[:2]), sample(), tmp_path / "out.csv", prevalences)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([*ROWS, ROWS[2]], "ID,Label", "ID_0fbf6a978_intraventricular more than once"),
        (ROWS[:-1], "ID,Label", "ID_6431af929_any not at all"),
        ([*ROWS, "ID_6431af929_epidurall,0.5"], "ID,Label", "'ID_6431af929_epidurall': expected"),
        ([*ROWS, ",0.5"], "ID,Label", "the ID '': expected"),
        (ROWS, "ID,any", "columns 'ID', 'any'; expected ID and Label"),
        ([f"{row},1" for row in ROWS], "ID,Label,more", "'more'; expected ID and Label"),
        ([], "ID,Label", "no rows"),
    ],
)
def test_a_file_that_is_not_a_sample_submission_is_refused(tmp_path, sample, rows, header, message):
    with pytest.raises(UserError, match=message):
        write_submission(make_predictions(SLICES), sample(rows, header), tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda table: pd.concat([table, table[:1]]),
            "1 of its 4 slices more than once; for example, ID_0fbf6a",
        ),
        (
            lambda table: table.replace("ID_d62ec3412", "ID_x"),
            "1 of its 3 slices that .* does not have.*ID_x",
        ),
        (lambda table: table.assign(prob_any=1.5), "3 of its 3 slices with a probability"),
        (lambda table: table.assign(prob_any=np.nan), "3 of its 3 slices with a probability"),
        (
            lambda table: table.drop(columns="prob_any"),
            r"a submission needs the six labels of the RSNA .*; found epidural, [a-z, ]+subdural$",
        ),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path, sample, change, message):
    with pytest.raises(UserError, match=message):
        write_submission(change(make_predictions(SLICES)), sample(), tmp_path / "out.csv", PREVALENCES)


def test_a_sample_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no\.csv cannot be read"):
        write_submission(make_predictions(SLICES), tmp_path / "no.csv", tmp_path / "out.csv")
