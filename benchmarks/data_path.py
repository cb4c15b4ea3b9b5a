"""The way from DICOM files to batches, compared with other libraries.

It first writes a small phantom of 512 x 512 slices, or reads a folder of yours. It checks that this library
and pydicom read the same HU. Then variants take turns in one process on the same slices, and their times are
compared round by round. The files are in the page cache, so the disk is not measured. Readers have one core,
loaders have all. Run nothing else at the same time. Sections:

    reads     a file to one small slice: HU, or three normalized windows
    loaders   batches with augmentation from threads, beside PyTorch's DataLoader over PNGs
    headers   a folder of headers to an index
    index     opening the index of 750,000 slices
    memory    memory that a worker gains over an epoch of 750,000 slices: a minute

    python benchmarks/data_path.py                                   # a few minutes on two cores
    python benchmarks/data_path.py --work runs/bench --json runs/bench/data_path.json
    python benchmarks/data_path.py --root data/rsna --only reads headers

The other packages come with `pip install -e '.[bench]'`. Without a package, its rows say so.
"""

import argparse
import ctypes
import gc
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import peers
import pyarrow as pa
import torch
from measure import (
    Figure,
    Rows,
    Times,
    Variant,
    count_cores,
    draw_times,
    each,
    interleave,
    print_figures,
    print_machine,
    print_times,
    ratio,
    read_augment,
    together,
    write_json,
)
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ich.data.loader import SliceLoader
from ich.data.order import EpochSampler, draw_order
from ich.data.slices import SliceArrays, SliceDataset, SliceReader, to_arrays
from ich.data.training import Training, TrainingSpec
from ich.dicom.orientation import orient
from ich.image.augment import Augment
from ich.image.resize import resize_hu
from ich.image.window import Window, window_batch
from ich.index import build_index
from ich.phantom import write_phantom
from ich.schema import AIR_HU, LABELS, InputSpec
from ich.tables import read_index, write_table

PATIENTS = 7  # 132 slices, 66 MB: more than processors cache
HEADERS = 6000  # files: as many as make the fixed costs of an index small
AUGMENT = read_augment()

HU, IMAGE = "ich: HU", "ich: three windows, normalized"


class Slices(NamedTuple):
    """The slices that are measured on, uncompressed ones of a folder."""

    root: Path
    table: pd.DataFrame  # index with the label columns
    paths: list[str]
    arrays: SliceArrays
    work: Path  # where files may be written


class Section(NamedTuple):
    """What a section has measured."""

    title: str
    own: str  # the variant of this library, to which the others are compared
    times: Times
    figures: list[Figure]


def find_slices(root: Path | None, work: Path, most: int) -> Slices:
    """Indexes the folder, or writes a phantom first, and takes a sample."""
    if root is None:
        root = work / "phantom"
        if not root.exists():
            print(f"Drawing {PATIENTS} patients of 512 x 512 slices: half a minute", flush=True)
        write_phantom(root, patients=PATIENTS, size=512)
    table = build_index(root).table
    table = table[table["pixel_offset"] >= 0]
    if table.empty:
        sys.exit(f"{root} holds no uncompressed slice, and decoding is not what is measured here")
    table = table.sample(min(most, len(table)), random_state=0).sort_index().reset_index(drop=True)
    return join(root, table, work)


def join(root: Path, table: pd.DataFrame, work: Path) -> Slices:
    table = table.assign(**dict.fromkeys(LABELS, np.float32(np.nan)))
    return Slices(root, table, [str(root / path) for path in table["path"]], to_arrays(table), work)


