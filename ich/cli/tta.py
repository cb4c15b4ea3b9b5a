"""The choice of test-time augmentation."""

from __future__ import annotations

import argparse


def add_tta(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds ``--tta`` to a command: a list of names, or None if it is not given."""
    parser.add_argument(
        "--tta",
        nargs="*",
        metavar="HOW",
        help="test-time augmentation, averages over changed slices: flip, scale, reverse (the order of "
        f"neighbors); without a name there is none (default: {default})",
    )
