"""The CSV of the RSNA 2019 challenge: ``ID,Label``, six rows per slice.

Source: https://www.kaggle.com/c/rsna-intracranial-hemorrhage-detection/overview/evaluation
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.files import replacing
from ich.schema import LABELS, UserError
from ich.schema.labels import require_rsna
from ich.tables import PROB_COLUMNS, find_names, require_columns

__all__ = ["write_submission"]

_DIGITS = "%.9g"  # enough to restore a float32 exactly


def write_submission(
    predictions: pd.DataFrame,
    sample: str | Path,
    out: str | Path,
    prevalences: Sequence[float] | None = None,
) -> int:
    """Writes predictions in the form of a sample submission, with all of its rows in their order.

    A slice without a prediction, such as an unreadable one, gets the prevalences. A prediction for a slice
    that is not in the sample is an error, because one of the two files must be the wrong one.

    Args:
        predictions: A predictions table; its ``SOPInstanceUID`` and ``PROB_COLUMNS`` are used.
        sample: CSV file with the columns ``ID`` (``ID_0123456789_epidural``) and ``Label``, of any value.
        out: CSV file to write, completely or not at all.
        prevalences: Share of positives of each of ``LABELS`` in the training set; not needed if every slice
            has a prediction.

    Returns:
        The number of slices that were filled with the prevalences.

    Raises:
        UserError: If the labels are not the RSNA's, the sample is not a sample submission, a slice is
            predicted twice or is not in the sample, a probability is missing or outside [0, 1], or a slice
            has no prediction and there are no prevalences.
    """
    require_rsna(find_names(predictions), "a submission")
    ids = _read_ids(Path(sample))
    slices, columns = _split_ids(ids, sample)
    codes, uids = pd.factorize(slices)
    _check_complete(codes, columns, uids, sample)
    probs = _take_probs(predictions, uids, sample)
    missing = np.isnan(probs).any(axis=1)
    if missing.any():
        first = str(uids[int(missing.argmax())])
        probs[missing] = _check_prevalences(prevalences, int(missing.sum()), first)
    table = pd.DataFrame({"ID": ids, "Label": probs[codes, columns]})
    with replacing(Path(out)) as partial:
        table.to_csv(partial, index=False, float_format=_DIGITS, lineterminator="\n")
    return int(missing.sum())


def _read_ids(path: Path) -> pd.Series[str]:
    try:
        table = pd.read_csv(path, dtype={"ID": "str"}, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}") from error
    if list(table) != ["ID", "Label"]:
        found = ", ".join(map(ascii, table.columns[:8]))
        raise UserError(
            f"{path} is not a sample submission: it has the columns {found}; expected ID and Label"
        )
    if table.empty:
        raise UserError(f"{path} is not a sample submission: it has no rows")
    return table["ID"]


def _split_ids(ids: pd.Series[str], sample: str | Path) -> tuple[pd.Series[str], NDArray[np.int64]]:
    """Splits IDs into slices and places among ``LABELS``."""
    columns = np.full(len(ids), -1)
    slices = pd.Series("", index=ids.index, dtype="str")
    for number, label in enumerate(LABELS):
        found = ids.str.endswith(f"_{label}")
        columns[found] = number
        slices[found] = ids[found].str.slice(stop=-len(label) - 1)
    if (columns < 0).any():
        raise UserError(
            f"{sample} holds the ID {ids.iloc[int((columns < 0).argmax())]!r}: expected a slice, _ and one "
            f"of {', '.join(LABELS)}"
        )
    return slices, columns


def _check_complete(
    codes: NDArray[np.int64], columns: NDArray[np.int64], uids: pd.Index[str], sample: str | Path
) -> None:
    """Refuses a sample that lacks a label of a slice, or has it twice."""
    cells = np.bincount(codes * len(LABELS) + columns, minlength=len(uids) * len(LABELS))
    counts = cells.reshape(len(uids), len(LABELS))
    for wrong, what in ((counts > 1, "more than once"), (counts == 0, "not at all")):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise UserError(
                f"{sample} names {uids[row]}_{LABELS[column]} {what}, and {wrong.sum() - 1} others too; "
                "expected six rows per slice"
            )


def _take_probs(predictions: pd.DataFrame, uids: pd.Index[str], sample: str | Path) -> NDArray[np.float64]:
    """Returns (slices, 6) probabilities in the order of the sample; NaN without a prediction."""
    require_columns(predictions, ("SOPInstanceUID", *PROB_COLUMNS), "the predictions table")
    names = predictions["SOPInstanceUID"]
    values = predictions[list(PROB_COLUMNS)].to_numpy(dtype=np.float64)
    wrong = ~((values >= 0) & (values <= 1)).all(axis=1)
    twice = names.duplicated().to_numpy()
    places = uids.get_indexer(pd.Index(names))
    for found, what in (
        (wrong, "with a probability that is missing or outside [0, 1]"),
        (twice, "more than once"),
        (places < 0, f"that {sample} does not have: remove them, or give the sample that they belong to"),
    ):
        if found.any():
            first = names.iloc[int(found.argmax())]
            raise UserError(
                f"the predictions table has {found.sum()} of its {len(names)} slices {what}; for example, "
                f"{first}"
            )
    probs = np.full((len(uids), len(LABELS)), np.nan)
    probs[places] = values
    return probs


def _check_prevalences(prevalences: Sequence[float] | None, missing: int, first: str) -> NDArray[np.float64]:
    shares = np.asarray([] if prevalences is None else prevalences, dtype=np.float64)
    if shares.shape != (len(LABELS),) or not ((shares >= 0) & (shares <= 1)).all():
        raise UserError(
            f"{missing} slices have no prediction, for example {first}, and there are no prevalences of all "
            "labels to fill them in; give a checkpoint with prevalences, or predict these slices"
        )
    return shares
