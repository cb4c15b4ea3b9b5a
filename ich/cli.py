"""The command ``ich``."""

from __future__ import annotations

import argparse
import inspect
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from ich import __version__
from ich.findings import FINDINGS, check_series, check_slices, write_findings
from ich.identical import find_identical
from ich.index import build_index, locate_index
from ich.phantom import write_phantom
from ich.schema import DISCLAIMER, UserError

_EXAMPLES = 10  # of slices with the same pixels


def main() -> None:
    """Runs ``ich`` with the arguments of the command line; a user's error is one message and exit code 2."""
    if sys.argv[1:2] == ["train"]:
        # Hydra reads the rest, ``--help`` included; it takes seconds to import, which the others are spared.
        from ich.train import main as train

        sys.argv = [f"{sys.argv[0]} train", *sys.argv[2:]]
        return train()
    args = _make_parser().parse_args()
    try:
        args.run(args)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        sys.exit(130)
    except (UserError, OSError) as error:
        Console(stderr=True).print(
            f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        sys.exit(2)
    return None


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ich",
        description="Detects intracranial hemorrhage in head CT and names its subtypes.",
        epilog=f"{DISCLAIMER}.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "train", help="train a model: key=value ..., as train.py; `ich train --help` lists what to set"
    )
    index = commands.add_parser(
        "index",
        help="read the headers of a folder of DICOM files into a table",
        description="Reads the headers of every slice below ROOT, in any layout, into a table that is kept "
        "and brought up to date on the next call; tells what was refused and why.",
    )
    index.add_argument("root", type=Path, metavar="ROOT", help="folder of DICOM files")
    index.add_argument("--index-dir", type=Path, metavar="DIR", help="where to keep it (default: ROOT/.ich)")
    index.add_argument(
        "--workers", type=int, metavar="N", help="processes that read (default: as many as pay)"
    )
    index.add_argument(
        "--check", action="store_true", help="read all pixels, and list what is not plausible of them"
    )
    index.add_argument(
        "--hash", action="store_true", help="find slices of different patients with the same pixels"
    )
    index.add_argument(
        "--pseudonyms", action="store_true", help="keep a keyed hash of PatientID in its place, from now on"
    )
    index.set_defaults(run=_index)
    phantom = commands.add_parser(
        "phantom",
        help="write synthetic head CT with hemorrhages as DICOM files",
        description="Writes synthetic head CT with hemorrhages as DICOM files in the layout of the RSNA 2019 "
        "data set, with its label CSV.",
    )
    phantom.add_argument("out", type=Path, metavar="OUT", help="new folder")
    numbers = {
        "patients": "how many",
        "seed": "the same seed gives the same files",
        "size": "rows and columns",
    }
    for name, meaning in numbers.items():
        default = inspect.signature(write_phantom).parameters[name].default
        phantom.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default: %(default)s)"
        )
    phantom.add_argument("--masks", action="store_true", help="write lesion masks to OUT/masks")
    phantom.add_argument(
        "--conformant", action="store_true", help="write all that a conformant CT header has"
    )
    phantom.set_defaults(run=_phantom)
    bundle = commands.add_parser(
        "bundle",
        help="write a trained model to one file, to hand it on",
        description="Writes the weights of a run's best epoch, with what it takes to use them, to one file "
        "that names no patient and has no code in it.",
    )
    bundle.add_argument("source", type=Path, metavar="RUN", help="a run's folder, or a checkpoint")
    bundle.add_argument("out", type=Path, metavar="OUT", help="new file, for instance model.zip")
    bundle.set_defaults(run=_bundle)
    return parser


def _index(args: argparse.Namespace) -> None:
    index = build_index(args.root, index_dir=args.index_dir, pseudonyms=args.pseudonyms, workers=args.workers)
    table, folder = index.table, args.index_dir or locate_index(args.root)
    print(
        f"{len(table)} slices, {table['SeriesInstanceUID'].nunique()} series, "
        f"{table['StudyInstanceUID'].nunique()} studies, {table['PatientID'].nunique()} patients "
        f"in {folder / 'index.parquet'}"
    )
    direct = int((table["pixel_offset"] >= 0).sum())
    print(f"{direct} are read where their pixels lie, {len(table) - direct} have to be decoded")
    if len(index.refused):
        print(f"{len(index.refused)} files refused, listed in {folder / 'refused.csv'}")
        for code, count in index.refused["code"].value_counts().items():
            print(f"  {code}: {count}")
    findings = check_series(table)
    if args.check:
        findings = pd.concat([findings, check_slices(args.root, table)], ignore_index=True)
    write_findings(findings, folder)
    if len(findings):
        print(f"{len(findings)} findings, listed in {folder / FINDINGS}")
        for code, count in findings["code"].value_counts().items():
            print(f"  {code}: {count}")
    if args.hash:
        _print_identical(table, find_identical(args.root, table, folder))


def _print_identical(table: pd.DataFrame, groups: NDArray[np.int64]) -> None:
    shared = groups >= 0
    print(
        f"{shared.sum()} slices of {table.loc[shared, 'PatientID'].nunique()} patients have the pixels of a "
        "slice of another patient"
    )
    for group in range(min(_EXAMPLES, groups.max() + 1)):
        print(f"  {', '.join(table.loc[groups == group, 'path'])}")


def _phantom(args: argparse.Namespace) -> None:
    write_phantom(
        args.out,
        patients=args.patients,
        seed=args.seed,
        size=args.size,
        masks=args.masks,
        conformant=args.conformant,
    )
    print(f"phantom of {args.patients} patients in {args.out}")


def _bundle(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds that the other commands are spared.
    from ich.bundle import write_bundle
    from ich.checkpoint import find_checkpoint
    from ich.models import load_classifier

    source = find_checkpoint(args.source, "best")
    model = load_classifier(source)
    write_bundle(model.card, model.state_dict(), args.out)
    print(f"{model.card['model']['backbone']} of {source} in {args.out}")
