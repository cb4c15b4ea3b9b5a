"""``ich index``: the headers of a folder as a table."""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ich.cli.codes import print_codes
from ich.cli.options import add_index_dir
from ich.index import build_index, locate_index
from ich.index.identical import find_identical
from ich.index.quality import QUALITY, check_series, check_slices, write_quality
from ich.remote import parse_path
from ich.schema.codes import Quality, Refusal

_EXAMPLES = 10  # of slices with the same pixels


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "index",
        help=summary,
        description="Reads the headers of all slices below ROOT, in any layout, into a table. The next "
        "call only updates this table. The command reports which files were refused and why.",
    )
    parser.add_argument(
        "root",
        type=parse_path,
        metavar="ROOT",
        help="folder of DICOM files, or an address such as s3://bucket/folder",
    )
    add_index_dir(parser)
    parser.add_argument(
        "--workers", type=int, metavar="N", help="number of processes that read (default: automatic)"
    )
    parser.add_argument(
        "--check", action="store_true", help="also read all pixels, and list data-quality problems"
    )
    parser.add_argument(
        "--hash", action="store_true", help="find slices of different patients with the same pixels"
    )
    parser.add_argument(
        "--pseudonyms", action="store_true", help="from now on, keep a keyed hash in place of PatientID"
    )
    parser.add_argument(
        "--trust-folders",
        action="store_true",
        help="do not list the files if no folder has changed; does not notice files overwritten in place",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    index = build_index(
        args.root,
        index_dir=args.index_dir,
        pseudonyms=args.pseudonyms,
        trust_folders=args.trust_folders,
        workers=args.workers,
    )
    table, folder = index.table, args.index_dir or locate_index(args.root)
    print(
        f"{len(table)} slices, {table['SeriesInstanceUID'].nunique()} series, "
        f"{table['StudyInstanceUID'].nunique()} studies, {table['PatientID'].nunique()} patients "
        f"in {folder / 'index.parquet'}"
    )
    direct = int((table["pixel_offset"] >= 0).sum())
    print(f"pixels of {direct} slices can be read directly, {len(table) - direct} must be decoded")
    print_codes(index.refused, "files refused", folder / "refused.csv", Refusal)
    problems = check_series(table)
    if args.check:
        problems = pd.concat([problems, check_slices(args.root, table)], ignore_index=True)
    write_quality(problems, folder)
    print_codes(problems, "data-quality problems", folder / QUALITY, Quality, Refusal)
    if args.hash:
        _print_identical(table, find_identical(args.root, table, folder))


def _print_identical(table: pd.DataFrame, groups: NDArray[np.int64]) -> None:
    shared = groups >= 0
    print(
        f"{shared.sum()} slices of {table.loc[shared, 'PatientID'].nunique()} patients have the same pixels "
        "as a slice of another patient"
    )
    for group in range(min(_EXAMPLES, groups.max() + 1)):
        print(f"  {', '.join(table.loc[groups == group, 'path'])}")