def check_hu(slices: Slices) -> None:
    """Stops unless every slice reads as pydicom has it, in LPS; so each file has been read once, too."""
    reader = SliceReader(slices.root, slices.arrays)
    padding = slices.table[["padding_low", "padding_high"]].itertuples(index=False, name=None)
    for row, (path, (low, high)) in enumerate(zip(slices.paths, padding, strict=True)):
        stored = peers.pydicom.dcmread(path).pixel_array
        wanted = np.rint(peers.read_hu(path)).clip(AIR_HU, np.iinfo(np.int16).max).astype(np.int16)
        wanted[(stored >= low) & (stored <= high)] = AIR_HU
        wanted = orient(wanted, int(slices.table["orientation"].iloc[row]))
        side = max(wanted.shape)
        found = np.empty((side, side), dtype=np.int16)
        reader.read(row, found)
        if not np.array_equal(found, resize_hu(wanted, side)):
            sys.exit(f"{path}: this library and pydicom read different HU; no time means anything")
    if reader.decoded:
        sys.exit(f"{reader.decoded} slices were decoded: their files changed since they were indexed")


def measure_reads(slices: Slices, args: argparse.Namespace) -> Section:
    paths, size = slices.paths, args.size
    kernel, normalized = "pydicom: windows, resize", "pydicom: windows, resize, normalized"
    monai_last, monai_first = "MONAI: windows, resize", "MONAI: resize, windows"
    png, floor = "PNG of three windows: imread", "pread, resize"
    times = interleave(
        {
            HU: each(own_hu(slices, size)),
            IMAGE: together(own_images(slices, size)),
            floor: each(peers.pread(slices.table, paths, size)),
            "pread": each(peers.pread(slices.table, paths, None)),
            png: each(peers.png(paths, size, slices.work / f"png_{size}")),
            kernel: each(peers.kernel(paths, size)),
            normalized: each(peers.normalized_kernel(paths, size)),
            "pydicom: resize, HU": each(peers.resized_first(paths, size)),
            monai_last: optional(peers.monai(paths, size, resize_first=False)),
            monai_first: optional(peers.monai(paths, size, resize_first=True)),
            "MONAI: resize, windows, no metadata": optional(
                peers.monai(paths, size, resize_first=True, track_meta=False)
            ),
            "dicomsdl: HU, resize": optional(peers.dicomsdl(paths, size)),
        },
        len(paths),
        batch=args.batch,
        rounds=args.rounds,
    )
    return Section(
        f"A file to {size} px, one core",
        HU,
        times,
        [
            Figure("HU against pydicom with windows", 20, ratio(times, kernel, HU)),
            Figure("normalized windows against the same", 10, ratio(times, normalized, IMAGE)),
            Figure("HU against MONAI, windows then resize", 25, ratio(times, monai_last, HU)),
            Figure("HU against MONAI, resize then windows", 20, ratio(times, monai_first, HU)),
            Figure("HU against decoding a PNG", 8, ratio(times, png, HU)),
            Figure("HU over pread and resize", 1.5, ratio(times, HU, floor), at_least=False),
        ],
    )


def optional(work: Callable[[int], Any] | None) -> Variant | None:
    return None if work is None else each(work)


def open_slices(slices: Slices, spec: InputSpec, augment: Augment | None = None) -> SliceDataset:
    rows = np.arange(len(slices.arrays.target))
    training = Training(TrainingSpec(spec.size, augment), rows, slices.arrays.target)
    return SliceDataset(SliceReader(slices.root, slices.arrays), slices.arrays, spec, training)


def own_hu(slices: Slices, size: int) -> Callable[[int], None]:
    reader, out = SliceReader(slices.root, slices.arrays), np.empty((size, size), dtype=np.int16)
    return lambda row: reader.read(row, out)


def own_images(slices: Slices, size: int) -> Callable[[Rows], None]:
    """Batches as a network without a GPU gets them."""
    spec = InputSpec(size=size)
    dataset, window = open_slices(slices, spec), Window(spec)

    def run(rows: Rows) -> None:
        for start in range(0, len(rows), 32):
            items = [(0, row, 0) for row in rows[start : start + 32].tolist()]
            window_batch(window, dataset.__getitems__(items)["hu"])

    return run


