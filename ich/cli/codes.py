"""What commands print of files and findings that have codes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def print_codes(table: pd.DataFrame, what: str, path: Path) -> None:
    """Prints how many rows a table has, where it is, and how often each of its codes stands there, if any."""
    if table.empty:
        return
    print(f"{len(table)} {what}, listed in {path}")
    for code, count in table["code"].value_counts().items():
        print(f"  {code}: {count}")
