"""Prints tables of files and data-quality problems by their codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ich.schema.codes import Code, find_sentence

if TYPE_CHECKING:  # it takes a third of a second, which a command's help need not wait for
    import pandas as pd


def print_codes(table: pd.DataFrame, what: str, path: Path, *kinds: type[Code]) -> None:
    """Prints the number of rows, the table's path and the count of each code; nothing for an empty table.

    Args:
        table: Has a column ``code``.
        what: Follows the number of rows.
        path: Path of the table.
        *kinds: Kinds of codes that the table may hold, for what the codes mean.
    """
    if table.empty:
        return
    print(f"{len(table)} {what}, listed in {path}")
    for code, count in table["code"].value_counts().items():
        print(f"  {code}: {count} ({find_sentence(str(code), *kinds)})")
