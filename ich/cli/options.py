"""Options that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # they take long to import
    import pandas as pd

    from ich.schema.labels import LabelSet


def add_index_dir(parser: argparse.ArgumentParser) -> None:
    """Adds ``--index-dir`` to a command that reads a data set."""
    parser.add_argument(
        "--index-dir",
        type=Path,
        metavar="DIR",
        help="where to keep the index (default: ROOT/.ich; for an address the user's cache)",
    )


def add_tta(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds ``--tta`` to a command: a list of names, or None if it is not given."""
    parser.add_argument(
        "--tta",
        nargs="*",
        metavar="HOW",
        help="test-time augmentation, averages over changed slices: flip, scale, reverse (the order of "
        f"neighbors); without a name there is none (default: {default})",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Adds ``--threads`` and ``--gpus`` to a command that predicts."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="number of CPU threads (default: one per core)"
    )
    parser.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="number of GPUs; 0 uses the CPU (default: a GPU if there is one)",
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds ``--trust`` to a command that loads models: the consent to run code that a model file names."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        dest="trusted",
        metavar="PREFIX",
        help="code for backbones of your own, such as mypackage. (repeatable; default: timm only)",
    )


def read_any_labels(path: Path, label_set: LabelSet) -> pd.DataFrame:
    """Reads labels of slices, studies or patients, by the columns of the file."""
    from ich.index import read_labels, read_study_labels
    from ich.index.labels import find_slice_column, read_columns

    if find_slice_column(read_columns(path, label_set.names), label_set.names) is None:
        return read_study_labels(path, label_set)
    return read_labels(path, label_set)
