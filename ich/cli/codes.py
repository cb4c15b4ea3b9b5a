"""Prints tables of files and data-quality problems by their codes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def print_codes(table: pd.DataFrame, what: str, path: Path) -> None:
    """Prints the number of rows, the table's path and the count of each code; nothing for an empty table."""
    if table.empty:
        return
    print(f"{len(table)} {what}, listed in {path}")
    for code, count in table["code"].value_counts().items():
        print(f"  {code}: {count}")
