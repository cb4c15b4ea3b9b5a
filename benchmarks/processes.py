"""Slices a second that two processes on two cores train, beside one process with one thread.

Each is `train.py` on the CPU, with one thread and one thread that reads for each process. Batches have as
many slices in all, so both take the same steps. A run of three epochs less one of a single epoch is two
epochs with their validation, without the start and the end. Run nothing else at the same time.

    python benchmarks/processes.py                       # some minutes on two cores
    python benchmarks/processes.py --model resnet34 --rounds 5
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import Figure, print_figures, print_machine

from ich.phantom import write_phantom

TRAIN = Path(__file__).parents[1] / "train.py"
SHORT, LONG = 1, 3  # epochs


def train(args: argparse.Namespace, root: Path, out: Path, processes: int, epochs: int) -> float:
    """Trains, and returns the seconds on the clock."""
    settings = {
        "data": "rsna",
        "data.root": root,
        "data.num_workers": 1,
        "data.batch_size": args.batch_size // processes,
        "model.backbone": args.model,
        "model.pretrained": "false",
        "input.size": args.size,
        "trainer.gpus": 0,
        "trainer.devices": processes,
        "trainer.max_epochs": epochs,
        "run_dir": out,
    }
    command = [sys.executable, str(TRAIN), *(f"{name}={value}" for name, value in settings.items())]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def measure(args: argparse.Namespace, root: Path, out: Path, processes: int) -> float:
    """Seconds of an epoch, with its validation."""
    short, long = (
        train(args, root, out / f"{processes}_{epochs}", processes, epochs) for epochs in (SHORT, LONG)
    )
    return (long - short) / (LONG - SHORT)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet18", help="any backbone of timm (%(default)s)")
    parser.add_argument("--size", type=int, default=160, help="of the image in px (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="in all processes (%(default)s)")
    parser.add_argument("--patients", type=int, default=24, help="of the phantom (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    args = parser.parse_args()
    print_machine()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "phantom")
        write_phantom(root, patients=args.patients, size=256)
        for number in range(args.rounds):
            one, two = (measure(args, root, Path(name, str(number)), count) for count in (1, 2))
            print(f"an epoch takes {one:.1f} s in one process, {two:.1f} s in two", flush=True)
            ratios.append(one / two)
    print_figures([Figure("two processes against one, rate", 1.6, np.array(ratios))])


if __name__ == "__main__":
    main()