def measure_loaders(slices: Slices, args: argparse.Namespace) -> Section:
    """Rates of whole loaders; each has both cores, as what waits for the batches has nothing else to do."""
    count = len(slices.paths)
    none, one, two = "ich: in-process", "ich: one worker", "ich: two workers"
    augmented, stock = "ich: one worker, augmented", "PyTorch: one worker, PNG, albumentations"
    windowed = "ich: one worker, augmented, windows"
    bare, bare_two = "pread, resize: one thread", "pread, resize: two threads"
    several = count_cores() > 1
    images = peers.write_pngs(slices.paths, args.size, slices.work / f"png_{args.size}")
    times = interleave(
        {
            none: own_loader(slices, args.size, 0),
            one: own_loader(slices, args.size, 1),
            two: own_loader(slices, args.size, 2) if several else None,
            "ich: in-process, augmented": own_loader(slices, args.size, 0, AUGMENT),
            augmented: own_loader(slices, args.size, 1, AUGMENT),
            "ich: two workers, augmented": own_loader(slices, args.size, 2, AUGMENT) if several else None,
            windowed: own_loader(slices, args.size, 1, AUGMENT, windows=True),
            stock: stock_loader(images),
            bare: bare_threads(slices, args.size, 1),
            bare_two: bare_threads(slices, args.size, 2) if several else None,
        },
        count,
        batch=args.epoch,
        rounds=args.rounds,
    )
    return Section(
        f"Batches of 32 at {args.size} px, {min(2, count_cores())} cores",
        augmented,
        times,
        [
            Figure("augmented and windowed, against PyTorch over PNGs", 3, ratio(times, stock, windowed)),
            Figure("one worker against in-process, rate", 0.7, ratio(times, none, one)),
            Figure("two workers against one, rate", 1.5, ratio(times, one, two)),
            Figure(
                "two workers against one, augmented, rate",
                1.5,
                ratio(times, augmented, "ich: two workers, augmented"),
            ),
            Figure(
                "two threads of bare pread and resize against one, rate", 1.0, ratio(times, bare, bare_two)
            ),
        ],
    )


def own_loader(
    slices: Slices, size: int, workers: int, augment: dict[str, float] | None = None, *, windows: bool = False
) -> Variant:
    spec = InputSpec(size=size)
    dataset = open_slices(slices, spec, Augment(**augment) if augment else None)
    window = Window(spec)

    def run(rows: Rows) -> float:
        items = [(0, row, repeat) for repeat, row in enumerate(rows.tolist())]
        batches = SliceLoader(
            dataset, batch_size=32, sampler=items, num_workers=workers, prefetch_factor=2 if workers else None
        )
        return time_batches(
            window_batch(window, batch["hu"]) if windows else batch["hu"] for batch in batches
        )

    return run


def bare_threads(slices: Slices, size: int, count: int) -> Variant:
    """What threads reach at most: each reads and resizes files of its own, and nothing else."""
    reads = [peers.pread(slices.table, slices.paths, size) for _ in range(count)]

    def read(number: int, rows: list[int]) -> None:
        for row in rows[number::count]:
            reads[number](row)

    def run(rows: Rows) -> float:
        with ThreadPoolExecutor(count) as pool:
            start = time.perf_counter()
            list(pool.map(read, range(count), [rows.tolist()] * count))
            return (time.perf_counter() - start) / len(rows)

    return run


def stock_loader(images: list[str]) -> Variant:
    """PyTorch's own, whose worker process stays from round to round."""
    sampler: list[int] = []
    loader = DataLoader(
        peers.PngDataset(images), batch_size=32, sampler=sampler, num_workers=1, persistent_workers=True
    )

    def run(rows: Rows) -> float:
        sampler[:] = rows.tolist()
        return time_batches(loader)

    return run


def time_batches(batches: Iterable[torch.Tensor], skip: int = 4) -> float:
    """Seconds a slice, once a loader is under way."""
    count, start = 0, 0.0
    for number, batch in enumerate(batches):
        if number >= skip:
            count += len(batch)
        elif number == skip - 1:
            start = time.perf_counter()
    return (time.perf_counter() - start) / count


