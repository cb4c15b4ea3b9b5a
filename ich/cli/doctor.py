"""``ich doctor``: what a machine has, and the settings that fit it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ich.cli.options import add_trust
from ich.schema import DISCLAIMER, UserError

if TYPE_CHECKING:  # it imports torch, which takes seconds, so other commands do not
    from ich.doctor.record import Disk, Machine
    from ich.networks.engines import Candidate

_GIB = 1 << 30


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "doctor",
        help=summary,
        description="Says what this machine has, what will limit a run on it, and which settings fit. It "
        "takes some seconds. The output is for bug reports too: it names no user, no host and no folder.",
        epilog=f"{DISCLAIMER}.",
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="measure the disk of this folder, on CT slices in it or on a file that is written and removed",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write it as JSON (docs/machine.schema.json)"
    )
    engines = parser.add_argument_group("the fastest way to compute a model on this processor")
    engines.add_argument(
        "--tune",
        type=Path,
        metavar="MODEL",
        help="instead, measure how to compute this model, a bundle, checkpoint or run, and write --engine",
    )
    engines.add_argument(
        "--engine",
        type=Path,
        default=Path("engine.json"),
        metavar="FILE",
        help="the file that `ich predict --engine` takes; it replaces an earlier one (default: %(default)s)",
    )
    engines.add_argument(
        "--studies",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="DICOM files or folders to compare on (default: slices of the phantom)",
    )
    engines.add_argument(
        "--tolerance",
        type=float,
        metavar="P",
        help="largest difference of a probability from the default engine (default: 0.02)",
    )
    engines.add_argument(
        "--int8",
        type=Path,
        metavar="FILE",
        help="file from `ich quantize` to measure as well; it is never chosen",
    )
    engines.add_argument(
        "--threads", type=int, metavar="N", help="number of CPU threads (default: one per core)"
    )
    add_trust(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    if args.tune is not None:
        return _tune(args)
    # These import torch, which takes seconds, so other commands do not.
    from ich.doctor import examine
    from ich.doctor.record import write_machine

    if args.json is not None and args.json.exists():
        raise UserError(f"{args.json} exists; name a new file by --json, or remove it")
    machine = examine(args.root)
    print("\n".join(_describe(machine)))
    if args.json is not None:
        write_machine(machine, args.json)
        print(f"\nwrote {args.json}")
    return None


def _tune(args: argparse.Namespace) -> None:
    from ich.doctor.tuning import INT8, ONNX, TOLERANCE, tune
    from ich.networks.engines import write_engine

    if args.root is not None or args.json is not None:
        raise UserError("--tune measures a model: leave out --root and --json, or call `ich doctor` twice")
    tolerance = TOLERANCE if args.tolerance is None else args.tolerance
    if not 0 <= tolerance <= 1:
        raise UserError(f"--tolerance {tolerance:g}: expected a difference of a probability, from 0 to 1")
    found = tune(
        args.tune,
        args.studies,
        threads=args.threads,
        tolerance=tolerance,
        int8=args.int8,
        trusted=args.trusted,
    )
    print(f"{found.slices} slices, {found.threads} threads; differences are from {found.candidates[0].name}")
    print("\n".join(map(_describe_candidate, found.candidates)))
    write_engine(found, args.engine)
    print(f"wrote {args.engine}: {found.engine}, for ich predict MODEL ... --engine {args.engine}")
    times = {each.name: each.milliseconds for each in found.candidates if each.milliseconds}
    allowed = {each.name for each in found.candidates if not each.refusal}
    faster = {name for name in allowed if times[name] < times[found.engine]}
    if ONNX in faster:
        print(f"{ONNX} is faster still: ich export MODEL model.onnx, then ich predict model.onnx ...")
    if INT8 in faster:
        print(f"{INT8} is faster still: ich predict MODEL ... --engine {args.int8}")
    print(f"{DISCLAIMER}.")


def _describe_candidate(candidate: Candidate) -> str:
    text = f"  {candidate.name:18}"
    if candidate.milliseconds is not None:
        text += f"{candidate.milliseconds:8.1f} ms a slice, ready after {candidate.preparation:.1f} s, "
        text += f"a probability differs by up to {candidate.difference:.1e}"
    return text if candidate.refusal is None else f"{text}  not chosen: {candidate.refusal}"


def _describe(machine: Machine) -> Iterator[str]:
    yield from _describe_hardware(machine)
    yield from _describe_software(machine)
    yield "\nwhat will limit a run"
    yield from (f"  - {limit}" for limit in machine.limits or ("nothing that was looked at",))
    for command in ("train", "predict"):
        yield f"\nsettings for ich {command}"
        advice = [each for each in machine.advice if each.command == command]
        width = max(len(each.setting) for each in advice)
        yield from (f"  {each.setting:{width}}  {each.reason}" for each in advice)
    yield f"\n{machine.note}."


def _describe_hardware(machine: Machine) -> Iterator[str]:
    system, cores, memory = machine.system, machine.cores, machine.memory
    yield f"system        {system.name} {system.release}, {system.machine}, Python {system.python}"
    yield f"processor     {system.processor or 'unknown'}"
    yield f"instructions  {_join(system.instructions) if system.instructions is not None else 'unknown'}"
    quota = "" if cores.quota is None else f", {cores.quota:g} by the quota of a control group"
    yield (
        f"cores         {cores.usable} usable: {cores.machine} there, {cores.allowed} by affinity{quota}; "
        f"PyTorch starts {cores.torch_threads} threads"
    )
    parts = {"available": memory.available, "limit": memory.limit, "/dev/shm": memory.shared}
    more = [f"{name} {value / _GIB:.1f}" for name, value in parts.items() if value is not None]
    yield f"memory        {'; '.join([f'{memory.machine / _GIB:.1f} GiB', *more])}"
    soft, hard = machine.open_files.soft, machine.open_files.hard
    yield f"open files    {soft or 'no limit'} (can be raised to {hard or 'no limit'})"
    for gpu in machine.gpus:
        free = "" if gpu.free is None else f", {gpu.free / _GIB:.1f} free"
        capability = "" if gpu.capability is None else f", compute capability {gpu.capability}"
        usable = "" if gpu.usable else "; PyTorch cannot use it"
        driver = f", driver {gpu.driver or 'unknown'}"
        yield f"GPU           {gpu.name}, {gpu.memory / _GIB:.1f} GiB{free}{capability}{driver}{usable}"
    if not machine.gpus:
        yield "GPU           none"
    if machine.disk is not None:
        yield f"disk          {_describe_disk(machine.disk)}"


def _describe_disk(disk: Disk) -> str:
    rate = f"{disk.size / disk.seconds / 1e6:.0f} MB a second by one thread"
    text = f"{rate}, {disk.free / _GIB:.0f} GiB free; measured on {disk.kind}, {disk.files} files"
    if disk.decoded:
        reading, decoding = disk.seconds / disk.files, disk.decoding_seconds / disk.decoded
        text += f": {1000 * reading:.1f} ms a slice, and {1000 * decoding:.1f} ms to decode and resize it"
    return text


def _describe_software(machine: Machine) -> Iterator[str]:
    yield f"model hub     {machine.hub}"
    yield "versions      " + ", ".join(f"{name} {each or 'none'}" for name, each in machine.versions.items())
    yield "codecs"
    yield from (f"  {codec.name}: {_join(codec.by)}" for codec in machine.codecs)


def _join(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
