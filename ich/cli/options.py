"""Options that several commands take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ich.schema import UserError


def add_index_dir(parser: argparse.ArgumentParser) -> None:
    """Adds ``--index-dir`` to a command that reads a data set."""
    parser.add_argument(
        "--index-dir",
        type=Path,
        metavar="DIR",
        help="where to keep the index (default: ROOT/.ich; for an address the user's cache)",
    )


def add_columns(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds ``--columns`` to a command that reads a label file; ``join_columns`` takes what it gives."""
    parser.add_argument(
        "--columns",
        type=_parse_column,
        nargs="+",
        default=[],
        metavar="NAME=COLUMN",
        help="what the label file calls a label or a key, for instance epidural=EDH SOPInstanceUID=image",
    )


def _parse_column(text: str) -> tuple[str, str]:
    name, _, column = text.partition("=")
    if not name or not column:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=COLUMN, for instance epidural=EDH")
    return name, column


def join_columns(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Joins the values of ``--columns``.

    Raises:
        UserError: If a name is given twice.
    """
    columns = dict(pairs)
    for name, column in pairs:
        if columns[name] != column:
            raise UserError(f"--columns: {name}={column} and {name}={columns[name]}; keep one")
    return columns


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
