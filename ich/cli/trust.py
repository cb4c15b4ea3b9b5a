"""The user's consent to run own code that a model file names."""

from __future__ import annotations

import argparse


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds ``--trust`` to a command that loads models."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        dest="trusted",
        metavar="PREFIX",
        help="code for backbones of your own, such as mypackage. (repeatable; default: timm only)",
    )
