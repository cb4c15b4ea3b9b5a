"""A model as ONNX beside the same in PyTorch: differences, time of a study, and the share of reading.

`difference` exports a trained model and prints how much its probabilities differ over slices. `time` runs a
study of 35 slices through a ResNet-18 with random weights at 256 px, by PyTorch in inference mode and by
onnxruntime. Both take turns, with the same batches and threads. Beside them is the time to read, resize and
window the slices. It first writes a small phantom of 512 x 512 slices, or takes a folder of yours. The files
are in the page cache. `--processor-time` counts processor time instead of clock time, without that of other
programs. Use it with one thread, because several threads wait for each other.

    python benchmarks/inference.py difference runs/mine data/ct_ich data/phantom
    python benchmarks/inference.py time --threads 1 --json runs/bench/inference.json
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import (
    Figure,
    Rows,
    Variant,
    interleave,
    print_figures,
    print_machine,
    print_times,
    ratio,
    write_json,
)

from ich.dicom import read_hu
from ich.image.resize import resize_hu
from ich.image.window import Window, window_batch
from ich.index import index_paths
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier
from ich.networks import load_network
from ich.networks.export import export_onnx
from ich.phantom import write_phantom
from ich.schema import InputSpec

SLICES = 35  # of a study
PATIENTS = 4  # of the phantom
TORCH, ONNX, READING = "PyTorch", "ONNX", "reading, resizing, windows"


def measure_difference(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, root in enumerate(args.roots):
            slices, probs, distance = export_onnx(args.checkpoint, Path(folder) / f"{number}.onnx", [root])
            beside = "" if distance is None else f", of a distance {distance:.1e} of it"
            print(f"{root}: over {slices} slices at most {probs:.1e} of a probability{beside}")


def measure_time(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = args.root or Path(folder) / "phantom"
        if args.root is None:
            write_phantom(root, patients=PATIENTS, size=512)
        times = time_study(args, root, Path(folder))
    print_times(f"ResNet-18, {args.size} px, {args.threads} threads, by slice", times, ONNX)
    figures = [Figure("PyTorch over ONNX", 1.3, ratio(times, TORCH, ONNX))]
    for name in (TORCH, ONNX):
        share = 100 * times[READING] / (times[READING] + times[name])
        figures.append(Figure(f"share of reading, with {name}", 10, share, at_least=False, unit="%"))
    print_figures(figures)
    print_machine()
    if args.json:
        write_json(args.json, {"threads": args.threads, "size": args.size}, {"inference": times}, figures)


def time_study(args: argparse.Namespace, root: Path, work: Path):
    """Seconds a slice of each variant, over rounds."""
    spec = InputSpec(size=args.size)
    model = SliceClassifier("resnet18", input=spec, pretrained=False).net
    write_bundle(model.metadata, model.state_dict(), work / "model.zip")
    export_onnx(work / "model.zip", work / "model.onnx")
    torch_, onnx = (
        load_network(work / name, threads=args.threads, gpus=0) for name in ("model.zip", "model.onnx")
    )
    below, (table, _) = index_paths([root])
    paths = [below / path for path in table["path"]]
    window = Window(spec)

    def read(rows: Rows) -> np.ndarray:
        hu = np.empty((len(rows), 1, spec.size, spec.size), np.int16)
        for slot, row in zip(hu, rows, strict=True):
            resize_hu(read_hu(paths[row]), spec.size, slot[0])
        return hu

    def prepare(rows: Rows) -> None:
        window_batch(window, torch.from_numpy(read(rows)))

    hu = read(np.arange(SLICES))
    clock = time.process_time if args.processor_time else time.perf_counter
    variants = {
        TORCH: timed(clock, lambda _: torch_.run(hu)),
        ONNX: timed(clock, lambda _: onnx.run(hu)),
        READING: timed(clock, prepare),
    }
    return interleave(variants, len(paths), batch=SLICES, rounds=args.rounds)


def timed(clock: Callable[[], float], work: Callable[[Rows], object]) -> Variant:
    """A variant of what is done to all rows at once, by a clock."""

    def run(rows: Rows) -> float:
        start = clock()
        work(rows)
        return (clock() - start) / len(rows)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    difference = commands.add_parser("difference")
    difference.add_argument("checkpoint", type=Path, help="a run, checkpoint or bundle")
    difference.add_argument("roots", type=Path, nargs="+", help="folders of DICOM files")
    difference.set_defaults(run=measure_difference)
    timing = commands.add_parser("time")
    timing.add_argument("--root", type=Path, help="a folder of DICOM files in place of the phantom")
    timing.add_argument("--size", type=int, default=256)
    timing.add_argument("--threads", type=int, default=1)
    timing.add_argument("--rounds", type=int, default=11)
    timing.add_argument("--processor-time", action="store_true")
    timing.add_argument("--json", type=Path)
    timing.set_defaults(run=measure_time)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
