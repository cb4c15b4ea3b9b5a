"""An epoch of data from a disk, from shards, from memory and from S3, side by side.

It writes a phantom of 512 x 512 slices, uploads it to `memory://` and to moto's S3 server, which is another
process of this machine, and writes shards of it to all three. An epoch is one pass over the training set
with the loader of `HeadCTDataModule`, shuffled; with `--model` a network of timm trains on it, on the CPU.
Ways take turns, in a new order in each round. Ratios are the slices a second of a way over those of the
DICOM files on the disk, in the same round.

It first compares all batches of each way, in the order of the table and shuffled, with those of the files,
and the rest of an epoch that was stopped in its middle.

moto's server is a Python program that shares the processors with what reads. It takes more time for a file
than reading that from a disk. A ratio of S3 on one machine is therefore a lower bound, and says nothing of a
network. For a part of a file it copies all of it, so shards in S3 are files of 4 MB here, not of 64.

    pip install 'ich[remote]' 'moto[server]'
    python benchmarks/beyond.py --patients 4 --rounds 5 --json beyond.json
    python benchmarks/beyond.py --patients 4 --rounds 5 --model regnetx_002
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
from measure import CONSOLE, Figure, describe_machine, print_figures, print_machine, spread
from rich.table import Table

from ich.data import HeadCTDataModule
from ich.data.sharding import CHUNK_BYTES, collect_slices, write_shards
from ich.phantom import write_phantom
from ich.remote import AnyPath, RemotePath
from ich.schema import LABELS, Batch, InputSpec

LOCAL = "DICOM on a disk"
_SERVER = """
import sys, time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(100_000)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares the ways to data, one epoch each.")
    parser.add_argument("--patients", type=int, default=4, help="of the phantom")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="input.size")
    parser.add_argument("--neighbors", type=int, default=0, help="input.neighbors")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", help="network of timm that trains; without one, only the loader runs")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print_machine()
    spec = InputSpec(size=args.size, neighbors=args.neighbors)
    with tempfile.TemporaryDirectory() as folder, serving_s3() as bucket:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        roots = prepare(Path(folder), bucket, args.patients, args.size)
        modules = {name: open_module(root, shards, spec, args) for name, (root, shards) in roots.items()}
        same = {name: count_different(module, modules[LOCAL]) for name, module in modules.items()}
        rates = measure(modules, args.rounds, None if args.model is None else Training(args.model))
    show(rates, same, args.json)


@contextmanager
def serving_s3() -> Iterator[RemotePath | None]:
    """Starts moto's server with a bucket; None where s3fs or moto is not installed."""
    try:
        import moto.server  # noqa: F401
        import s3fs
    except ImportError as error:
        CONSOLE.print(f"without S3: {error}")
        yield None
        return
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
        }
        s3fs.S3FileSystem().mkdir("ich")
        yield RemotePath("s3://ich")
    finally:
        server.kill()
        server.wait()


def prepare(
    folder: Path, bucket: RemotePath | None, patients: int, size: int
) -> dict[str, tuple[AnyPath, bool]]:
    """Writes all data sets; returns for each its place, and whether it holds shards."""
    local = folder / "phantom"
    write_phantom(local, patients=patients, size=512)
    slices = collect_slices(local)
    found: dict[str, tuple[AnyPath, bool]] = {LOCAL: (local, False)}
    small = folder / "small"
    write_shards(slices._replace(size=size), small)
    stores: dict[str, AnyPath] = {"a disk": folder, "memory": RemotePath("memory://beyond")}
    if bucket is not None:
        stores["S3"] = bucket
    for name, store in stores.items():
        if isinstance(store, RemotePath):
            for path in sorted(local.rglob("*")):
                if path.is_file() and ".ich" not in path.parts:
                    (store / f"set/{path.relative_to(local)}").write_bytes(path.read_bytes())
            found[f"DICOM in {name}"] = store / "set", False
        write_shards(slices, store / "shards", chunk_bytes=4_000_000 if store == bucket else CHUNK_BYTES)
        found[f"shards on {name}" if store == folder else f"shards in {name}"] = store / "shards", True
    found["shards on a disk, resized"] = small, True
    return found


def open_module(root: AnyPath, shards: bool, spec: InputSpec, args: argparse.Namespace) -> HeadCTDataModule:
    module = HeadCTDataModule(
        str(root), spec, shards=shards, batch_size=args.batch_size, num_workers=args.workers, val_fraction=0.3
    )
    module.prepare_data()
    module.setup()
    return module


def count_different(module: HeadCTDataModule, local: HeadCTDataModule) -> int:
    """Counts the batches that differ from those of the files: in order, shuffled, and of a resumed epoch."""
    planned = len(local.part("train"))
    rest = {"read": 0, "decoded": 0, "epoch": 0, "drawn": planned // 2, "planned": planned}
    different = 0
    for state in (rest, rest | {"drawn": 0}):
        pairs = []
        for each in (module, local):
            each.load_state_dict(state)
            pairs.append([*each.predict_dataloader(), *each.train_dataloader()])
        different += abs(len(pairs[0]) - len(pairs[1]))
        different += sum(
            not (torch.equal(a["hu"], b["hu"]) and torch.equal(a["row"], b["row"]))
            for a, b in zip(*pairs, strict=False)
        )
    return different


class Training:
    """A network that learns from batches, on the CPU.

    Args:
        name: Its name in timm.
    """

    def __init__(self, name: str) -> None:
        self.net = timm.create_model(name, pretrained=False, num_classes=len(LABELS))
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4)

    def step(self, batch: Batch) -> None:
        """Learns from a batch."""
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            self.net(batch["image"]), batch["target"].nan_to_num()
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def measure(
    modules: dict[str, HeadCTDataModule], rounds: int, training: Training | None
) -> dict[str, np.ndarray]:
    """Returns (rounds,) slices a second of an epoch, for each way."""
    rates: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(rounds):
        for name in random.sample(list(modules), len(modules)):
            start = time.perf_counter()
            count = 0
            for batch in modules[name].train_dataloader():
                count += len(batch["row"])
                if training is not None:
                    training.step(modules[name].on_after_batch_transfer(batch, 0))
            rates[name].append(count / (time.perf_counter() - start))
    return {name: np.array(each) for name, each in rates.items()}


def show(rates: dict[str, np.ndarray], different: dict[str, int], path: Path | None) -> None:
    table = Table(title="An epoch of the training set", title_justify="left")
    for column in ("way", "slices a second", "ratio to the files on the disk", "batches that differ"):
        table.add_column(column)
    ratios = {name: each / rates[LOCAL] for name, each in rates.items()}
    for name, each in rates.items():
        cells = (spread(each).show(0), spread(ratios[name]).show(2), str(different[name]))
        table.add_row(name, *cells)
    CONSOLE.print(table)
    figures = [
        Figure(f"{name}, ratio to the files on the disk", bound, ratios[name])
        for name, bound in (("shards on a disk", 1.0), ("DICOM in memory", 0.5), ("DICOM in S3", 0.5))
        if name in ratios
    ]
    print_figures(figures)
    if path is not None:
        write(path, rates, ratios, different)


def write(
    path: Path, rates: dict[str, np.ndarray], ratios: dict[str, np.ndarray], different: dict[str, int]
) -> None:
    ways = {
        name: {"slices_a_second": rates[name].tolist(), "ratio": ratios[name].tolist(), "different": count}
        for name, count in different.items()
    }
    path.write_text(json.dumps({"machine": describe_machine(), "ways": ways}, indent=2) + "\n")


if __name__ == "__main__":
    main()
