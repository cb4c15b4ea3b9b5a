"""How time and memory grow with the number of files, studies and rows.

Each size runs in a process of its own, with one thread. `processor` is the time of all its processes, which
says more than the clock on a busy machine. `peak` is the most memory of its largest process. The files are
small copies of a phantom's, with identifiers of their own, so the disk holds little beside headers.

    python benchmarks/growth.py index --sizes 1000 10000 100000 1000000     # and later starts
    python benchmarks/growth.py find --sizes 100 1000 10000                 # the studies of an archive, twice
    python benchmarks/growth.py predict --sizes 100 1000 10000              # `ich predict` on tiny studies
    python benchmarks/growth.py evaluate --sizes 1000 10000 100000 1000000  # `ich evaluate` on made-up rows
    python benchmarks/growth.py train --sizes 750000                        # until the first batch
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pydicom
import torch
from rich.progress import track

from ich.index import build_index
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier
from ich.phantom import write_phantom
from ich.schema import LABELS, InputSpec
from ich.tables import TARGET_COLUMNS, make_predictions, write_table

SLICES = 35  # of a series in the index, as in the RSNA's data
FEW = 8  # slices of a tiny study
FIRST = 10**11  # numbers of twelve digits, so that every identifier has the same length
ROOT = "1.2.826.0.1.3680043.10.543"
NUMBERED = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID")

INDEX = """
import json, resource, sys, time
from pathlib import Path
from ich.index import build_index
if __name__ == "__main__":
    start, before = time.perf_counter(), time.process_time()
    index = build_index(Path(sys.argv[1]), trust_folders=sys.argv[2] == "trust", progress=False)
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = time.process_time() - before + others.ru_utime + others.ru_stime
    print(json.dumps([len(index.table), time.perf_counter() - start, processor]))
"""

# As `ich predict` begins: until the files of the first study are known.
FIND = """
import json, sys, tempfile, time
from pathlib import Path
from ich.studies import find_studies
start, before = time.perf_counter(), time.process_time()
with tempfile.TemporaryDirectory() as scratch:
    kept = Path(sys.argv[2])
    found = find_studies([Path(sys.argv[1])], scratch=Path(scratch), kept=kept, progress=False)
    found.studies[0]
print(json.dumps([len(found.studies), time.perf_counter() - start, time.process_time() - before]))
"""

# Trains until the first batch is there.
TRAIN = """
import os, sys, time
from pathlib import Path
begun, said = float(sys.argv.pop(1)), Path(sys.argv.pop(1))
from ich.models import SliceClassifier
import ich.train
def stop(self, batch, batch_idx):
    said.write_text(str(time.time() - begun))
    os._exit(0)
SliceClassifier.training_step = stop
ich.train.main()
"""

# A process counts the memory of the one that started it, so a small one stands between.
SMALL = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds, processor = time.perf_counter() - start, used.ru_utime + used.ru_stime
print(json.dumps([done.stdout, seconds, processor, used.ru_maxrss / 1024]))
sys.exit(done.returncode)
"""

ICH = [sys.executable, "-c", "import sys; from ich.cli import main; sys.exit(main())"]


class Used(NamedTuple):
    """What a process took: its output, seconds on the clock and of processors, MiB of its largest process."""

    output: str
    seconds: float
    processor: float
    peak: float


class Template:
    """A file whose identifiers are replaced without writing it anew."""

    def __init__(self, path: Path, pixels: int | None) -> None:
        header = pydicom.dcmread(path)
        if pixels is not None:
            header.PixelData = header.PixelData[: 2 * pixels**2]
            header.Rows = header.Columns = pixels
        warnings.simplefilter("ignore")  # the phantom has names of the RSNA, which are no UIDs
        for place, keyword in enumerate(NUMBERED):
            setattr(header, keyword, self._name(place, 0))
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        with tempfile.TemporaryDirectory() as folder:
            header.save_as(Path(folder) / "slice.dcm", enforce_file_format=True)
            self.content = (Path(folder) / "slice.dcm").read_bytes()

    @staticmethod
    def _name(place: int, number: int) -> str:
        return f"{ROOT}.{place + 1}.{FIRST + number}"

    def fill(self, *numbers: int) -> bytes:
        """Returns the file with the number of its slice, series, study and patient."""
        content = self.content
        for place, number in enumerate(numbers):
            content = content.replace(self._name(place, 0).encode(), self._name(place, number).encode())
        return content


def run(command: Sequence[str]) -> Used:
    """Runs a command with one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SMALL, *command], stdout=subprocess.PIPE, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}")
    return Used(*json.loads(done.stdout))


def list_templates(folder: Path, pixels: int | None) -> list[Template]:
    """Makes templates of the slices of a phantom's series, from the feet to the head."""
    write_phantom(folder, patients=3, size=64)
    table = build_index(folder, progress=False).table
    series = table[table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]]
    return [Template(folder / path, pixels) for path in series["path"]]


def write_slices(templates: Sequence[Template], out: Path, count: int, each: int) -> None:
    """Writes so many slices in studies of ``each``, all in one folder, beside those that are there."""
    out.mkdir(exist_ok=True)
    places = np.linspace(0, len(templates) - 1, each).round().astype(int)
    there = sum(1 for entry in os.scandir(out) if entry.is_file())
    for number in track(range(there, count), "writing files", transient=True):
        study = number // each
        content = templates[places[number % each]].fill(number, study, study, study)
        (out / f"{number}.dcm").write_bytes(content)


