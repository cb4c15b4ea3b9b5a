"""Updates an index: what is kept of it, which files must be read, and how the parts are joined."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.index.cache import REFUSED_DTYPES, Index, order_index
from ich.index.joining import find_places
from ich.schema.codes import Refusal
from ich.tables import STAMP


def take_kept(cached: Index, files: pd.DataFrame) -> tuple[Index, pd.DataFrame]:
    """Separates what stays of an index from the files that must be read."""
    kept, changed = take_current(cached, files)
    if len(kept.table) < len(cached.table):  # a file that went may have been the first of a pair
        lasting = cached.refused["code"] != Refusal.DUPLICATE_UID
        return take_current(cached._replace(refused=cached.refused[lasting]), files)
    return kept, changed


def take_current(index: Index, files: pd.DataFrame) -> tuple[Index, pd.DataFrame]:
    """Separates the known rows of unchanged files from the files that must be read."""
    current: list[pd.DataFrame] = []
    for table in index:
        places = _locate(table, files)
        current.append(table[places >= 0])
        known = np.zeros(len(files), dtype=bool)
        known[places[places >= 0]] = True
        files = files[~known]
    return Index(*current), files


def _locate(table: pd.DataFrame, files: pd.DataFrame) -> NDArray[np.int32]:
    """Finds each row's file among ``files``; -1 if it is missing or changed, or if an earlier row has it."""
    places = find_places(table["path"], files["path"])
    rows = np.flatnonzero(places >= 0)
    for column in ("file_size", "mtime_ns"):
        was, is_now = table[column].to_numpy(), files[column].to_numpy()
        rows = rows[was[rows] == is_now[places[rows]]]
    frames = table["frame"].to_numpy()[rows] if "frame" in table else 0
    rows = rows[~pd.DataFrame({"place": places[rows], "frame": frames}).duplicated().to_numpy()]
    current = np.full_like(places, -1)
    current[rows] = places[rows]
    return current


def merge(indexes: list[Index]) -> Index:
    """Joins and orders indexes; of files with the same SOPInstanceUID the first by path is kept.

    Args:
        indexes: At least one. The list is empty afterwards, because a second copy of large tables takes much
            memory.
    """
    table = pd.concat([each.table for each in indexes], ignore_index=True)
    refusals = [each.refused for each in indexes]
    indexes.clear()
    doubled = table[table["SOPInstanceUID"].duplicated(keep=False)].sort_values("path")
    seconds = doubled[doubled["SOPInstanceUID"].duplicated()]
    firsts = doubled.drop(seconds.index).set_index("SOPInstanceUID")["path"]
    duplicates = seconds[STAMP].assign(
        code=str(Refusal.DUPLICATE_UID),
        detail="has the SOPInstanceUID of " + seconds["SOPInstanceUID"].map(firsts).astype("str"),
    )
    refused = pd.concat([*refusals, duplicates[list(REFUSED_DTYPES)].drop_duplicates("path")])
    if len(seconds):  # else a copy of all rows would be in memory for nothing
        table = table.drop(seconds.index)
    return Index(
        order_index(table),
        refused.sort_values("path", ignore_index=True).astype(REFUSED_DTYPES),
    )
