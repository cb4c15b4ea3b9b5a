"""Reads studies by two workers of Ray, kills one of them midway, and compares with reading by one process.

    python benchmarks/prediction_ray.py --out runs/prediction_ray [--patients 160] [--model MODEL]

The studies are small and of the phantom. Without ``--model`` the network has random weights. It prints how
many studies there are, how long both ways took, and which files differ.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier
from ich.phantom import write_phantom
from ich.schema import InputSpec

ICH = (sys.executable, "-c", "from ich.cli import main; main()")
READING = b"ray::Worker.read"
"""How Ray names a process while it reads a study."""


def predict(model: Path, root: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    words = ("predict", str(model), str(root), "--out", str(out), "--threads", "1", "--gpus", "0", *options)
    return subprocess.Popen([*ICH, *words], stdout=subprocess.DEVNULL)


def count_done(out: Path) -> int:
    file = out / "done.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def list_below(ancestor: int) -> Iterator[int]:
    """Yields the processes that a process has started, and those that they have started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    for pid in parents:
        above = pid
        while above in parents and above != ancestor:
            above = parents[above]
        if above == ancestor and pid != ancestor:
            yield pid


def kill_one_reader(ancestor: int) -> bool:
    for pid in list_below(ancestor):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(READING):
                os.kill(pid, signal.SIGKILL)
                return True
        except OSError:
            continue
    return False


def finish(process: subprocess.Popen[bytes], started: float) -> float:
    if process.wait():
        raise SystemExit(f"ich predict ended with {process.returncode}")
    return round(time.perf_counter() - started, 1)


def read(path: Path) -> bytes:
    """Reads a file, without the times that a result holds."""
    return re.sub(rb'"timing": {[^}]*}', b"", path.read_bytes())


def compare(first: Path, second: Path) -> list[str]:
    """Lists the files that differ between two folders in more than the time of reading."""
    files = {path.relative_to(out) for out in (first, second) for path in out.rglob("*") if path.is_file()}
    both = [(first / name, second / name) for name in sorted(files)]
    return [
        str(one.relative_to(first))
        for one, other in both
        if not (one.is_file() and other.is_file() and read(one) == read(other))
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--model", type=Path, help="by default a tiny network of random weights")
    parser.add_argument("--patients", type=int, default=160)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ray", default="local", help="address; workers are killed on this machine")
    parser.add_argument("--parent", type=int, help="process that started Ray (default: the command)")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True)
    root, model = args.out / "phantom", args.model or args.out / "model.zip"
    write_phantom(root, patients=args.patients, size=64, conformant=True)
    if args.model is None:
        torch.manual_seed(0)
        net = SliceClassifier("test_resnet", input=InputSpec(size=64), pretrained=False).net
        write_bundle(net.metadata, net.state_dict(), model)

    started = time.perf_counter()
    alone = finish(predict(model, root, args.out / "alone"), started)
    studies = count_done(args.out / "alone")
    print(json.dumps({"studies": studies, "seconds by one process": alone}), flush=True)

    started, out = time.perf_counter(), args.out / "ray"
    process = predict(model, root, out, "--ray", args.ray, "--workers", str(args.workers))
    while process.poll() is None and count_done(out) < studies // 2:
        time.sleep(0.05)
    killed_at = count_done(out)
    was_killed = False
    while process.poll() is None and not was_killed:
        was_killed = kill_one_reader(args.parent or process.pid)
        time.sleep(0.01)
    seconds = finish(process, started)
    lines = [json.loads(line) for line in (out / "done.jsonl").read_text().splitlines()]
    found = {
        "workers": args.workers,
        "killed after": killed_at if was_killed else None,
        "seconds": seconds,
        "lines": len(lines),
        "distinct studies": len({line["study"] for line in lines}),
        "files that differ": compare(args.out / "alone", out),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
