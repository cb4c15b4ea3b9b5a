"""``ich bundle``: a model to hand on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "bundle",
        help="write a trained model to one file, to hand it on",
        description="Writes the weights of a run's best epoch, with what it takes to use them, to one file "
        "that names no patient and has no code in it.",
    )
    parser.add_argument("source", type=Path, metavar="RUN", help="a run's folder, or a checkpoint")
    parser.add_argument("out", type=Path, metavar="OUT", help="new file, for instance model.zip")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="of `ich evaluate --write-calibration`: calibration and operating points in place of the run's",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds that the other commands are spared.
    from ich.bundle import write_bundle
    from ich.calibration.files import read_calibration
    from ich.checkpoint import find_checkpoint
    from ich.models import load_classifier

    source = find_checkpoint(args.source, "best")
    model = load_classifier(source)
    if args.calibration is not None:
        decisions = read_calibration(args.calibration)
        model.card["decisions"] = {level: decision.to_dict() for level, decision in decisions.items()}
    write_bundle(model.card, model.state_dict(), args.out)
    print(f"{model.card['model']['backbone']} of {source} in {args.out}")
