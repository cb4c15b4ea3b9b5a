"""``ich quantize``: a model in int8."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from ich.cli.options import add_columns, add_trust, join_columns
from ich.schema import DISCLAIMER, UserError

if TYPE_CHECKING:  # it imports torch, which takes seconds, so other commands do not
    from ich.evaluate.comparison import Comparison
    from ich.quantize import Quantization

_EXAMPLES = f"""\
examples:

  ich quantize model.zip /data/some --out model.int8 --check /data/others
  ich quantize model.zip /data/some --out model.int8 --check /data/others --labels others.csv
  ich predict model.zip /data/inbox --engine model.int8

{DISCLAIMER}."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "quantize",
        help=summary,
        description="Writes the backbone of a model in int8, for `ich predict --engine`. It reads studies "
        "with the model in\n32 bits and in int8, shows what differs, and writes nothing if too much does.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a bundle, a checkpoint or a run's folder")
    parser.add_argument(
        "studies",
        type=Path,
        nargs="+",
        metavar="STUDIES",
        help="DICOM files or folders like those that the model will read; 500 slices of them are used",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("model.int8"), metavar="FILE", help="new file (default: %(default)s)"
    )
    parser.add_argument(
        "--check",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="studies to compare both models on, better others than STUDIES (default: STUDIES)",
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="labels of the studies to compare on, by slice, study or patient: shows AUROC before and after",
    )
    add_columns(parser)
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="largest share of studies whose outcome may change (default: 0.01)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="number of CPU threads (default: one per core)"
    )
    add_trust(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds, so other commands do not.
    from ich.index.labels import read_any_labels
    from ich.networks import load_members
    from ich.quantize import TOLERANCE, write_quantized

    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    if not 0 <= tolerance <= 1:
        raise UserError(f"--tolerance {tolerance:g}: expected a share of studies, from 0 to 1")
    labels = None
    if args.labels is not None:
        members = load_members(args.model, gpus=0, trusted=args.trusted)
        labels = read_any_labels(args.labels, members.metadata.joined.labels, join_columns(args.columns))
    done = write_quantized(
        args.model,
        args.studies,
        args.out,
        check=args.check,
        labels=labels,
        tolerance=tolerance,
        threads=args.threads,
        trusted=args.trusted,
    )
    print("\n".join(_describe(done)))
    if not args.check:
        print("compared on the slices that int8 was fitted to: --check compares on others")
    if done.refusal:
        raise UserError(f"{args.out} was not written: {done.refusal}")
    print(f"wrote {args.out}, for ich predict {args.model} ... --engine {args.out}")
    print(f"{DISCLAIMER}.")


def _describe(done: Quantization) -> Iterator[str]:
    found = done.agreement
    yield (
        f"fitted to {done.calibrated_on} slices, compared on {found.slices} slices of {found.studies} studies"
    )
    yield (
        f"a probability differs by {found.mean_difference:.1e} in the mean, and by up to "
        f"{found.largest_difference:.1e}"
    )
    outcomes = ", ".join(f"{name} {count}" for name, count in done.outcomes.items())
    yield f"studies whose outcome changes: {found.changed} (in 32 bits {outcomes})"
    yield from (f"  {each.before} to {each.after}: {each.studies}" for each in done.changes)
    yield f"labels of studies that are called differently: {found.changed_labels}"
    for level, areas in done.areas.items():
        yield from _describe_areas(level, areas)


def _describe_areas(level: str, areas: Comparison) -> Iterator[str]:
    from ich.quantize.agreement import AFTER, BEFORE

    (pair,) = areas.pairs
    yield f"AUROC by {level}, {areas.patients} patients, with 95 % intervals: 32 bits, int8, difference"
    for label, figures in pair.labels.items():
        before, after = (areas.models[name].labels[label].auroc for name in (BEFORE, AFTER))
        texts = [f"{before:.3f}", f"{after:.3f}", f"{figures.auroc:+.3f}"]
        if isnan(before.value):
            texts = ["n/a"]
        if before.reason:
            texts.append(f"({before.reason})")
        yield f"  {label:18}" + "  ".join(texts)
