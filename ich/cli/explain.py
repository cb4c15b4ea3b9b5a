"""``ich explain``: heat maps of the evidence for a label."""

from __future__ import annotations

import argparse
from pathlib import Path

from ich.cli.codes import print_codes
from ich.cli.options import add_trust
from ich.files import hash_file
from ich.schema import WINDOWS
from ich.schema.codes import Refusal
from ich.schema.results import KEY_SLICES


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "explain",
        help=summary,
        description="Lists all slices with their probabilities in DIR/slices.csv. Then it writes heat maps "
        "for each label and the key slices of each study: a picture, and an array with the "
        "slice's own rows and columns. The number in the list is the name of the file. The "
        "same command continues where an earlier call stopped.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint, bundle or run")
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="PATH", help="DICOM file, or folder of DICOM files"
    )
    parser.add_argument(
        "--label",
        nargs="+",
        metavar="LABEL",
        help="labels to explain (default: the one that decides, such as any)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("explained"),
        metavar="DIR",
        help="new folder, or the folder of an earlier call to continue (default: %(default)s)",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--all",
        dest="choice",
        action="store_const",
        const="all",
        default="key",
        help=f"explain every slice (default: the {KEY_SLICES} slices of each study with the highest "
        "probability of each label)",
    )
    chosen.add_argument(
        "--limit",
        dest="choice",
        type=_read_count,
        metavar="N",
        help="explain the N slices with the highest probability of these labels",
    )
    parser.add_argument(
        "--window", default="brain", choices=WINDOWS, help="window of the pictures (default: %(default)s)"
    )
    add_trust(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds, so other commands do not.
    from ich.explain.folder import LIST, REFUSED, write_heatmaps
    from ich.model_files.checkpoint import find_checkpoint
    from ich.models import load_ensemble

    path = find_checkpoint(args.checkpoint, "best")
    nets, sha256 = load_ensemble(path, trusted=args.trusted).nets, hash_file(path)
    if len(nets) > 1:
        print(f"{path} is an ensemble of {len(nets)} models; probabilities and maps are those of the first")
    done = write_heatmaps(nets[0], sha256, args.paths, args.out, args.label, args.window, args.choice)
    print(
        f"{done.slices} slices listed in {args.out / LIST}, {done.explained} explained, {done.now} of them "
        "now"
    )
    if done.explained < done.slices:
        print("use --limit N or --all to explain more slices in the same folder")
    print_codes(done.refused, "files refused", args.out / REFUSED, Refusal)


def _read_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)
