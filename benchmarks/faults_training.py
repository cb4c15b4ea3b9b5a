"""Sections of ``faults.py``: trainings that are killed, are stopped or cannot save, and then resume.

Each case is one training in its own process, on a small phantom, interrupted once and resumed. Then weights,
optimizer and metrics are compared to the bit with a training that was never interrupted.

PyTorch takes seconds to import, so it is imported where it is used: every process of another section of
``faults.py`` imports this module too.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import ich.files
from ich.phantom import write_phantom

SMALL = [
    *("data=rsna", "input.size=64", "data.batch_size=16", "logger=csv", "trainer.gpus=0", "threads=1"),
    *("model.backbone=test_resnet", "model.pretrained=false", "model.drop_rate=0.2", "trainer.max_epochs=3"),
    *("trainer.ema_decay=0.9", "trainer.accumulate_grad_batches=2", "trainer.save_minutes=0"),
]
MOMENTS = ("half written", "written", "flushed", "old one moved", "renamed")
"""Within a save."""

DEVICES = {"full": "/dev/full", "read-only": "/proc/version"}
"""Files that cannot be written to."""


def add_training(sections: Any) -> None:
    """Adds the sections ``kills``, ``sigterm`` and ``disk``."""
    for name, run, count in (("kills", run_kills, 50), ("sigterm", run_sigterm, 20), ("disk", run_disk, 20)):
        section = sections.add_parser(name, help=(run.__doc__ or "").splitlines()[0])
        section.add_argument("--count", type=int, default=count)
        section.add_argument("--seed", type=int, default=0)
        section.add_argument(
            "--devices", type=int, default=1, help="processes that train together, on the CPU"
        )
        section.add_argument("--out", type=Path, help="folder to work in; not where temporary files go")
        section.set_defaults(run=run)


class Bench:
    """A phantom, and the training on it that nothing interrupts."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.random = random.Random(args.seed)
        self.devices = args.devices
        self.folder = Path(tempfile.mkdtemp(prefix="faults", dir=args.out or Path.cwd()))
        self.data = self.folder / "phantom"
        write_phantom(self.data, patients=12, seed=3, size=64)
        self.counts: Counter[str] = Counter()
        process = self.start(self.folder / "whole")
        self.saves = _wait_for_saves(process, self.folder / "whole", sys.maxsize)
        if code := process.wait():
            raise SystemExit(f"the training that is not interrupted ended with {code}")

    def start(self, run: Path, moment: str = "", save: int = 0) -> subprocess.Popen[bytes]:
        """Starts or resumes a training, which kills itself at a moment of the save of that number."""
        workers = f"data.num_workers={self.random.choice((0, 2, 4))}"
        began = (run / "config.yaml").exists()
        fresh = [*SMALL, f"data.root={self.data}", f"run_dir={run}", f"trainer.devices={self.devices}"]
        argv = [workers, f"ckpt_path={run}"] if began else [workers, *fresh]
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, __file__, moment, str(save), *argv], stdout=output, stderr=subprocess.STDOUT
            )

    def stop_at_random(self, process: subprocess.Popen[bytes], run: Path, signum: int) -> None:
        """Sends a signal up to half a second after one of the saves, so that each part of a run is hit."""
        _wait_for_saves(process, run, self.random.randint(1, self.saves - 2))
        time.sleep(self.random.uniform(0, 0.5))
        process.send_signal(signum)

    def finish(self, run: Path) -> None:
        """Resumes, and counts whether the end is that of the uninterrupted training."""
        from ich.model_files.checkpoint import find_checkpoint, is_whole

        if any(run.glob("checkpoints/*.ckpt")):
            self.counts["had saved"] += 1
            self.counts["had a whole checkpoint"] += is_whole(find_checkpoint(run))
        code = self.start(run).wait()
        self.counts["resumed"] += code == 0
        self.counts["same to the bit"] += code == 0 and is_same(self.folder / "whole", run)
        shutil.rmtree(run, ignore_errors=True)

    def close(self, title: str, count: int) -> bool:
        """Prints the counts; says whether every case came through."""
        print(f"{title}: {count} cases, " + ", ".join(f"{n} {what}" for what, n in self.counts.items()))
        good = self.counts["same to the bit"] == count
        if good:
            shutil.rmtree(self.folder)
        return good


