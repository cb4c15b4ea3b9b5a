"""Splits patients into training, validation and test set.

All slices of a patient go to one set. Neighboring slices and later studies of a head look alike, so a network
that has seen one recognizes the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.remote import AnyPath
from ich.schema import LABELS, UserError, check_seed
from ich.tables import UIDS, require_columns, restore_texts, write_table

__all__ = ["Shares", "read_split", "sample_patients", "split_patients", "split_slices", "write_split"]

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Shares:
    """Shares of the sets; the fields are arguments of ``HeadCTDataModule``.

    Attributes:
        val_fraction: Share of ``val``, of all slices, with or without ``fold``.
        test_fraction: Share of ``test``; has no effect with ``fold``.
        fold: Number of the fold that is ``test``, or None. A seed always gives the same folds.
        folds: Number of folds.
        seed: Random seed that decides between similar patients.

    Raises:
        UserError: If a value is out of range, or no slice is left for ``train``.
    """

    val_fraction: float
    test_fraction: float
    fold: int | str | None
    folds: int
    seed: int

    def __post_init__(self) -> None:
        check_seed("data.seed", self.seed)
        for name in ("val_fraction", "test_fraction"):
            if not 0 <= (share := getattr(self, name)) < 1:
                raise UserError(f"data.{name}={share}: expected a share from 0 to below 1")
        test, source = self.test_fraction, f"data.test_fraction={self.test_fraction}"
        if self.fold is not None:
            if self.folds < 2:
                raise UserError(f"data.folds={self.folds}: at least 2 folds are needed")
            if not isinstance(self.fold, int) or not 0 <= self.fold < self.folds:
                raise UserError(
                    f"data.fold={self.fold}: expected 0 to {self.folds - 1}, as data.folds={self.folds}; "
                    "train.py also takes all"
                )
            test, source = 1 / self.folds, f"one of data.folds={self.folds}"
        if not self.val_fraction + test < 1:
            raise UserError(f"data.val_fraction={self.val_fraction} and {source} leave nothing to train on")


def split_patients(table: pd.DataFrame, shares: Shares, names: Sequence[str] = LABELS) -> pd.Series[str]:
    """Splits by patient, so that every set holds its share of the slices and of each label.

    Patients are dealt one by one, those with the rarest label first, each to the part that lacks most of what
    the patient has: a multi-label stratification (Sechidis, Tsoumakas and Vlahavas, On the stratification of
    multi-label data, ECML PKDD 2011) that balances patients, slices, positive patients and positive slices of
    every label at once. If a label has no more positive patients than there are sets, no set gets a second
    one before every set has one. Unknown labels count as neither.

    Args:
        table: Index with the label columns; the order of the rows does not matter.
        shares: Shares of the sets.
        names: The label columns.

    Returns:
        ``train``, ``val`` or ``test`` for every row, on the index of ``table``.

    Raises:
        UserError: If a slice has no PatientID, or there are fewer patients than sets.
    """
    _require_patients(table)
    patients = _count_patients(table, names)
    val, test, folds = shares.val_fraction, shares.test_fraction, shares.folds
    sets = folds if shares.fold is not None else 1 + (val > 0) + (test > 0)
    _require_several(len(patients), table["StudyInstanceUID"].nunique(), sets)
    counts = patients.to_numpy(dtype=np.float64)
    rng = np.random.default_rng(shares.seed)
    if shares.fold is None:
        dealt = _deal_patients(counts, [1 - val - test, val, test], rng)
    else:
        rest = _deal_patients(counts, [1 / folds] * folds, rng) != shares.fold
        val_share = val / (1 - 1 / folds)
        dealt = np.full(len(counts), PARTS.index("test"))
        dealt[rest] = _deal_patients(counts[rest], [1 - val_share, val_share], rng)
    part_of = pd.Series(np.array(PARTS)[dealt], index=patients.index, dtype="str")
    return table["PatientID"].map(part_of).rename("part")


def split_slices(table: pd.DataFrame, shares: Shares, names: Sequence[str] = LABELS) -> pd.Series[str]:
    """Splits at random by slice. This leaks, because slices of one patient are in several sets.

    Use it only to reproduce work that did so. With ``fold``, only ``train`` and ``val`` leak into each other.
    ``test`` is then the fold of ``split_patients``, so its figures can be compared with those of a split by
    patient.

    Args:
        table: Index with the label columns, in the index's order.
        shares: Shares of the sets.
        names: The label columns.

    Returns:
        ``train``, ``val`` or ``test`` for every row, on the index of ``table``.

    Raises:
        UserError: As ``split_patients``.
    """
    parts = pd.Series("train", index=table.index, dtype="str", name="part")
    test_fraction = shares.test_fraction
    if shares.fold is not None:
        patientwise = split_patients(table, replace(shares, val_fraction=0.0), names)
        parts[patientwise == "test"] = "test"
        test_fraction = 0.0
    order = np.random.default_rng(shares.seed).permutation(np.flatnonzero(parts == "train"))
    val, test = (round(share * len(table)) for share in (shares.val_fraction, test_fraction))
    parts.iloc[order[:val]] = "val"
    parts.iloc[order[val : val + test]] = "test"
    return parts


def read_split(path: AnyPath, table: pd.DataFrame) -> pd.Series[str]:
    """Reads the part of every slice from a CSV with ``part`` and ``SOPInstanceUID`` or ``PatientID``.

    If the file has both, ``SOPInstanceUID`` decides. Names that are not in the table have no effect, so a
    file for a whole data set also works for a sample of it.

    Args:
        path: The file.
        table: Index of the slices to split.

    Returns:
        ``train``, ``val`` or ``test`` for every row, on the index of ``table``.

    Raises:
        UserError: If the file cannot be read, lacks a column, names another part, gives one name two
            parts, or leaves slices without a part.
    """
    try:
        with path.open("rb") as file:
            split = restore_texts(pd.read_csv(file, dtype="str", keep_default_na=False))
    except (OSError, ValueError) as error:
        raise UserError(f"data.split={path} cannot be read as CSV: {error}") from error
    key = "SOPInstanceUID" if "SOPInstanceUID" in split else "PatientID"
    require_columns(split, ("part", key), str(path))
    unknown = sorted(set(split["part"]) - set(PARTS))
    if unknown:
        raise UserError(f"{path} holds the part {unknown[0]!r}: expected one of {', '.join(PARTS)}")
    split = split[[key, "part"]].drop_duplicates()
    doubled = split.loc[split[key].duplicated(), key].nunique()
    if doubled:
        raise UserError(f"{path} gives more than one part to a {key}, {doubled} times; keep one row for each")
    parts = table[key].map(split.set_index(key)["part"]).rename("part")
    missing = int(parts.isna().sum())
    if missing:
        raise UserError(
            f"{path} gives no part to {missing} of {len(table)} slices; add their {key}, or leave out "
            "data.split to make a new split"
        )
    return parts.astype("str")


def write_split(table: pd.DataFrame, parts: pd.Series[str], path: Path) -> None:
    """Writes the UIDs, the patient and the part of every slice, for ``read_split``."""
    write_table(table[list(UIDS)].assign(part=parts), path)


def join_patients(table: pd.DataFrame, twins: pd.Series[int]) -> pd.Series[str]:
    """Gives patients who share pixels one common name, also through other patients.

    Args:
        table: Index.
        twins: For every row, on the index of ``table``: the same number for slices with the same pixels, -1
            for slices with unique pixels (``ich.index.identical``).

    Returns:
        The PatientID of one of them for every row.
    """
    names = table["PatientID"].astype("str")
    of_patient = pd.Series(names.unique(), index=names.unique())
    for _, shared in names[twins >= 0].groupby(twins[twins >= 0]):
        joined = of_patient[shared.unique()].unique()
        of_patient[of_patient.isin(joined)] = joined.min()
    return names.map(of_patient)


def check_split(table: pd.DataFrame, parts: pd.Series[str], twins: pd.Series[int] | None = None) -> None:
    """Refuses a split if two sets share a patient, a study or pixels.

    Slices without a PatientID, which only a file can split, are identified by their study.

    Args:
        table: Index; its row labels are what an error names.
        parts: The part of every row.
        twins: As in ``join_patients``, if known.

    Raises:
        UserError: With the number of shared patients, studies or pixels, and some of the rows.
    """
    _refuse_shared(table["PatientID"], parts, "patients", "give all slices of a PatientID one part")
    _refuse_shared(
        table["StudyInstanceUID"], parts, "studies", "give all slices of a StudyInstanceUID one part"
    )
    if twins is not None:
        shared = twins[twins >= 0].astype("str")
        _refuse_shared(shared, parts, "identical pixels", "give the patients of these slices one part")


def _refuse_shared(names: pd.Series[str], parts: pd.Series[str], noun: str, remedy: str) -> None:
    pairs = pd.DataFrame({"name": names[~_is_blank(names)], "part": parts}).dropna()
    firsts = pairs.drop_duplicates()
    shared = firsts[firsts["name"].duplicated(keep=False)].groupby("name", sort=False)["part"]
    if not shared.ngroups:
        return
    examples = [
        " and ".join(f"{row} ({part})" for row, part in rows.items()) for _, rows in islice(shared, 5)
    ]
    raise UserError(
        f"{noun} in more than one part of the split: {shared.ngroups}. Figures would be too good; {remedy}. "
        f"Examples, as rows of the index: {'; '.join(examples)}"
    )


def sample_patients(table: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """Draws whole patients, at least one, up to ``limit`` slices.

    A patient's place in the draw depends only on the seed and the PatientID. The order of the rows and other
    patients do not change it, and a larger sample contains the smaller one.

    Args:
        table: Index.
        limit: Maximum number of slices in the sample, unless the first patient has more.
        seed: Random seed for the draw.

    Returns:
        The patients' rows, in the order of ``table`` and with its index.

    Raises:
        UserError: If ``limit`` is below 1 or a slice has no PatientID.
    """
    if limit < 1:
        raise UserError(f"data.limit_slices={limit}: expected 1 or more")
    _require_patients(table)
    slices = table["PatientID"].value_counts()
    hashes = [hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest() for patient in slices.index]
    drawn = slices.iloc[np.argsort(hashes)]
    fits = drawn.cumsum() <= limit
    fits.iloc[0] = True
    return table[table["PatientID"].isin(drawn.index[fits])]


def labels_without_positives(
    table: pd.DataFrame, parts: pd.Series[str], names: Sequence[str] = LABELS
) -> dict[str, list[str]]:
    """Lists the labels without a known positive slice in a set.

    Args:
        table: Index with the label columns; NaN is unknown and does not count as positive.
        parts: The part of every row.
        names: The label columns.

    Returns:
        Labels by part, in the order of ``PARTS``. Parts that are empty or have all labels are left out.
    """
    found = (table[list(names)] == 1).groupby(parts).any()
    lacking = {part: [label for label in names if not found.loc[part, label]] for part in found.index}
    return {part: lacking[part] for part in PARTS if lacking.get(part)}


def _is_blank(names: pd.Series[str]) -> pd.Series[bool]:
    return names.isna() | (names.str.strip() == "")


def _require_patients(table: pd.DataFrame) -> None:
    missing = int(_is_blank(table["PatientID"]).sum())
    if missing:
        raise UserError(
            f"{missing} of {len(table)} slices have no PatientID, so their patients are unknown. "
            "data.group=StudyInstanceUID groups slices by study, but studies of one patient may then be in "
            "several parts. Or give every slice its part in a file with the columns SOPInstanceUID and "
            "part (data.split=FILE)"
        )


def _require_several(patients: int, studies: int, parts: int) -> None:
    if patients < parts and studies > patients:
        raise UserError(
            f"{patients} patients cannot be split into {parts} parts, and {studies} studies have no more "
            "PatientIDs than that, perhaps because all patients have one ID. data.group=StudyInstanceUID "
            "splits by study, but studies of one patient may then be in several parts"
        )


def _count_patients(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """(patients, 2 + 2 L): is one and has the label (1 + L), then slices and positive slices (1 + L)."""
    positive = table[list(names)] == 1
    slices = positive.assign(slices=True).groupby(table["PatientID"]).sum()
    slices = slices[["slices", *names]]
    return pd.concat([(slices > 0).add_prefix("has_"), slices], axis=1)


def _deal_patients(
    counts: NDArray[np.float64], shares: list[float], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Deals the rows of ``counts`` to parts of the given shares; a share of 0 gets none."""
    share = np.array(shares)[:, None]  # (K, 1)
    wanted = np.flatnonzero(share[:, 0])
    if len(counts) < len(wanted):
        raise UserError(
            f"{len(counts)} patients cannot be split into {len(wanted)} parts; "
            "lower data.folds or set a share to 0"
        )
    has = counts[:, : counts.shape[1] // 2] > 0  # (P, 1 + L)
    left = has.sum(axis=0)
    rarity = np.where(has, left, len(counts) + 1).min(axis=1)
    # Large ones first pack best; patients within a factor of two are alike, which leaves the seed a say.
    magnitude = np.floor(np.log2(counts[:, has.shape[1] :].sum(axis=1)))
    order = np.lexsort((rng.random(len(counts)), -magnitude, rarity))
    size = counts / np.maximum(counts.sum(axis=0), 1)  # (P, 2 + 2 L), a patient's share of each total
    held = np.zeros((len(shares), counts.shape[1]))
    lacks = np.ones((len(shares), has.shape[1]), dtype=bool)
    lacks[share[:, 0] == 0] = False
    rarest_first = np.argsort(left)
    dealt = np.empty(len(counts), dtype=np.int64)
    for row in order:
        open_to = share[:, 0] > 0
        for label in rarest_first:
            if has[row, label] and left[label] <= lacks[:, label].sum():
                open_to = lacks[:, label]
                break
        # Growth of the squared distance to the shares, in units of the share.
        growth = (size[row] * (size[row] + 2 * (held - share)) / np.maximum(share, 1e-9)).sum(axis=1)
        part = int(np.argmin(np.where(open_to, growth, np.inf)))
        dealt[row] = part
        held[part] += size[row]
        lacks[part] &= ~has[row]
        left -= has[row]
    return dealt
