"""The service under load; `receive` is measured so far.

    python benchmarks/serve.py receive --associations 50 --studies 50 --echoes 2000

Senders are DCMTK's storescu, so DCMTK has to be installed. Each brings a study of 40 small slices over an
association of its own. DCMTK's storescp takes the same studies from the same senders in the same run.
"""

import argparse
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pynetdicom import AE, evt

from ich.serve.receive import run
from ich.serve.settings import Settings, make_settings

SLICES, SIZE = 40, 64
WAIT_SECONDS = 60


def write_studies(folder: Path, studies: int) -> list[Path]:
    rng, folders = np.random.default_rng(0), []
    for study in range(1, studies + 1):
        folders.append(folder / str(study))
        folders[-1].mkdir(parents=True)
        for number in range(1, SLICES + 1):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
            ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{study}.1.{number}"
            ds.StudyInstanceUID, ds.SeriesInstanceUID = f"2.25.{study}", f"2.25.{study}.1"
            ds.PatientID, ds.Modality, ds.InstanceNumber = str(study), "CT", number
            ds.Rows = ds.Columns = SIZE
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.PixelData = rng.integers(-1000, 2000, SIZE * SIZE, dtype=np.int16).tobytes()
            ds.save_as(folders[-1] / f"{number}.dcm", enforce_file_format=True)
    return folders


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


def send_all(folders: list[Path], port: int, at_once: int) -> float:
    """Sends all studies; returns objects per second."""

    def send(folder: Path) -> int:
        command = [find("storescu"), "-aec", "ICH", "+sd", "127.0.0.1", str(port), str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode

    started = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        failed = sum(code != 0 for code in pool.map(send, folders))
    if failed:
        print(f"{failed} of {len(folders)} senders failed")
    return len(folders) * SLICES / (time.monotonic() - started)


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


def record_echo(port: int) -> list[bytes]:
    sent: list[bytes] = []
    ae = AE("BENCH")
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate(
        "127.0.0.1",
        port,
        ae_title="ICH",
        evt_handlers=[(evt.EVT_DATA_SENT, lambda event: sent.append(event.data))],
    )
    association.send_c_echo()
    association.release()
    return sent


def echo(port: int, pdus: list[bytes]) -> float:
    """Asks once over a new association; returns the seconds until all was answered."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        for pdu in pdus:
            sock.sendall(pdu)
            sock.recv(65536)
    return time.monotonic() - started


def measure_receive(arguments: argparse.Namespace, folder: Path) -> None:
    studies = write_studies(folder / "studies", arguments.studies)
    receive = {"port": find_free_port(), "most_associations": 200, "most_associations_of_a_peer": 200}
    settings = make_settings({"bundle": "none", "folder": str(folder / "service"), "receive": receive}, "")
    process = multiprocessing.get_context("spawn").Process(target=run, args=(settings, "bench"), daemon=True)
    process.start()
    port = settings.receive.port
    wait_until(lambda: answers(port), "a start of the receiver")
    ours = send_all(studies, port, arguments.associations)
    print(f"ich: {ours:.0f} objects/s; {describe(settings, len(studies) * SLICES)}")
    pdus = record_echo(port)
    for _ in range(200):
        echo(port, pdus)
    before = read_rss(process.pid or 0)
    seconds = sorted(echo(port, pdus) for _ in range(arguments.echoes))
    growth = read_rss(process.pid or 0) - before
    print(
        f"C-ECHO over {arguments.echoes} associations: p99 {seconds[int(0.99 * len(seconds))] * 1e3:.0f} ms, "
        f"memory grew by {growth:.1f} MiB"
    )
    process.terminate()
    process.join()
    other, out = find_free_port(), folder / "storescp"
    out.mkdir()
    command = [find("storescp"), "--fork", "-aet", "ICH", "-od", str(out), str(other)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: answers(other), "a start of storescp")
    theirs = send_all(studies, other, arguments.associations)
    server.kill()
    server.wait()
    print(f"storescp: {theirs:.0f} objects/s; ich reaches {100 * ours / theirs:.0f} % of it")


def describe(settings: Settings, sent: int) -> str:
    connection = sqlite3.connect(settings.store)
    (rows,) = connection.execute("SELECT count(*) FROM objects").fetchone()
    connection.close()
    files = sum(1 for path in settings.inbox.rglob("*.dcm"))
    return f"{sent} sent, {files} on the disk, {rows} in the queue"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=["receive"])
    parser.add_argument("--associations", type=int, default=50, help="senders at once")
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--echoes", type=int, default=2000, help="associations over which memory is watched")
    arguments = parser.parse_args()
    print(f"load over a minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        measure_receive(arguments, Path(folder))


if __name__ == "__main__":
    main()
