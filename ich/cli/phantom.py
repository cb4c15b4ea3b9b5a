"""``ich phantom``: synthetic head CT."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path

from ich.phantom import write_phantom


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "phantom",
        help="write synthetic head CT with hemorrhages as DICOM files",
        description="Writes synthetic head CT with hemorrhages as DICOM files in the layout of the RSNA 2019 "
        "data set, with its label CSV.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    numbers = {
        "patients": "how many",
        "seed": "the same seed gives the same files",
        "size": "rows and columns",
    }
    for name, meaning in numbers.items():
        default = inspect.signature(write_phantom).parameters[name].default
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )
    parser.add_argument("--masks", action="store_true", help="write lesion masks to OUT/masks")
    parser.add_argument("--conformant", action="store_true", help="write all that a conformant CT header has")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    write_phantom(
        args.out,
        patients=args.patients,
        seed=args.seed,
        size=args.size,
        masks=args.masks,
        conformant=args.conformant,
    )
    print(f"phantom of {args.patients} patients in {args.out}")