def is_same(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same weights, optimizer states and metrics, to the bit."""
    import torch

    from ich.model_files.checkpoint import read_checkpoint

    def list_tensors(state: Any) -> list[torch.Tensor]:
        if isinstance(state, torch.Tensor):
            return [state]
        parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
        return [tensor for part in parts for tensor in list_tensors(part)]

    if (one / "metrics.csv").read_bytes() != (other / "metrics.csv").read_bytes():
        return False
    for name in ("last", "best"):
        states = [read_checkpoint(run / "checkpoints" / f"{name}.ckpt") for run in (one, other)]
        for part in ("state_dict", "current_model_state", "optimizer_states"):
            tensors = [list_tensors(state[part]) for state in states]
            if not all(torch.equal(a, b) for a, b in zip(*tensors, strict=True)):
                return False
    return True


def run_kills(args: argparse.Namespace) -> bool:
    """SIGKILL at random moments, two fifths of them inside a save."""
    bench = Bench(args)
    inside = args.count * 2 // 5
    for case in range(args.count):
        run = bench.folder / f"run{case}"
        if case < inside:
            moment = MOMENTS[case % len(MOMENTS)]
            bench.counts["killed inside a save"] += (
                bench.start(run, moment, bench.random.randint(2, 15)).wait() == -9
            )
        else:
            process = bench.start(run)
            bench.stop_at_random(process, run, signal.SIGKILL)
            bench.counts["killed at random"] += process.wait() == -9
        bench.finish(run)
    return bench.close("kills", args.count)


def run_sigterm(args: argparse.Namespace) -> bool:
    """SIGTERM at random moments of a training."""
    bench, slowest = Bench(args), 0.0
    for case in range(args.count):
        run = bench.folder / f"run{case}"
        process = bench.start(run)
        bench.stop_at_random(process, run, signal.SIGTERM)
        sent = time.monotonic()
        bench.counts["clean stops (143)"] += process.wait() == 143
        slowest = max(slowest, time.monotonic() - sent)
        bench.finish(run)
    return bench.close(f"sigterm (slowest stop {slowest:.1f} s)", args.count)


def run_disk(args: argparse.Namespace) -> bool:
    """A disk that is full, or that cannot be written to, at a save; in turns."""
    bench = Bench(args)
    for case in range(args.count):
        run = bench.folder / f"run{case}"
        before = (bench.folder / "output.txt").stat().st_size
        moment = ("quota", *DEVICES)[case % 3]
        bench.counts["stopped with 2"] += bench.start(run, moment, bench.random.randint(2, 15)).wait() == 2
        with (bench.folder / "output.txt").open("rb") as output:
            output.seek(before)
            said = output.read().decode()
        bench.counts["clear message"] += (
            "could not be saved" in said.replace("\n", " ") and "Traceback" not in said
        )
        bench.finish(run)
    return bench.close("disk", args.count)


def _wait_for_saves(process: subprocess.Popen[bytes], run: Path, number: int) -> int:
    """Waits until ``last.ckpt`` was put in place so often, or the process has ended; returns how often."""
    last, seen, count = run / "checkpoints" / "last.ckpt", 0, 0
    while count < number and process.poll() is None:
        with suppress(FileNotFoundError):
            if (stamp := last.stat().st_mtime_ns) != seen:
                seen, count = stamp, count + 1
        time.sleep(0.005)
    return count


def _arm(moment: str, save: int) -> None:
    """Makes the save of that number go wrong at a moment."""
    flush, replace, write = ich.files._flush, Path.replace, Path.write_bytes
    saves = 0

    def die_if(now: str) -> None:
        if saves == save and now == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def is_partial(path: Path) -> bool:
        return path.name == ".last.ckpt.part"

    def writing(path: Path, data: Any) -> int:
        nonlocal saves
        saves += is_partial(path)
        if saves == save and is_partial(path):
            _fail(path, data, moment, write)
        return write(path, data)

    def flushing(path: Path) -> None:
        if is_partial(path):
            die_if("written")
        flush(path)

    def replacing(path: Path, target: str | Path) -> Path:
        if path.name == "last.ckpt":
            die_if("flushed")
        if is_partial(path):
            die_if("old one moved")
        moved = replace(path, target)
        if is_partial(path):
            die_if("renamed")
        return moved

    ich.files._flush = flushing
    Path.replace = replacing  # type: ignore[method-assign]
    Path.write_bytes = writing  # type: ignore[method-assign]


def _fail(path: Path, data: Any, moment: str, write: Callable[[Path, Any], int]) -> None:
    """Dies in the middle, or finds a real disk that is full or cannot be written to."""
    if moment == "half written":
        write(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "quota":
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, resource.RLIM_INFINITY))
    if moment in DEVICES:
        path.symlink_to(DEVICES[moment])  # the kernel answers as such a disk does


if __name__ == "__main__":
    from ich.train import main

    moment, save, *overrides = sys.argv[1:]
    if moment:
        _arm(moment, int(save))
    sys.argv = ["train.py", *overrides]
    main()
