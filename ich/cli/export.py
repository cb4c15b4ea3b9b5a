"""``ich export``: a model as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path

from ich.cli.options import add_trust


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "export",
        help=summary,
        description="Writes the model of a run's best epoch, a checkpoint or a bundle as ONNX. The file "
        "contains windows, calibration and operating points. The command runs both models on "
        "slices and writes nothing if they differ.",
    )
    parser.add_argument("source", type=Path, metavar="CHECKPOINT", help="a checkpoint, bundle or run")
    parser.add_argument("out", type=Path, metavar="OUT", help="new file, for instance model.onnx")
    parser.add_argument(
        "--check",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="DICOM files or folders to check the model on (default: slices of the phantom)",
    )
    add_trust(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # It imports torch, which takes seconds, so other commands do not.
    from ich.networks.export import export_onnx

    slices, difference, distance = export_onnx(args.source, args.out, args.check, trusted=args.trusted)
    print(f"wrote the model of {args.source} to {args.out}")
    where = "slices" if args.check else "slices of the phantom"
    print(f"largest difference in a probability over {slices} {where}: {difference:.1e}")
    if distance is not None:
        print(f"largest relative difference in a distance: {distance:.1e}")