def measure_headers(slices: Slices, args: argparse.Namespace) -> Section:
    root = slices.work / "headers"
    paths = write_headers(slices, root)
    own, pydicom, sdl = "ich: build_index", "pydicom", "dicomsdl"
    times = interleave(
        {
            own: together(lambda _: index_anew(root)),
            pydicom: each(peers.pydicom_header(paths)),
            sdl: optional(peers.dicomsdl_header(paths, whole=True)),
            "dicomsdl, until the pixels": optional(peers.dicomsdl_header(paths, whole=False)),
        },
        len(paths),
        batch=len(paths),
        rounds=args.rounds,
    )
    return Section(
        f"A header of {len(paths):,} files, one process",
        own,
        times,
        [
            Figure("headers to index against pydicom", 10, ratio(times, pydicom, own)),
            Figure("headers to index against dicomsdl, files opened whole", 3, ratio(times, sdl, own)),
        ],
    )


def index_anew(root: Path) -> None:
    """Reads every header, orders the slices and writes the index; the others only read."""
    with tempfile.TemporaryDirectory() as index_dir:
        build_index(root, index_dir=Path(index_dir), workers=1, progress=False)


def write_headers(slices: Slices, root: Path) -> list[str]:
    """Writes files with the headers of the slices, and a hole in place of the pixels.

    Each has its own UID, and each copy of a series too. No series has two slices at one place, as is usual.
    """
    root.mkdir(exist_ok=True)
    heads: list[tuple[bytes, bytes, bytes, int]] = []
    for path, row in zip(slices.paths, slices.table.itertuples(), strict=True):
        with Path(path).open("rb") as file:
            head = file.read(row.pixel_offset)
        heads.append((head, row.SOPInstanceUID.encode(), row.SeriesInstanceUID.encode(), row.file_size))
    copies = [root / f"{number}.dcm" for number in range(HEADERS)]
    for number, copy in enumerate(copies):
        head, uid, series, size = heads[number % len(heads)]
        head = head.replace(uid, uid[:-6] + b"%06d" % number)
        with copy.open("wb") as file:
            file.write(head.replace(series, series[:-6] + b"%06d" % (number // len(heads))))
            file.truncate(size)
    return [str(copy) for copy in copies]


def measure_index(slices: Slices, args: argparse.Namespace) -> Section:
    path = slices.work / f"index_{args.memory_rows}.parquet"
    if not path.exists():
        print(f"Writing an index of {args.memory_rows:,} slices", flush=True)
        write_table(make_index(slices.table, args.memory_rows), path)
    name = "ich: read_index"
    opened = interleave({name: together(lambda _: read_index(path))}, 1, batch=1, rounds=args.rounds)
    return Section(
        f"An index of {args.memory_rows:,} slices, from Parquet",
        name,
        opened,
        [Figure("opening the large index", 1, opened[name], at_least=False, unit="s")],
    )


def make_index(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """An index in the proportions of the RSNA set: 33 slices a series, 40 a patient, every UID its own."""
    rng, numbers = np.random.default_rng(0), np.arange(count)
    large = table.drop(columns=list(LABELS)).iloc[numbers % len(table)].reset_index(drop=True)
    uids = make_ids(rng.permutation(count))
    return large.assign(
        path="stage_2_train/" + uids + ".dcm",
        mtime_ns=1_570_000_000_000_000_000 + rng.integers(10**15, size=count),
        SOPInstanceUID=uids,
        PatientID=make_ids(numbers // 40),
        StudyInstanceUID=make_ids(numbers // 33),
        SeriesInstanceUID=make_ids(numbers // 33 + count),
        position=rng.uniform(-200, 200, count).round(6),
    )


def make_ids(numbers: NDArray[np.int64]) -> "pd.Series[str]":
    return pd.Series([f"ID_{number:09x}" for number in numbers.tolist()], dtype="str")


def measure_memory(slices: Slices, args: argparse.Namespace) -> Section:
    """In a process of its own, whose memory holds nothing of what came before."""
    figure = Figure("memory gained over an epoch", 5, None, at_least=False, unit="MB")
    if Path("/proc/self/smaps_rollup").exists():
        print(f"Reading an epoch of {args.memory_rows:,} slices", flush=True)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            gained = pool.submit(grow, slices.work, args.memory_rows).result()
        figure = figure._replace(values=np.array([gained]))
    return Section("", "", {}, [figure])


def grow(work: Path, count: int) -> float:
    """MB of private memory that reading has gained at most since the first few thousand slices.

    Slices of 64 px, as what is kept of a slice does not depend on its pixels, and 750,000 are many.
    """
    torch.set_num_threads(1)
    libc = ctypes.CDLL(None)
    libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: or the system rounds memory up to 2 MB as it finds time
    root, size = work / "small", 64
    write_phantom(root, patients=1, size=size)
    table, rows = build_index(root).table, np.arange(count)
    slices = join(root, table.iloc[rows % len(table)], work)
    loader = SliceLoader(
        open_slices(slices, InputSpec(size=size)),
        batch_size=32,
        sampler=EpochSampler(rows, lambda epoch: draw_order(rows, 0, epoch)),
        num_workers=1,
    )
    # What making the table has left behind is given back now, not during the epoch.
    gc.collect()
    pa.default_memory_pool().release_unused()
    libc.malloc_trim(0)
    # Within the epoch: at its end the sampler lets go of what it has kept.
    private = [read_private() for number, _ in enumerate(loader) if number % 128 == 127]
    return (max(private) - private[0]) / 1e6


def read_private() -> int:
    """Bytes that this process has written and shares with no other.

    What is private and clean is of no account: pages of a library become so when another process that has
    used it ends.
    """
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


SECTIONS: dict[str, Callable[[Slices, argparse.Namespace], Section]] = {
    "reads": measure_reads,
    "loaders": measure_loaders,
    "headers": measure_headers,
    "index": measure_index,
    "memory": measure_memory,
}

DRAWN = {"reads", "loaders", "headers"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder of DICOM slices; by default a phantom is written")
    parser.add_argument("--work", type=Path, help="folder that keeps what is made, for the next time")
    sections = {"nargs": "+", "choices": SECTIONS, "metavar": "SECTION"}
    parser.add_argument("--only", **sections, default=list(SECTIONS), help="measure these alone")
    parser.add_argument("--skip", **sections, default=[], help="leave these out")
    parser.add_argument("--size", type=int, default=256, help="of the output in px (%(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="that count (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="slices a round and reader (%(default)s)")
    parser.add_argument("--epoch", type=int, default=512, help="slices a round and loader (%(default)s)")
    parser.add_argument("--files", type=int, default=512, help="most that are taken of --root (%(default)s)")
    parser.add_argument(
        "--memory-rows", type=int, default=750_000, help="slices of the large index (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round and the machine's facts")
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="draw the times of reading, loading, headers"
    )
    args = parser.parse_args()
    if args.rounds < 1 or args.batch < 1 or args.epoch < 5 * 32 or args.memory_rows < 200 * 32:
        parser.error("--rounds and --batch are 1 or more, --epoch 160, --memory-rows 6400")
    return args


def run(args: argparse.Namespace, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    slices = find_slices(args.root, work, args.files)
    check_hu(slices)
    print(f"{len(slices.paths)} slices, whose HU are those that pydicom reads")
    print_machine()
    sections = {}
    for name, measure in SECTIONS.items():
        if name in args.only and name not in args.skip:
            section = sections[name] = measure(slices, args)
            if section.times:
                print_times(section.title, section.times, section.own)
    figures = [figure for section in sections.values() for figure in section.figures]
    print_figures(figures)
    if args.json:
        times = {name: section.times for name, section in sections.items()}
        write_json(args.json, vars(args), times, figures)
    if args.png and DRAWN & sections.keys():
        titles = {name: section.title for name, section in sections.items() if name in DRAWN}
        draw_times(titles, {name: (s.own, s.times) for name, s in sections.items()}, args.png)


def main() -> None:
    args = parse_args()
    for file in filter(None, (args.json, args.png)):
        file.parent.mkdir(parents=True, exist_ok=True)
    # Each reader and each worker has one core; with more, OpenCV's and PyTorch's threads help some only.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if args.work:
        run(args, args.work.resolve())
    else:
        with tempfile.TemporaryDirectory() as work:
            run(args, Path(work))


if __name__ == "__main__":
    main()
