"""``ich explain``: where a model looks."""

from __future__ import annotations

import argparse
from pathlib import Path

from ich.cli.codes import print_codes
from ich.schema import LABELS, WINDOWS


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "explain",
        help="draw where in slices a model finds the evidence for a label",
        description="Writes for each slice and label a picture of where the model finds the evidence, and "
        "the same as an array in the slice's own rows and columns. Files are named by a number; "
        "OUT/slices.csv says which slice that is.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint, bundle or run")
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="DICOM file, or folder of them")
    parser.add_argument(
        "--label", nargs="+", default=["any"], choices=LABELS, metavar="LABEL", help="default: any"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("explained"), metavar="DIR", help="new folder (default: %(default)s)"
    )
    parser.add_argument(
        "--window", default="brain", choices=WINDOWS, help="of the pictures (default: %(default)s)"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds that the other commands are spared.
    from ich.checkpoint import find_checkpoint
    from ich.heatmaps import write_heatmaps
    from ich.models import load_classifier

    model = load_classifier(find_checkpoint(args.checkpoint, "best"))
    slices, refused = write_heatmaps(model, args.paths, args.out, args.label, args.window)
    print(f"{slices} slices in {args.out}; {args.out / 'slices.csv'} says which is which")
    print_codes(refused, "files refused", args.out / "refused.csv")
