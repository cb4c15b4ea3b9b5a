"""Damages studies that are POSITIVE when whole, and counts the outcomes; reads an archive with known truth.

    ich phantom data/held_out --conformant --patients 200 --seed 11 --size 256
    python benchmarks/prediction.py damage MODEL data/held_out --copies 1000
    ich phantom data/archive --archive
    python benchmarks/prediction.py archive MODEL data/archive
    python benchmarks/prediction.py others MODEL [FOLDER]

A damaged copy must never be NEGATIVE. The damage hits all slices that make a study POSITIVE, so the remaining
slices look free of hemorrhage. Slices are lost within the stack and at its ends. All random choices follow
from ``--seed``. ``others`` reads the files that pydicom ships, or those of a folder; none is a head CT.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.data import get_testdata_files
from rich.progress import track

from ich.phantom.archive import TRUTH
from ich.predict import Predictor
from ich.schema.results import Outcome, StudyResult
from ich.studies import StudyFiles, find_studies

LOST_ABOVE = (40.0, 80.0)  # mm
LEFT_ABOVE = (90.0, 120.0)  # mm below the top of the stack

Damage = Callable[[np.random.Generator, list[Path], list[int]], None]
"""Changes the files of a copy, which are in order of position; given the places that are to be hit."""


def _save(path: Path, ds: pydicom.Dataset) -> None:
    path.unlink()  # it may be a link to the original
    ds.save_as(path)


def _rewrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def truncate(rng: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Cuts files off: within their pixels, within their header, or at their first bytes."""
    for place in hit:
        content = files[place].read_bytes()
        share = rng.choice([rng.uniform(0.02, 0.99), rng.uniform(0.0, 0.02)])
        _rewrite(files[place], content[: int(share * len(content))])


