"""What the measurements of the service share: studies to send, DCMTK as a sender, a receiver to send to."""

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import serve_pynetdicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from ich.serve import receive
from ich.serve.settings import Settings, make_settings

SLICES, SIZE = 40, 64
WAIT_SECONDS = 60
ACCEPTORS = {"ich": receive.run, "pynetdicom": serve_pynetdicom.run}


def write_studies(folder: Path, studies: int) -> list[Path]:
    """Writes studies of small slices. All are copies of one slice with other UIDs and pixels of noise."""
    first, rng = (1001, 101), np.random.default_rng(0)  # numbers of as many digits as all others have
    template = to_bytes(make_slice(*first))
    folders = []
    for study in range(first[0], first[0] + studies):
        folders.append(folder / str(study))
        folders[-1].mkdir(parents=True)
        for number in range(first[1], first[1] + SLICES):
            pixels = rng.integers(-1000, 2000, SIZE * SIZE, dtype=np.int16).tobytes()
            head = template[: -len(pixels)].replace(b"2.25.%d" % first[0], b"2.25.%d" % study)
            head = head.replace(b".1.%d" % first[1], b".1.%d" % number)
            (folders[-1] / f"{number}.dcm").write_bytes(head + pixels)
    return folders


def make_slice(study: int, number: int) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{study}.1.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"2.25.{study}", f"2.25.{study}.1"
    ds.PatientID, ds.Modality, ds.InstanceNumber = "1", "CT", 1
    ds.Rows = ds.Columns = SIZE
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PixelData = bytes(2 * SIZE * SIZE)
    return ds


def to_bytes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{what} did not happen within {WAIT_SECONDS} s")
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def send_all(folders: list[Path], port: int, at_once: int) -> tuple[float, int]:
    """Sends all, a study over each association; returns objects a second, and how many were acknowledged."""

    def send(folder: Path) -> int:
        command = [find("storescu"), "-v", "-aec", "ICH", "+sd", "127.0.0.1", str(port), str(folder)]
        said = subprocess.run(command, capture_output=True, check=False)
        return (said.stdout + said.stderr).count(b"Received Store Response (Success)")

    started = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        acknowledged = sum(pool.map(send, folders))
    seconds = time.monotonic() - started
    if acknowledged != len(folders) * SLICES:
        print(
            f"{len(folders) * SLICES - acknowledged} of {len(folders) * SLICES} objects were not acknowledged"
        )
    return acknowledged / seconds, acknowledged


def find(program: str) -> str:
    """DCMTK's program; pynetdicom brings others of the same names."""
    for folder in ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"):
        if (path := shutil.which(program, path=folder)) is not None:
            return path
    sys.exit(f"{program} of DCMTK is not installed")


def read_rss(pid: int) -> float:
    """Resident memory of a process, MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def receiving(
    folder: Path, log: Path, acceptor: str = "ich", **changes: Any
) -> Iterator[tuple[Settings, multiprocessing.process.BaseProcess]]:
    """Receives in a process of its own within the context; gives its settings and the process.

    Args:
        folder: Folder of the service.
        log: File for what it logs.
        acceptor: One of ``ACCEPTORS``.
        changes: Settings of ``receive`` that are not the defaults.
    """
    values = {"port": find_free_port(), **changes}
    settings = make_settings({"bundle": "none", "folder": str(folder), "receive": values}, "")
    process = multiprocessing.get_context("spawn").Process(
        target=_run, args=(acceptor, settings, log), daemon=True
    )
    process.start()
    try:
        wait_until(lambda: answers(settings.receive.port), "a start of the receiver")
        yield settings, process
    finally:
        process.terminate()
        process.join()


def _run(acceptor: str, settings: Settings, log: Path) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    ACCEPTORS[acceptor](settings, "bench")
