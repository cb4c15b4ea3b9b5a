"""A study by each engine on a CPU, beside a bare loop of PyTorch.

Reads one study of the phantom, 512 x 512, and computes it with a ResNet-18 of random weights at 256 px.
The loop reads each slice by pydicom, resizes and windows it, and runs the network in inference mode, with
channels last, in batches of 16. `ich predict` does the same by each engine, and finds, checks, pools and
decides beside it. Programs take turns with the same threads. Loading and compiling are not measured, and
files are in the page cache. `--processor-time` counts processor time instead of clock time, without that of
other programs. Use it with one thread, because several threads wait for each other.

    python benchmarks/engines.py --threads 1 --rounds 5 --json runs/bench/engines.json
    python benchmarks/engines.py --model runs/mine --studies data/studies      # a model and studies of yours
    python benchmarks/engines.py --model runs/mine --studies data/studies --labels slices.csv   # and AUROC
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pydicom
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
from torch import nn

from ich.evaluate.pooling import DEFAULT_POOLING
from ich.index.labels import read_any_labels
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier, SliceNet
from ich.networks import BATCH, TorchNetwork, load_members
from ich.networks.engines import ENGINES, Engine, Quantized
from ich.networks.int8 import quantize_backbone, to_engine
from ich.networks.slices import find_slices
from ich.phantom import write_phantom
from ich.predict import Predictor
from ich.quantize.agreement import AFTER, BEFORE, compare_areas
from ich.schema import WINDOWS, InputSpec, UserError
from ich.studies import StudyFiles, find_studies

LOOP = "loop of PyTorch, channels last"
INT8 = "int8-openvino"
FULL = tuple(name for name in ENGINES if name.startswith("float32"))
HALF = tuple(name for name in ENGINES if name.startswith("bfloat16"))


def read_plain(path: Path, size: int) -> np.ndarray:
    """Reads a slice as most programs do: (3, S, S) windowed from 0 to 1."""
    ds = pydicom.dcmread(path)
    hu = ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    hu = cv2.resize(hu, (size, size), interpolation=cv2.INTER_AREA)
    windows = [WINDOWS[name] for name in ("brain", "subdural", "bone")]
    return np.stack([((hu - center) / width + 0.5).clip(0, 1) for center, width in windows])


def run_loop(net: nn.Module, files: list[Path], size: int) -> torch.Tensor:
    """The probabilities of a study's slices."""
    probs = []
    with torch.inference_mode():
        for start in range(0, len(files), BATCH):
            images = np.stack([read_plain(path, size) for path in files[start : start + BATCH]])
            batch = torch.from_numpy(images).contiguous(memory_format=torch.channels_last)
            probs.append(net(batch).sigmoid())
    return torch.cat(probs)


def load_predictors(model: Path, threads: int, study: StudyFiles, compiled: bool) -> dict[str, Predictor]:
    """The model by each engine that works here."""
    members, ensemble = load_members(model, threads=threads, gpus=0)
    (network,) = members
    assert isinstance(network, TorchNetwork)
    engines: dict[str, Engine | Quantized] = {
        name: name for name in ENGINES if compiled or not name.endswith("compiled")
    }
    paths = [study.root / path for path in study.files["path"]]
    engines[INT8] = to_engine(quantize_backbone(network.net, list(find_slices(paths, network.input))), "")
    predictors = {}
    for name, engine in engines.items():
        try:
            fast = TorchNetwork(network.net, network.sha256, gpus=0, engine=engine)
        except UserError as error:
            print(f"{name}: {error}")
            continue
        predictors[name] = Predictor([fast], ensemble=ensemble)
    return predictors


def find_gain(times: dict[str, np.ndarray | None], names: tuple[str, ...]) -> tuple[str, np.ndarray | None]:
    """The fastest of some engines, and how many times as long the loop takes."""
    measured = {name: np.median(times[name]) for name in names if times.get(name) is not None}
    best = min(measured, key=lambda name: measured[name])
    return best, ratio(times, LOOP, best)


