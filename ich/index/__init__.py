"""A folder of DICOM slices to a table, the labels of a CSV file, and the two joined.

``files`` finds the files and reads their headers, ``labels`` the two forms of a label file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.dicom.refusal import Refusal
from ich.index.files import REFUSED_DTYPES, STAMP, Stamps, list_files, read_headers
from ich.index.labels import LABEL_KEYS, find_key, melt, parse_values, read_csv, split_ids
from ich.schema import LABELS, SUBTYPES, UserError
from ich.tables import INDEX_DTYPES, read_index, write_table

DUPLICATE_UID = "duplicate_uid"
"""Code of a file that was refused because another, earlier by path, has its SOPInstanceUID."""

_VERSION = 2  # of the cache: raised when what a header yields changes
_ORDER = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "position", "InstanceNumber", "path"]
# What these say may change while the file does not: a codec is installed, a permission given.
_PASSING = [Refusal.UNREADABLE, Refusal.UNSUPPORTED_SYNTAX]


class Index(NamedTuple):
    """The slices of a folder.

    Attributes:
        table: One row a slice that can be read: ``INDEX_DTYPES``.
        refused: One row a file that was refused: ``REFUSED_DTYPES``; -1 where it has no size or time.
    """

    table: pd.DataFrame
    refused: pd.DataFrame


class JoinCounts(NamedTuple):
    """What came of joining an index to labels.

    Attributes:
        slices: Rows of the index.
        unlabelled: Of these, slices of which no label is known.
        without_file: Slices that the labels name and the index lacks.
    """

    slices: int
    unlabelled: int
    without_file: int


def build_index(
    root: Path, *, index_dir: Path | None = None, workers: int | None = None, progress: bool = True
) -> Index:
    """Reads the headers of every slice below a folder, in any layout.

    The result is kept as ``index.parquet`` and ``refused.csv``, readable by their owner alone as they name
    patients. The next call reads what is new or has another size or time of change. Hidden files and
    folders, and files whose suffix says that they are something else, are passed over.

    Args:
        root: The folder.
        index_dir: Where the index is kept; by default ``locate_index(root)``.
        workers: Processes that read; by default one a core if reading takes long, and else this one. They
            import the main script, which therefore has to start its work under
            ``if __name__ == "__main__":``.
        progress: Show a bar on a terminal if reading takes longer than a moment.

    Returns:
        The slices in order of patient, study, series and position, and what was refused.

    Raises:
        UserError: If the folder is missing or holds no slice that can be read, or the index cannot be kept.
    """
    files, closed = list_files(root)
    if not files and closed.empty:
        raise UserError(f"data.root={root} holds no DICOM file; expected e.g. {root}/stage_2_train/ID_*.dcm")
    folder = locate_index(root) if index_dir is None else index_dir
    cached = _read_cache(folder)
    kept = Index(*(table[_is_current(table, files)] for table in cached))
    if len(kept.table) < len(cached.table):  # a file that went may have been the first of a pair
        kept = kept._replace(refused=kept.refused[kept.refused["code"] != DUPLICATE_UID])
    known = {*kept.table["path"], *kept.refused["path"]}
    changed = files.keys() - known
    if not changed and closed.empty and len(known) == sum(map(len, cached)):
        return cached
    fresh = read_headers(root, {path: files[path] for path in changed}, workers, progress)
    index = _merge(kept, *fresh, (_no_slices(), closed))
    if index.table.empty:
        codes = ", ".join(f"{code} {count}" for code, count in index.refused["code"].value_counts().items())
        first = index.refused.iloc[0]
        raise UserError(
            f"data.root={root} holds no CT slice that can be read; refused: {codes}; "
            f"for one, {first['path']}: {first['detail']}"
        )
    _write_cache(index, folder)
    return index


def locate_index(root: Path) -> Path:
    """Returns the folder where the index of ``root`` is kept unless told otherwise.

    It is ``.ich`` in ``root``, or where that cannot be written to, a folder of the user's cache
    (``XDG_CACHE_HOME``, ``~/.cache``).
    """
    beside = root / ".ich"
    wanted = os.R_OK | os.W_OK | os.X_OK
    if os.access(beside, wanted) or (not os.access(beside, os.F_OK) and os.access(root, wanted)):
        return beside
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "ich" / hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]


def _is_current(table: pd.DataFrame, files: Stamps) -> NDArray[np.bool_]:
    rows = zip(*(table[column].tolist() for column in STAMP), strict=True)
    return np.array([files.get(path) == (size, time) for path, size, time in rows], dtype=bool)


def _read_cache(folder: Path) -> Index:
    try:
        table = read_index(folder / "index.parquet")
        refused = pd.read_csv(folder / "refused.csv", dtype=REFUSED_DTYPES, keep_default_na=False)
        fits = table.attrs.pop("version", None) == _VERSION and list(refused) == list(REFUSED_DTYPES)
    except (UserError, OSError, ValueError):  # none yet, or a broken one: it is made anew
        fits = False
    if not fits:
        return Index(_no_slices(), pd.DataFrame(columns=list(REFUSED_DTYPES)).astype(REFUSED_DTYPES))
    return Index(table[list(INDEX_DTYPES)], refused[~refused["code"].isin(_PASSING)])


def _write_cache(index: Index, folder: Path) -> None:
    table = index.table.copy(deep=False)
    table.attrs["version"] = _VERSION
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A folder of its own, closed to others: runs that start together do not meet in it.
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as closed:
            for name, content in (("refused.csv", index.refused), ("index.parquet", table)):
                write_table(content, Path(closed, name))
                Path(closed, name).chmod(0o600)
                Path(closed, name).replace(folder / name)
    except OSError as error:
        raise UserError(
            f"the index cannot be written to {folder}: {error.strerror or error}; "
            "make room, or name another folder with data.index_dir"
        ) from error


def _no_slices() -> pd.DataFrame:
    return pd.DataFrame(columns=list(INDEX_DTYPES)).astype(INDEX_DTYPES)


def _merge(*indexes: tuple[pd.DataFrame, pd.DataFrame]) -> Index:
    """Joins and orders indexes; of files with one SOPInstanceUID the first by path stays."""
    tables, refusals = zip(*indexes, strict=True)
    table = pd.concat(tables).sort_values("path")
    doubled = table["SOPInstanceUID"].duplicated()
    first = table[~doubled].set_index("SOPInstanceUID")["path"]
    seconds = table.loc[doubled, STAMP].assign(
        code=DUPLICATE_UID,
        detail="has the SOPInstanceUID of " + table.loc[doubled, "SOPInstanceUID"].map(first),
    )
    refused = pd.concat([*refusals, seconds[list(REFUSED_DTYPES)]])
    return Index(
        table[~doubled].sort_values(_ORDER, ignore_index=True),
        refused.sort_values("path", ignore_index=True).astype(REFUSED_DTYPES),
    )


def find_labels(root: Path) -> Path:
    """Finds the label file of a data set: ``stage_2_train.csv``, or the only CSV in ``root`` with labels.

    Raises:
        UserError: If there is none, or several.
    """
    if (root / "stage_2_train.csv").is_file():
        return root / "stage_2_train.csv"
    found = [path for path in sorted(root.glob("*.csv")) if _holds_labels(path)]
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5])
        raise UserError(
            f"data.root={root} holds {f'several label files ({names})' if found else 'no label file'}; "
            "name the one with data.labels=FILE"
        )
    return found[0]


def _holds_labels(path: Path) -> bool:
    try:
        return find_key(read_csv(path, nrows=0)) is not None
    except UserError:
        return False


def read_labels(path: Path) -> pd.DataFrame:
    """Reads labels from a CSV file.

    It is long, as the RSNA's: ``ID`` (``ID_12345_subdural``) and ``Label``. Or it is wide: ``SOPInstanceUID``
    or ``ID``, and a column for each label that is known. Empty is unknown. Where no slice has ``any``, it
    follows from the subtypes, if the file has all five: 1 if one is 1, 0 if all are 0.

    Returns:
        A row a slice, indexed by ``SOPInstanceUID``: the columns of ``LABELS``, float32, NaN where unknown.

    Raises:
        UserError: If the file cannot be read or has other columns, an unknown subtype, labels other than
            0 and 1, or labels that contradict each other.
    """
    table = read_csv(path)
    key = find_key(table)
    if key is None:
        raise UserError(
            f"{path} has the columns {', '.join(map(ascii, table.columns[:8]))}; expected ID and Label, or "
            f"{' or '.join(LABEL_KEYS)} with some of {', '.join(LABELS)}"
        )
    if table.empty:
        raise UserError(f"{path} holds no label")
    uids, columns, values = split_ids(table, path) if "Label" in table else melt(table, key, path)
    labels = parse_values(values, uids, columns, path)
    codes, names = pd.factorize(uids)
    if "" in names:
        raise UserError(f"{path} has labels without a {key}; complete or remove them")
    wide = np.full((len(names), len(LABELS)), np.nan, dtype=np.float32)
    wide[codes, columns] = labels
    kept = wide[codes, columns]
    differs = (kept != labels) & ~(np.isnan(kept) & np.isnan(labels))
    _refuse(names[np.unique(codes[differs])], "two labels for one subtype", path)
    subtypes, either = wide[:, : len(SUBTYPES)], wide[:, -1]
    if np.isnan(either).all() and not np.isnan(subtypes).all(axis=0).any():
        either[(subtypes == 1).any(axis=1)] = 1
        either[(subtypes == 0).all(axis=1)] = 0
    wrong = (either == 0) & (subtypes == 1).any(axis=1) | (either == 1) & (subtypes == 0).all(axis=1)
    _refuse(names[wrong], "a label any that is not the largest of the subtypes", path)
    return pd.DataFrame(wide, index=pd.Index(names, name="SOPInstanceUID"), columns=list(LABELS))


def _refuse(names: Any, what: str, path: Path) -> None:
    if len(names):
        examples = ", ".join(map(str, names[:5]))
        raise UserError(f"{path} has {what}, for {len(names)} of its slices: {examples}; correct them")


def join_labels(table: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, JoinCounts]:
    """Adds the label columns to an index; its rows and their order stay.

    Args:
        table: Index.
        labels: From ``read_labels``.

    Returns:
        The index with the columns of ``LABELS``, float32, NaN where unknown; and what was found.

    Raises:
        UserError: If no slice of the index is among the labels.
    """
    places = labels.index.get_indexer(pd.Index(table["SOPInstanceUID"]))
    found = places >= 0
    if not found.any():
        raise UserError(
            f"no slice has a label: the labels name {labels.index[0]}, for one, and none of the "
            f"SOPInstanceUIDs of {len(table)} files, {table['path'].iloc[0]} among them, is there; "
            "name another file with data.labels=FILE"
        )
    values = np.full((len(table), len(LABELS)), np.nan, dtype=np.float32)
    values[found] = labels[list(LABELS)].to_numpy(dtype=np.float32)[places[found]]
    joined = table.copy()
    joined[list(LABELS)] = values
    unlabelled = int(np.isnan(values).all(axis=1).sum())
    return joined, JoinCounts(len(table), unlabelled, len(labels) - int(found.sum()))
