from __future__ import annotations

import gc
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Before anything imports them. No test may reach for the network; threads wait without spinning, and
# networks as tiny as those of the tests are faster without them, in the processes that tests start, too.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fsspec
import pydicom
import pytest
from drawings import copy_study, draw_once
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import RLELossless

from ich.remote import RemotePath

ENDED: list[str] = []
"""Processes of pytest-xdist that ended in the middle of a test."""


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of few patients and small slices, to be left as it is."""
    return draw_once(tmp_path_factory, patients=12, seed=3)


@pytest.fixture(scope="session")
def damage() -> Callable[[Path], None]:
    """Breaks the pixels of a slice so that its header is whole and only reading tells."""

    def compress_and_break(path: Path) -> None:
        with pydicom.config.disable_value_validation():
            ds = pydicom.dcmread(path)
            ds.compress(RLELossless, generate_instance_uid=False)
            (frame,) = generate_frames(ds.PixelData, number_of_frames=1)
            ds.PixelData = encapsulate([frame[:64] + b"\x80" * len(frame[64:])])  # segments of no bytes
            ds.save_as(path)

    return compress_and_break


@pytest.fixture(scope="session")
def conformant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom with complete headers, to be left as it is."""
    return draw_once(tmp_path_factory, patients=4, seed=5, conformant=True)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a receiver of the service with settings, and returns all of them."""
    from receiving import make_receive_settings

    from ich.serve.receive import receiving

    with ExitStack() as stack:

        def begin(**changes: Any) -> Any:
            settings = make_receive_settings(tmp_path / "service", **changes)
            stack.enter_context(receiving(settings, "test"))
            return settings

        yield begin


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Files of a positive reading, to be left as they are."""
    from answers import write_reading

    phantom = draw_once(tmp_path_factory, patients=1, seed=5, conformant=True)
    return write_reading(phantom, tmp_path_factory.mktemp("reading"))


@pytest.fixture
def open_desk(written: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens services with that reading to send."""
    from answers import opening_desks

    with opening_desks(written, tmp_path) as open_one:
        yield open_one


@pytest.fixture
def department(conformant: Path, tmp_path: Path) -> Path:
    """The phantom's slices, a folder a study."""
    return sort_into_folders(conformant / "stage_2_train", tmp_path / "department")


def sort_into_folders(source: Path, out: Path) -> Path:
    for path in source.iterdir():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        folder = out / str(ds.StudyInstanceUID)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, folder / f"IM{ds.InstanceNumber:04d}")
    return out


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study for the network that finds squares, to be left as it is."""
    return copy_study(
        draw_once(tmp_path_factory, patients=1, seed=11, size=128, conformant=True),
        tmp_path_factory.mktemp("whole") / "study",
    )


@pytest.fixture
def study(whole_study: Path, tmp_path: Path) -> Path:
    """A study for the network that finds squares, its slices named in their order from below."""
    return Path(shutil.copytree(whole_study, tmp_path / "study"))


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemotePath]:
    """An empty folder in memory, at an address; the indexes of such folders are in a cache of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = f"/{uuid.uuid4().hex}"
    yield RemotePath(f"memory:/{name}")
    system = fsspec.filesystem("memory")
    if system.exists(name):
        system.rm(name, recursive=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def pytest_collection_finish() -> None:
    """What was imported stays to the end: the collector of garbage need not look at it again and again."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Notes how a process of pytest-xdist ended, if it was not told to."""
    if error:
        code = node.gateway._io.popen.wait(60)
        ENDED.append(f"{node.gateway.id} ended with {code} (negative: by this signal)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in ENDED:
        terminalreporter.write_line(line)
