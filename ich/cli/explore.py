"""``ich explore``: a data set as a page."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ich.cli.options import add_columns, add_index_dir, join_columns
from ich.schema.labels import RSNA_LABELS, LabelSet


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "explore",
        help=summary,
        description="Writes one self-contained page and its pictures as PNG. The page shows headers, "
        "labels, the pixels of a sample of slices, and what stands out. It names no patient "
        "and no file.",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of DICOM files")
    parser.add_argument(
        "--labels", type=Path, metavar="CSV", help="label file (default: the one in ROOT, if any)"
    )
    add_columns(parser)
    parser.add_argument(
        "--names", nargs="+", metavar="LABEL", help="the labels in it, if they are not the RSNA's six"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("explore"),
        metavar="DIR",
        help="folder to write to (default: %(default)s)",
    )
    parser.add_argument(
        "--slices",
        type=int,
        metavar="N",
        help="number of slices to read pixels from, spread over patients and subtypes",
    )
    parser.add_argument(
        "--hash", action="store_true", help="look for identical pixels among all slices, not only the sample"
    )
    add_index_dir(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # It imports matplotlib, which takes a second, so other commands do not.
    from ich.explore import DEFAULT_SLICES, check_folder, explore, write_exploration
    from ich.report.document import Highlight, Listing, Text

    check_folder(args.out)
    document = explore(
        args.root,
        labels=args.labels,
        columns=join_columns(args.columns),
        label_set=RSNA_LABELS if args.names is None else LabelSet(args.names, (1.0,) * len(args.names)),
        index_dir=args.index_dir,
        slices=DEFAULT_SLICES if args.slices is None else args.slices,
        compare_all=args.hash,
    )
    page = write_exploration(document, args.out)
    for block in replace(document, sections=document.sections[:1]).blocks:
        if isinstance(block, Highlight | Text):
            print(f"- {block.text}")
        elif isinstance(block, Listing):
            print("\n".join(f"- {item}" for item in block.items))
    print(f"wrote {page} and {len(document.pictures)} pictures beside it")