def overwrite(rng: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Writes zeros or noise over the start of files, from none of the header left to some of it."""
    for place in hit:
        content = bytearray(files[place].read_bytes())
        length = int(rng.integers(200, 4000))
        start = int(rng.choice([0, 132, 300]))
        noise = bytes(length) if rng.random() < 0.5 else rng.bytes(length)
        content[start : start + length] = noise
        _rewrite(files[place], bytes(content))


def remove(_: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Removes files; the outermost slices stay, so that they are missing inside the stack."""
    inside = [place for place in hit if 0 < place < len(files) - 1] or [len(files) // 2]
    for place in inside:
        files[place].unlink()


def swap_bytes(_: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Swaps the bytes of every stored value."""
    for place in hit:
        ds = pydicom.dcmread(files[place])
        ds["PixelData"].value = np.frombuffer(ds.PixelData, np.uint16).byteswap().tobytes()
        _save(files[place], ds)


def swap_slices(rng: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Gives each slice the position of another, as where files were mixed up."""
    for place in hit:
        other = int(rng.choice([n for n in range(len(files)) if n != place]))
        one, two = pydicom.dcmread(files[place]), pydicom.dcmread(files[other])
        one.ImagePositionPatient, two.ImagePositionPatient = (
            two.ImagePositionPatient,
            one.ImagePositionPatient,
        )
        _save(files[place], one)
        _save(files[other], two)


def rescale(rng: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Alters slope or intercept of the slices, or of the whole series."""
    slope = rng.random() < 0.5
    factor = float(rng.choice([0.25, 0.5, 2.0, 4.0, -1.0]))
    shift = float(rng.choice([-1, 1]) * rng.choice([100, 200, 500, 1000, 2000, 30000]))
    for place in hit if rng.random() < 0.5 else range(len(files)):
        ds = pydicom.dcmread(files[place])
        if slope:
            ds.RescaleSlope = float(ds.RescaleSlope) * factor
        else:
            ds.RescaleIntercept = float(ds.RescaleIntercept) + shift
        _save(files[place], ds)


def move(rng: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Moves slices: far away, onto their neighbor, turned on their side, or nowhere."""
    kind = int(rng.integers(4))
    for place in hit:
        ds = pydicom.dcmread(files[place])
        x, y, z = map(float, ds.ImagePositionPatient)
        if kind == 0:
            ds.ImagePositionPatient = [x, y, z + float(rng.choice([-1, 1]) * rng.uniform(300, 3000))]
        elif kind == 1:
            neighbor = pydicom.dcmread(files[place - 1 if place else 1], stop_before_pixels=True)
            ds.ImagePositionPatient = neighbor.ImagePositionPatient
        elif kind == 2:
            ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        else:
            del ds.ImagePositionPatient
        _save(files[place], ds)


def remove_top(rng: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Removes the slices from the lowest that is hit to the top, and 40 mm or more, as if yet to arrive."""
    heights = read_heights(files)
    limit = min(heights[min(hit)], heights.max() - rng.uniform(*LOST_ABOVE))
    remove_where(files, heights >= limit)


def remove_base(rng: np.random.Generator, files: list[Path], hit: list[int]) -> None:
    """Removes the slices from the base to the highest that is hit, and up to where the brain is wide."""
    heights = read_heights(files)
    limit = max(heights[max(hit)], heights.max() - rng.uniform(*LEFT_ABOVE))
    remove_where(files, heights <= limit)


def read_heights(files: list[Path]) -> np.ndarray:
    """Heights of files in mm along the patient's long axis."""
    return np.array(
        [float(pydicom.dcmread(p, stop_before_pixels=True).ImagePositionPatient[2]) for p in files]
    )


def remove_where(files: list[Path], gone: np.ndarray) -> None:
    """Removes files; three stay, or there would be no series."""
    places = np.flatnonzero(gone)
    for place in places[: max(0, len(files) - 3)]:
        files[place].unlink()


KINDS: dict[str, Damage] = {
    "truncated": truncate,
    "unreadable": overwrite,
    "missing": remove,
    "bytes swapped": swap_bytes,
    "slices swapped": swap_slices,
    "rescale": rescale,
    "position": move,
    "top missing": remove_top,
    "base missing": remove_base,
}


@dataclass(frozen=True)
class Whole:
    """A study that is POSITIVE when whole.

    Attributes:
        files: In order of position.
        hit: Places of the slices that make it so.
    """

    files: list[Path]
    hit: list[int]


def find_hits(result: StudyResult, threshold: float) -> list[int]:
    """Places of the slices that would each make a study POSITIVE, and of the key slices."""
    probs = np.array([0.0 if each.left_out else each.probs["any"] for each in result.slices])
    return sorted({*np.flatnonzero(probs >= threshold).tolist(), *result.key_slices})


def find_threshold(results: Sequence[StudyResult]) -> float:
    """The lowest highest probability, as the network gives it, of the studies that are POSITIVE."""
    return min(
        max(each.probs["any"] for each in result.slices)
        for result in results
        if result.outcome is Outcome.POSITIVE
    )


def read_whole(predictor: Predictor, studies: Sequence[StudyFiles]) -> tuple[list[StudyResult], list[Whole]]:
    """Reads studies as they are."""
    results = list(predictor.predict_studies(track(studies, "whole", transient=True)))
    threshold = find_threshold(results)
    whole = []
    for study, result in zip(studies, results, strict=True):
        if result.outcome is Outcome.POSITIVE:
            paths = study.files.set_index("SOPInstanceUID")["path"]
            files = [study.root / paths[each.SOPInstanceUID] for each in result.slices]
            whole.append(Whole(files, find_hits(result, threshold)))
    return results, whole


def make_copies(whole: Sequence[Whole], copies: int, seed: int, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Yields damaged copies, the kinds of damage in turn; a copy is removed when the next is asked for."""
    names = list(KINDS)
    for number in range(copies):
        rng = np.random.default_rng([seed, number])
        kind, study = names[number % len(names)], whole[number // len(names) % len(whole)]
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            files = [Path(folder) / f"{n:04d}.dcm" for n in range(len(study.files))]
            for source, target in zip(study.files, files, strict=True):
                os.link(source, target)
            KINDS[kind](rng, files, study.hit)
            yield kind, Path(folder)


def describe(result: StudyResult) -> str:
    """The outcome, or the code of the refusal."""
    return str(result.outcome) if result.refusal is None else result.refusal.code


def read_copy(predictor: Predictor, folder: Path, scratch: Path) -> tuple[str, str]:
    """The outcome of a copy, or the code of its refusal, and the reasons."""
    found = find_studies([folder], scratch=scratch, progress=False)
    results = list(predictor.predict_studies(found.studies))
    outcomes = {describe(result) for result in results}
    reasons = {reason.code for result in results for reason in result.reasons}
    # Of a copy that falls into several studies the worst counts.
    outcome = next((o for o in (Outcome.NEGATIVE, Outcome.POSITIVE) if o in outcomes), None)
    return str(outcome or next(iter(sorted(outcomes)), "no study")), " ".join(sorted(reasons))


def run_damage(args: argparse.Namespace) -> None:
    """Damages studies and counts what comes out."""
    predictor = Predictor.load(*args.model, gpus=0)
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        scratch = Path(folder)
        studies = find_studies([args.root], scratch=scratch, progress=True).studies
        results, whole = read_whole(predictor, studies)
        counts = Counter(map(describe, results))
        print(f"{len(results)} whole studies: {dict(sorted(counts.items()))}")
        unclear = [each for each in results if each.outcome is Outcome.INDETERMINATE]
        reasons = Counter(reason.code for each in unclear for reason in each.reasons)
        print(f"  reasons of those that are INDETERMINATE: {dict(reasons)}")
        copies = make_copies(whole, args.copies, args.seed, scratch)
        rows = []
        for kind, copy in track(copies, "damaged", total=args.copies, transient=True):
            rows.append((kind, *read_copy(predictor, copy, scratch)))
    table = pd.DataFrame(rows, columns=["damage", "outcome", "reasons"])
    print(pd.crosstab(table["damage"], table["outcome"], margins=True).to_string())
    print(f"NEGATIVE: {int((table['outcome'] == Outcome.NEGATIVE).sum())} of {len(table)}")
    if args.out:
        table.to_csv(args.out, index=False)


def read_all(predictor: Predictor, inputs: Sequence[Path]) -> tuple[list[StudyFiles], list[StudyResult]]:
    """Finds and reads the studies of some inputs, which may hold zip archives."""
    with tempfile.TemporaryDirectory() as scratch:
        studies, refused = find_studies(inputs, scratch=Path(scratch))
        print(f"{len(studies)} studies; files of none: {dict(Counter(refused['code']))}")
        return studies, list(predictor.predict_studies(track(studies, "studies", transient=True)))


def run_archive(args: argparse.Namespace) -> None:
    """Compares what becomes of an archive's studies with what its ``archive.json`` says of them."""
    _, results = read_all(Predictor.load(*args.model, gpus=0), [args.root])
    listed = json.loads((args.root / TRUTH).read_text(encoding="utf-8"))["studies"]
    truths = {study["StudyInstanceUID"]: study for study in listed}
    rows, wrong = [], 0
    for result in results:
        truth = truths[result.StudyInstanceUID]
        codes = {series["SeriesInstanceUID"]: series["set_aside"] for series in truth["series"]}
        others = [series for series in result.series if series.set_aside is not None]
        wrong += sum(each.set_aside.code not in codes[each.SeriesInstanceUID] for each in others)
        state = "no head" if truth["read"] is None else "whole" if truth["whole"] else "damaged"
        rows.append(
            (state, (truth["labels"] or {}).get("any"), result.read_series == truth["read"], describe(result))
        )
    table = pd.DataFrame(rows, columns=["state", "any", "series is right", "outcome"])
    print(table.groupby(["state", "any", "series is right", "outcome"], dropna=False).size().to_string())
    print(f"series that are set aside by another code than the truth has: {wrong}")


def run_others(args: argparse.Namespace) -> None:
    """Lists the outcomes of studies of files that are not head CT."""
    inputs = [args.root] if args.root else [Path(path) for path in get_testdata_files()]
    studies, results = read_all(Predictor.load(*args.model, gpus=0), inputs)
    kinds = [" ".join(sorted({str(m) or "none" for m in study.files["Modality"]})) for study in studies]
    table = pd.DataFrame({"modality": kinds, "outcome": list(map(describe, results))})
    print(table.groupby(["outcome", "modality"]).size().to_string())
    print(f"with a result: {sum(result.outcome is not None for result in results)}")


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    damage = commands.add_parser("damage")
    damage.add_argument("model", type=Path, nargs="+")
    damage.add_argument("root", type=Path)
    damage.add_argument("--copies", type=int, default=1000)
    damage.add_argument("--seed", type=int, default=0)
    damage.add_argument("--scratch", type=Path, help="on the file system of ROOT, since copies are links")
    damage.add_argument("--out", type=Path, help="CSV of a row a copy")
    damage.set_defaults(run=run_damage)
    archive = commands.add_parser("archive")
    archive.add_argument("model", type=Path, nargs="+")
    archive.add_argument("root", type=Path)
    archive.set_defaults(run=run_archive)
    others = commands.add_parser("others")
    others.add_argument("model", type=Path, nargs=1)
    others.add_argument("root", type=Path, nargs="?")
    others.set_defaults(run=run_others)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
