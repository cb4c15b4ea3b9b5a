"""Folders that several processes write once, completely or not at all."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from ich.machine import count_cores
from ich.progress import track
from ich.schema import UserError

MANIFEST = "phantom.json"
"""File in the folder that holds the parameters; written last."""

POOL_FROM = 8
"""Number of patients from which several processes are faster than one."""

_Result = TypeVar("_Result")


def check_numbers(patients: int, seed: int, size: int) -> None:
    """Raises ``UserError`` for a number that is out of range."""
    if patients < 1:
        raise UserError(f"patients={patients}: expected 1 or more")
    if seed < 0:
        raise UserError(f"seed={seed}: expected 0 or more")
    if not 64 <= size <= 1024:
        raise UserError(f"size={size}: expected 64 to 1024 pixels")


def write_once(out: Path, parameters: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Writes a folder, or leaves one with the same parameters as it is.

    Args:
        out: The folder; made where it does not exist.
        parameters: Parameters of everything in it; kept as ``MANIFEST``.
        write: Writes the files to an empty folder.

    Raises:
        UserError: If ``out`` holds something else or cannot be written to.
    """
    out = out.absolute()
    if _holds(out, parameters):
        return
    try:
        _write_whole(out, parameters, write)
    except OSError as error:
        raise UserError(f"cannot write the phantom to {out}: {error.strerror or error}") from error


def _holds(out: Path, parameters: dict[str, Any]) -> bool:
    """Whether ``out`` holds the phantom; refuses anything else that is not empty."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the phantom")
    if not any(out.iterdir()):
        return False
    try:
        found = json.loads((out / MANIFEST).read_text())
    except (OSError, ValueError):
        raise UserError(f"{out} is not empty and does not hold a phantom: name another folder") from None
    if found != parameters:
        raise UserError(
            f"{out} holds a phantom with the parameters {found}, not {parameters}: remove it or name "
            "another folder"
        )
    return True


def _write_whole(out: Path, parameters: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Writes beside ``out`` and moves the folder there when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    whole = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        write(whole)
        (whole / MANIFEST).write_text(json.dumps(parameters, indent=1) + "\n")
        whole.chmod(0o755)
        try:
            whole.replace(out)
        except OSError:  # another process may have made the same one meanwhile
            if not _holds(out, parameters):
                raise
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def map_patients(
    write: Callable[[int], _Result], patients: int, processes: int | None = None
) -> Iterator[_Result]:
    """Applies a function to each patient's number, in order.

    Args:
        write: The function.
        patients: Number of patients.
        processes: Number of processes; None takes this one for few patients, and else one per core.
    """
    numbers = range(patients)
    title = "Writing the phantom"
    if processes is None:
        processes = 1 if patients < POOL_FROM else min(8, count_cores())
    if processes == 1:
        _keep_memory()
        yield from track(map(write, numbers), title, patients, shown=True)
        return
    start = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with warnings.catch_warnings():
        # Python 3.12 warns of any fork beside threads. The children only draw and write, on one thread.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        with ProcessPoolExecutor(processes, start, _prepare_worker) as pool:
            yield from track(pool.map(write, numbers), title, patients, shown=True)


def _prepare_worker() -> None:
    cv2.setNumThreads(0)
    _keep_memory()


def _keep_memory() -> None:
    # glibc keeps memory up to twice the largest block that was ever freed (mallopt(3), M_MMAP_THRESHOLD).
    # Without this block it would return and request the memory of every array, a quarter of the time.
    np.empty(30 * 2**20, dtype=np.uint8)
