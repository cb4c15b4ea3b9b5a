"""``ich predict``: studies to results."""

from __future__ import annotations

import argparse
import math
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ich.cli.codes import print_codes
from ich.cli.options import add_devices, add_trust, add_tta
from ich.files import MODES, OWNER_ONLY, permitting
from ich.log import logging_to
from ich.outputs import OUTPUTS, SHOWN
from ich.remote import AnyPath, parse_path
from ich.schema import DISCLAIMER, UserError
from ich.schema.codes import LOST, InputRefusal, OutputRefusal, Refusal, SetAside, find_sentence
from ich.schema.exits import ExitCode

if TYPE_CHECKING:  # it imports torch, which takes seconds, so other commands do not
    from ich.predict import Predictor
    from ich.predict.cluster import Cluster
    from ich.predict.run import Summary

SETTLE_SECONDS = 60.0
"""How long the files of a study must not have changed before `--watch` reads it."""

_EXAMPLES = f"""\
examples:

  ich predict model.zip /data/inbox --out results                    JSON per study, and tables
  ich predict model.zip /data/inbox --out results --write page sr sc a page and DICOM objects too
  ich predict a.zip b.zip DVD.zip --out results                      two models, an archive
  ich predict model.onnx study/ --tta flip                           by ONNX Runtime
  ich predict model.zip s3://bucket/studies --out results            needs pip install 'ich[remote]'
  ich predict model.zip /data/archive --out results --ray local      by several processes
  ich predict model.zip --watch /data/inbox --out results            reads what comes, until Ctrl-C

exit codes:

  {ExitCode.DONE}  each study has an outcome, even if it is INDETERMINATE; --watch was told to end
  {ExitCode.WRONG}  wrong usage
  {ExitCode.INCOMPLETE}  some studies could not be read, as studies.csv and refused.csv say, or there was none

{DISCLAIMER}."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "predict",
        help=summary,
        usage="ich predict CHECKPOINT... INPUT... [--out DIR] [--write page sr sc] [options]\n"
        "       ich predict CHECKPOINT... --watch DIR [--settle SECONDS] [--out DIR] [options]",
        description="Reads studies with one model, or with several as an ensemble. For each study it "
        "chooses\n"
        "the series to read, and writes whether the study is POSITIVE, NEGATIVE or "
        "INDETERMINATE, and why.\n"
        "After an interruption, the same command continues where it stopped.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        type=parse_path,
        nargs="+",
        metavar="CHECKPOINT... INPUT...",
        help="first the models: checkpoints, bundles, folders of runs or ONNX files; then the inputs: "
        "DICOM files, folders of any depth, archives (zip, tar, gz, bz2) or a DICOMDIR; files and folders "
        "may be at an address, such as s3://bucket/folder",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("predicted"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    parser.add_argument(
        "--write",
        nargs="+",
        default=[],
        choices=OUTPUTS,
        metavar="WHAT",
        help="what to write beside JSON and tables: "
        + "; ".join(f"{name}: {what}" for name, what in OUTPUTS.items()),
    )
    parser.add_argument(
        "--show",
        nargs="+",
        default=[],
        choices=SHOWN,
        metavar="ATTRIBUTE",
        help="attributes of the headers that pages show, of " + ", ".join(SHOWN) + "; they may identify a "
        "patient, so by default pages show none, and JSON lacks AccessionNumber and StudyDate",
    )
    add_tta(parser, "what the models name")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="file from `ich evaluate --write-calibration`; replaces the calibration of the models",
    )
    parser.add_argument(
        "--engine",
        type=Path,
        metavar="FILE",
        help="file from `ich doctor --tune`, with the fastest way to compute the model on this processor, or "
        "from `ich quantize`, with the model in int8",
    )
    parser.add_argument(
        "--watch",
        type=Path,
        metavar="DIR",
        help="instead of INPUT: read the studies of a folder as they come, until Ctrl-C or SIGTERM",
    )
    parser.add_argument(
        "--settle",
        type=float,
        metavar="SECONDS",
        help="with --watch: a study is read once its files have not changed for so long (default: "
        f"{SETTLE_SECONDS:g})",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="add a log to this file, a JSON object a line, without an attribute of a patient",
    )
    parser.add_argument(
        "--mode",
        default=OWNER_ONLY,
        metavar="MODE",
        help="permissions of new files, as of chmod, whatever the umask: 640 lets the group read, 660 write "
        "too; folders may be entered by those who may read (default: %(default)s)",
    )
    add_devices(parser)
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="read by many processes with Ray: 'local' starts it on this machine; auto, HOST:PORT or "
        "ray://HOST:PORT joins a cluster, whose machines all need the models, inputs and results under the "
        "same names",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of these processes (default: one for each GPU, or else for every four cores)",
    )
    add_trust(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> ExitCode:
    if args.workers is not None and (args.ray is None or args.workers < 1):
        raise UserError(f"--workers {args.workers}: give --ray, and at least one worker")
    if re.fullmatch(MODES, args.mode) is None:
        raise UserError(
            f"--mode {args.mode}: give three digits such as 640: 6 for the owner; 0, 4 or 6 for the group; "
            "0 or 4 for others"
        )
    if args.settle is not None and (args.watch is None or not 0 < args.settle < math.inf):
        raise UserError(f"--settle {args.settle:g}: give --watch, and more than 0 seconds")
    with permitting(args.mode), logging_to(args.log):
        return _predict(args) if args.watch is None else _watch(args)


def _predict(args: argparse.Namespace) -> ExitCode:
    from ich.predict.run import predict_folder  # imports torch

    models, inputs = _part(args.paths)
    predictor, cluster = _load(args, models)
    summary = predict_folder(predictor, inputs, args.out, args.write, cluster=cluster, shown=args.show)
    _print(summary, args.out)
    # Archives and folders that were not opened may hold studies. Without any study, nothing was read.
    is_lost = not set(summary.refused["code"]).isdisjoint(LOST)
    is_nothing = summary.done + summary.skipped == 0
    is_complete = not (is_lost or is_nothing or summary.set_aside)
    return ExitCode.DONE if is_complete else ExitCode.INCOMPLETE


def _watch(args: argparse.Namespace) -> ExitCode:
    if args.ray is not None:
        raise UserError(f"--watch {args.watch} reads in one process: leave out --ray")
    settle = SETTLE_SECONDS if args.settle is None else args.settle
    with _stopping() as is_stopped:
        from ich.predict.run import watch_folder  # imports torch

        models = _take_models(args.paths)
        if others := args.paths[len(models) :]:
            raise UserError(f"{others[0]} is not a model, or it is damaged: with --watch, give models only")
        predictor, _ = _load(args, models)
        print(f"watches {args.watch} until Ctrl-C or SIGTERM; a study waits {settle:g} s without a change")
        print(f"{DISCLAIMER}.", flush=True)
        watch_folder(
            *(predictor, args.watch, args.out, args.write, args.show),
            settle=settle,
            is_stopped=is_stopped,
            report=partial(_report, out=args.out),
        )
    return ExitCode.DONE


def _load(args: argparse.Namespace, models: list[Path]) -> tuple[Predictor, Cluster | None]:
    """Loads the models in this process, and says how a cluster loads them if there is one."""
    # These import torch, which takes seconds, so other commands do not.
    from ich.calibration.files import read_calibration
    from ich.predict import Predictor
    from ich.predict.cluster import Cluster

    decisions = None if args.calibration is None else read_calibration(args.calibration)
    engine = args.engine
    if args.ray is not None:  # its workers have another working directory
        models = [path.absolute() for path in models]
        engine = None if engine is None else engine.absolute()
    load = partial(
        Predictor.load, *models, tta=args.tta, decisions=decisions, trusted=args.trusted, engine=engine
    )
    if args.ray is None:
        return load(threads=args.threads, gpus=args.gpus), None
    cluster = Cluster(args.ray, load, args.workers, args.threads, args.gpus, args.mode)
    return load(threads=args.threads, gpus=0), cluster  # this process computes nothing


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Yields what says whether Ctrl-C or SIGTERM came. After the first one, they act as they did before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    came = list[int]()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: object) -> None:
        came.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(came)
    finally:
        restore()


def _part(paths: Sequence[AnyPath]) -> tuple[list[Path], list[AnyPath]]:
    """Separates models from inputs; models come first, or all of them last."""
    for path in paths:
        if isinstance(path, Path) and not path.exists():  # an address is listed later
            raise UserError(f"{path} does not exist")
    models = _take_models(paths)
    inputs = list(paths[len(models) :])
    if not models:  # nothing else can be meant by models that come last
        models = _take_models(paths[::-1])[::-1]
        inputs = list(paths[: len(paths) - len(models)])
    if not models:
        raise UserError(
            f"{paths[0]} is not a model, or it is damaged: first give a checkpoint, a bundle, a run's "
            "folder or an ONNX file"
        )
    if not inputs:
        raise UserError(f"nothing to read: give files or folders of studies after {models[-1]}")
    return models, inputs


def _take_models(paths: Sequence[AnyPath]) -> list[Path]:
    """Returns the models that come first; there are none at an address."""
    from ich.networks import is_network

    models = list[Path]()
    for path in paths:
        if not isinstance(path, Path) or not is_network(path):
            break
        models.append(path)
    return models


def _report(summary: Summary, out: Path) -> None:
    if summary.done:
        print(f"{summary.done} studies read, {len(summary.results)} in {out}", flush=True)


def _print(summary: Summary, out: Path) -> None:
    done = f", {summary.skipped} of them from an earlier call" if summary.skipped else ""
    print(f"{summary.done + summary.skipped} studies in {out}{done}")
    for outcome, count in sorted(summary.outcomes.items()):
        print(f"  {outcome}: {count}")
    for code, count in sorted(summary.set_aside.items()):
        print(f"  not read, {code}: {count} ({find_sentence(code, SetAside)})")
    print_codes(summary.refused, "files belong to no study", out / "refused.csv", Refusal, InputRefusal)
    refused = summary.refused_outputs
    is_empty = refused["code"] == OutputRefusal.NO_RESULT
    if skipped := int(is_empty.sum()):
        print(f"{skipped} output{'' if skipped == 1 else 's'} skipped: studies not analyzed")
    print_codes(
        refused[~is_empty], "outputs could not be written", out / "refused_outputs.csv", OutputRefusal
    )
    print(f"{DISCLAIMER}.")