def timed(clock: Callable[[], float], work: Callable[[], object]) -> Variant:
    """A variant that reads the whole study, by a clock."""

    def run(rows: Rows) -> float:
        start = clock()
        work()
        return (clock() - start) / len(rows)

    return run


def print_areas(predictors: dict[str, Predictor], studies: Sequence[StudyFiles], labels: Path) -> None:
    """Prints the AUROC of any hemorrhage by slice, and how each engine changes it."""
    first = predictors[ENGINES[0]]
    table = read_any_labels(labels, first.networks[0].metadata.labels)
    results = {name: list(each.predict_studies(studies)) for name, each in predictors.items()}
    print(f"AUROC of any by slice, {len(studies)} studies, with 95 % intervals: {ENGINES[0]}, difference")
    for name, found in results.items():
        if name != ENGINES[0]:
            both = {BEFORE: results[ENGINES[0]], AFTER: found}
            areas = compare_areas(both, first.networks[0], table, DEFAULT_POOLING)["slice"]
            before = areas.models[BEFORE].labels["any"].auroc
            print(f"{name:20} {before:.4f}  {areas.pairs[0].labels['any'].auroc:+.4f}")


def make_net(net: SliceNet, size: int) -> nn.Module:
    """The same network as a bare module with three channels."""
    bare = SliceClassifier(net.metadata.model.backbone, input=InputSpec(size=size), pretrained=False).net
    return bare.eval().to(memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a run, checkpoint or bundle in place of random weights")
    parser.add_argument("--studies", type=Path, help="studies in place of the phantom; the largest is read")
    parser.add_argument("--labels", type=Path, help="labels of the slices: compares the AUROC on all studies")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true")
    parser.add_argument("--compiled", action="store_true", help="also by torch.compile, which takes minutes")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.studies is None:
            write_phantom(work / "phantom", patients=1, size=512, conformant=True)
        found = find_studies([args.studies or work / "phantom" / "stage_2_train"], scratch=work)
        study = max(found.studies, key=lambda each: len(each.files))
        if args.model is None:
            net = SliceClassifier(args.backbone, input=InputSpec(size=args.size), pretrained=False).net
            write_bundle(net.metadata, net.state_dict(), work / "model.zip")
        predictors = load_predictors(args.model or work / "model.zip", args.threads, study, args.compiled)
        bare = make_net(predictors[ENGINES[0]].explainable, args.size)
        files = [study.root / path for path in study.files["path"]]
        clock = time.process_time if args.processor_time else time.perf_counter
        variants = {LOOP: timed(clock, lambda: run_loop(bare, files, args.size))}
        results = {}
        for name, predictor in predictors.items():

            def run(name: str = name, predictor: Predictor = predictor) -> None:
                (again,) = find_studies(files, scratch=work, progress=False).studies
                results[name] = predictor.predict_study(again)

            variants[name] = timed(clock, run)
        times = interleave(variants, len(files), batch=len(files), rounds=args.rounds)
        if args.labels:
            print_areas(predictors, found.studies, args.labels)
    print_times(f"{args.size} px, {args.threads} threads, {len(files)} slices, by slice", times, LOOP)
    probs = {
        name: np.array([[*each.probs.values()] for each in result.slices]) for name, result in results.items()
    }
    for name, values in probs.items():
        print(f"{name}: a probability differs by up to {np.abs(values - probs[ENGINES[0]]).max():.1e}")
    (full, in_full), (half, in_half) = find_gain(times, FULL), find_gain(times, (*HALF, INT8))
    figures = [
        Figure(f"loop over the fastest in 32 bits ({full})", 1.2, in_full),
        Figure(f"loop over the fastest of all ({half})", 2.2, in_half),
    ]
    print_figures(figures)
    print_machine()
    if args.json:
        write_json(args.json, vars(args), {"engines": times}, figures)


if __name__ == "__main__":
    main()
