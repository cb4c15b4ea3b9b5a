"""The service as a process, with a model of random weights, and DCMTK's storescp as its archive."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

# As ich.predict does, which is imported after torch here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pydicom
import torch
import yaml
from pydicom.uid import Comprehensive3DSRStorage, generate_uid
from serve_shared import answers, find, find_free_port, wait_until

from ich.calibration import Decision, NotFitted
from ich.calibration.points import OperatingPoint
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier
from ich.phantom import write_phantom
from ich.schema import LABELS, InputSpec

QUIET_SECONDS = 2.0


def write_model(path: Path, backbone: str, size: int) -> Path:
    """Each study is POSITIVE, which makes the most work: key images and heat maps."""
    torch.manual_seed(0)
    net = SliceClassifier(backbone, input=InputSpec(size=size), pretrained=False).net.eval()
    missing = dict.fromkeys(LABELS, NotFitted("a benchmark"))
    decision = Decision("max", missing, missing | {"any": OperatingPoint(0.0, "sensitivity>=0.95", 1.0, 0.5)})
    decided = replace(net.metadata, decisions={"slice": decision, "study": decision})
    write_bundle(decided, net.state_dict(), path)
    return path


def write_heads(folder: Path, studies: int, size: int, step: float) -> list[Path]:
    """Writes studies of the phantom, a folder for each."""
    write_phantom(folder / "phantom", patients=studies, size=size, conformant=True, step=step)
    found = defaultdict(list)
    for path in sorted((folder / "phantom").rglob("*.dcm")):
        found[str(pydicom.dcmread(path, specific_tags=["StudyInstanceUID"]).StudyInstanceUID)].append(path)
    folders = []
    for number, paths in enumerate(list(found.values())[:studies]):
        folders.append(folder / "studies" / f"{number:03d}")
        folders[-1].mkdir(parents=True)
        for path in paths:
            path.rename(folders[-1] / path.name)
    return folders


def copy_study(source: Path, folder: Path) -> str:
    """Copies a study under new UIDs; returns its StudyInstanceUID."""
    study, series = generate_uid(), generate_uid()
    folder.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(folder / path.name)
    return str(study)


@contextmanager
def archiving(folder: Path) -> Iterator[int]:
    """Runs storescp, which keeps what it gets in a folder; yields its port."""
    folder.mkdir(parents=True)
    port = find_free_port()
    command = [find("storescp"), "--fork", "-aet", "PACS", "-od", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: answers(port), "a start of storescp")
            yield port
        finally:
            process.kill()


class Running:
    """A service that runs.

    Args:
        folder: A new folder for it.
        model: File of the model.
        archive: Port of the archive.
        read: Settings of the readers.
    """

    def __init__(self, folder: Path, model: Path, archive: int, read: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True)
        self.port = find_free_port()
        self._log = folder / "log"
        self._database = folder / "service" / "queue.sqlite"
        node = {"name": "pacs", "kind": "dicom", "address": f"127.0.0.1:{archive}", "ae_title": "PACS"}
        settings = {
            "bundle": str(model),
            "folder": str(folder / "service"),
            "receive": {"port": self.port, "least_free_gb": 0.1},
            "web": {"port": find_free_port()},
            "complete": {"quiet_seconds": QUIET_SECONDS},
            "read": {"gpus": 0} | dict(read),
            "send": [node],
        }
        (folder / "serve.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        self._command = [sys.executable, "-c", "from ich.cli import main; main()", "serve"]
        self._command += ["--config", str(folder / "serve.yaml")]

    def __enter__(self) -> "Running":
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + 180
        while not self.ask("SELECT identity FROM readers"):
            if self._process.poll() is not None or time.monotonic() > end:
                sys.exit(f"the service did not start:\n{self._log.read_text(encoding='utf-8')}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of its database; none while it cannot be read."""
        with suppress(sqlite3.Error):
            connection = sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=30)
            try:
                return connection.execute(query).fetchall()
            finally:
                connection.close()
        return []

    def find_process(self, role: str) -> tuple[str, int]:
        """Name and process ID of the process that has a role now."""
        found = re.findall(rf"({role}-\d+-\w+) started as process (\d+)", self.log)
        return found[-1][0], int(found[-1][1])

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float) -> None:
        """Waits until something is so, and ends the program with the service's last words if it never is."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                sys.exit(f"{what} did not happen within {seconds:.0f} s:\n{self.log[-3000:]}")
            time.sleep(0.1)


def list_reports(archive: Path) -> dict[str, dict[str, float]]:
    """Lists the reports at the archive by study: the time of each by its SOPInstanceUID."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for path in archive.iterdir():
        with suppress(Exception):  # a file that is being written
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            if ds.SOPClassUID == Comprehensive3DSRStorage:
                found[str(ds.StudyInstanceUID)][str(ds.SOPInstanceUID)] = path.stat().st_mtime
    return found