def measure_index(work: Path, sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    templates = list_templates(work / "phantom", pixels=8)
    for size in sizes:
        root = work / f"files_{size}"
        write_slices(templates, root, size, SLICES)
        # The third start lists the files once more, and keeps the times of the folders for the fourth.
        starts = ("list", "list", "trust", "trust")
        used = [run([sys.executable, "-c", INDEX, str(root), start]) for start in starts]
        first, second, _, trusting = (json.loads(each.output) for each in used)
        yield {
            "files": size,
            "first, s": round(first[1], 2),
            "processor, us a file": round(1e6 * first[2] / size, 1),
            "second, s": round(second[1], 2),
            "its processor, s": round(second[2], 2),
            "trusting folders, s": round(trusting[1], 2),
            "processor of this, s": round(trusting[2], 2),
            "peak, MiB": round(used[0].peak),
        }
        shutil.rmtree(root)


def measure_find(work: Path, sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    templates = list_templates(work / "phantom", pixels=8)
    for size in sizes:
        root, kept = work / f"studies_{size}", work / f"headers_{size}.parquet"
        write_slices(templates, root, FEW * size, FEW)
        first, again = (run([sys.executable, "-c", FIND, str(root), str(kept)]) for _ in range(2))
        before, after = json.loads(first.output), json.loads(again.output)
        yield {
            "studies": size,
            "first, s": round(before[1], 2),
            "processor, s": round(before[2], 2),
            "again, s": round(after[1], 2),
            "its processor, s": round(after[2], 2),
            "peak, MiB": round(first.peak),
            "its peak, MiB": round(again.peak),
        }
        shutil.rmtree(root)


def measure_predict(work: Path, sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    templates = list_templates(work / "phantom", pixels=None)
    torch.manual_seed(0)
    net = SliceClassifier("test_resnet", input=InputSpec(size=64), pretrained=False).net
    write_bundle(net.metadata, net.state_dict(), work / "model.zip")
    for size in sizes:
        root, out = work / f"studies_{size}", work / f"results_{size}"
        write_slices(templates, root, FEW * size, FEW)
        command = [*ICH, "predict", str(work / "model.zip"), str(root), "--out", str(out)]
        first, second = run(command), run(command)
        yield {
            "studies": size,
            "s": round(first.seconds, 1),
            "processor, ms a study": round(1000 * first.processor / size, 1),
            "again, with nothing to read, s": round(second.seconds, 1),
            "its processor, s": round(second.processor, 1),
            "peak, MiB": round(first.peak),
        }


def measure_evaluate(work: Path, sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    rng = np.random.default_rng(0)
    for size in sizes:
        path, out = work / f"rows_{size}.csv", work / f"report_{size}"
        write_table(make_rows(size, rng), path)
        used = run([*ICH, "evaluate", str(path), "--out", str(out)])
        yield {
            "rows": size,
            "s": round(used.seconds, 1),
            "processor, ms a row": round(1000 * used.processor / size, 3),
            "peak, MiB": round(used.peak),
        }


def measure_train(work: Path, sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    templates, rng = list_templates(work / "phantom", pixels=8), np.random.default_rng(0)
    for size in sizes:
        root, labels, said = work / f"files_{size}", work / f"labels_{size}.csv", work / "seconds"
        write_slices(templates, root, size, SLICES)
        targets = dict(zip(TARGET_COLUMNS, LABELS, strict=True))
        rows = make_rows(size, rng)[["SOPInstanceUID", *targets]].rename(columns=targets)
        rows.to_csv(labels, index=False)
        build_index(root, trust_folders=True)
        settings = ["data=rsna", f"data.root={root}", f"data.labels={labels}", "data.trust_folders=true"]
        settings += ["model.backbone=test_resnet", "model.pretrained=false", "input.size=64"]
        settings += ["logger=csv", f"run_dir={work}/run_{size}"]
        seconds = {}
        for start in ("list", "trust"):  # only the second one finds the times of the folders
            used = run([sys.executable, "-c", TRAIN, str(time.time()), str(said), *settings])
            seconds[start] = float(said.read_text())
        yield {
            "files": size,
            "listing, s": round(seconds["list"], 1),
            "trusting, s": round(seconds["trust"], 1),
            "its peak, MiB": round(used.peak),
        }
        shutil.rmtree(root)


def make_rows(size: int, rng: np.random.Generator) -> pd.DataFrame:
    """Makes a predictions table of studies of 35 slices, one a patient, a tenth of the slices positive."""
    study = np.arange(size) // SLICES
    uids = {
        "SOPInstanceUID": [f"{ROOT}.1.{FIRST + number}" for number in range(size)],
        **{
            keyword: [f"{ROOT}.{place + 2}.{FIRST + number}" for number in study]
            for place, keyword in enumerate(NUMBERED[1:])
        },
    }
    target = rng.random((size, len(LABELS))) < 0.02
    target[:, -1] = target[:, :-1].any(axis=1)
    logits = rng.normal(np.where(target, 0.0, -3.0), 1.0)
    rows = pd.DataFrame(uids).assign(**dict(zip(LABELS, target.T.astype(np.float32), strict=True)))
    return make_predictions(rows, "test", 1 / (1 + np.exp(-logits)))


PARTS: dict[str, tuple[Callable[[Path, Sequence[int]], Iterator[dict[str, object]]], list[int]]] = {
    "index": (measure_index, [1_000, 10_000, 100_000]),
    "find": (measure_find, [100, 1_000]),
    "predict": (measure_predict, [100, 1_000]),
    "evaluate": (measure_evaluate, [1_000, 10_000, 100_000]),
    "train": (measure_train, [1_000, 10_000, 100_000]),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--sizes", type=int, nargs="+", help="sizes to measure")
    parser.add_argument("--work", type=Path, help="folder for the files (default: a temporary one)")
    args = parser.parse_args()
    measure, usual = PARTS[args.part]
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        rows = []
        for row in measure(Path(folder), args.sizes or usual):
            rows.append(row)
            print(pd.DataFrame(rows).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
