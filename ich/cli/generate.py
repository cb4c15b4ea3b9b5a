"""``ich generate``: lesions learned from a data set, for training on it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ich.cli.options import add_columns, join_columns
from ich.schema import InputSpec


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "generate",
        help=summary,
        description="Trains a small diffusion model on the lesions of a data set and writes new lesions to "
        "one file, for `python train.py lesions=drawn lesions.bank=FILE`. Needs the extra generate. Lesions "
        "that are too close to one of the data set are left out. Only lesions of the training set are "
        "learned: give the seed and the fold of the training in which you use the file.",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of DICOM files, as data.root")
    parser.add_argument("out", type=Path, metavar="OUT", help="new file, for instance lesions.safetensors")
    parser.add_argument(
        "--license", required=True, metavar="TEXT", help="license of the data, kept in the file"
    )
    parser.add_argument("--labels", metavar="CSV", help="label file (default: the one in ROOT)")
    add_columns(parser)
    parser.add_argument("--size", type=int, default=256, metavar="PIXELS", help="default: %(default)s")
    parser.add_argument("--fold", type=int, metavar="N", help="leave this fold out, as data.fold")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the split and of all else (default: %(default)s)"
    )
    parser.add_argument("--number", type=int, metavar="N", help="lesions of each subtype")
    parser.add_argument("--steps", type=int, metavar="N", help="length of the training, in batches")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds, so other commands do not.
    from ich.data import HeadCTDataModule
    from ich.generate import generate_lesions

    spec = InputSpec(size=args.size)
    data = HeadCTDataModule(
        str(args.root),
        spec,
        labels=args.labels,
        columns=join_columns(args.columns),
        fold=args.fold,
        seed=args.seed,
    )
    data.prepare_data()
    data.setup()
    given = {name: getattr(args, name) for name in ("number", "steps") if getattr(args, name) is not None}
    metadata = generate_lesions(data, args.out, license=args.license, seed=args.seed, **given)
    for name, novelty in metadata.novelty.items():
        print(
            f"{name}: {novelty.generated - novelty.copies} lesions, {novelty.copies} left out as copies; "
            f"median distance {novelty.distance_generated:.3f}, of held-out lesions "
            f"{novelty.distance_held_out:.3f}"
        )
    print(f"wrote {args.out}")
