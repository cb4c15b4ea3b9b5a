"""``ich phantom``: synthetic head CT."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ich.phantom import write_phantom
from ich.phantom.archive import TRUTH, write_archive
from ich.phantom.chances import Chances
from ich.schema import UserError

_NUMBERS = {
    "patients": "number of patients",
    "seed": "the same seed gives the same files",
    "size": "rows and columns",
}


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "phantom",
        help=summary,
        description="Writes synthetic head CT with hemorrhages as DICOM files, with a label CSV, in the "
        "layout of the RSNA 2019 data set. With --archive it writes the archive of a "
        "department, with mixed series and their truth in archive.json.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    for name, meaning in _NUMBERS.items():
        defaults = dict.fromkeys(str(_find_default(write, name)) for write in (write_phantom, write_archive))
        shown = " or, for an archive, ".join(defaults)
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{meaning} (default: {shown})")
    parser.add_argument(
        "--step",
        type=float,
        metavar="MM",
        help="distance between slices and their thickness (default: drawn)",
    )
    parser.add_argument("--masks", action="store_true", help="write lesion masks to OUT/masks")
    parser.add_argument(
        "--conformant", action="store_true", help="write all attributes of a conformant CT header"
    )
    parser.add_argument(
        "--chance",
        type=_parse_chance,
        action="append",
        metavar="NAME=P",
        help="how often a feature appears, from 0 to 1; can be given several times (defaults: "
        + ", ".join(f"{name} {value:g}" for name, value in asdict(Chances()).items())
        + ")",
    )
    parser.add_argument(
        "--archive",
        action="store_true",
        help="write folders of studies with scouts, bone kernels, other body parts, MR and damaged files "
        "among them",
    )
    parser.set_defaults(run=_run)


def _parse_chance(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=P with P from 0 to 1") from None


def _find_default(write: Callable[..., None], name: str) -> int:
    return int(inspect.signature(write).parameters[name].default)


def _run(args: argparse.Namespace) -> None:
    options = {
        "--step": args.step,
        "--masks": args.masks,
        "--conformant": args.conformant,
        "--chance": args.chance,
    }
    if args.archive and any(options.values()):
        option = next(name for name, given in options.items() if given)
        raise UserError(f"{option} cannot be used with --archive: leave one of the two out")
    write = write_archive if args.archive else write_phantom
    numbers: dict[str, int]
    given = {name: getattr(args, name) for name in _NUMBERS}
    numbers = {name: _find_default(write, name) if value is None else value for name, value in given.items()}
    if args.archive:
        write_archive(args.out, **numbers)
        print(f"archive of {numbers['patients']} studies in {args.out}; {args.out / TRUTH} describes it")
    else:
        chances = dict(args.chance or [])
        write_phantom(
            args.out,
            **numbers,
            masks=args.masks,
            conformant=args.conformant,
            chances=chances,
            step=args.step,
        )
        print(f"phantom of {numbers['patients']} patients in {args.out}")
