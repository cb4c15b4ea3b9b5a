"""Draws the archive while the training runs, which leaves most of a second core idle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path

from ich.phantom.archive import write_archive
from ich.progress import waiting
from ich.schema import UserError

_POLITE = 10  # niceness: the training has the cores first


@contextmanager
def drawing_ahead(archive: Path, numbers: Mapping[str, int]) -> Iterator[None]:
    """Draws an archive in a process of its own, and at the end waits for it.

    It is a head start only. If that process fails, ``write_archive`` says why at its next call.

    Args:
        archive: The folder of the archive.
        numbers: Arguments of ``write_archive``.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=_draw, args=(archive, dict(numbers)), daemon=True
    )
    process.start()
    try:
        yield
    except BaseException:  # also of Ctrl-C: no process is left behind, and no half an archive
        process.terminate()
        process.join()
        raise
    with waiting("Writing the archive"):
        process.join()


def _draw(archive: Path, numbers: Mapping[str, int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it comes to both processes, and the other one decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # after the files so far are removed
    os.nice(_POLITE)
    # The training has a bar of its own, and a second one would write into it.
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere), suppress(UserError):
        write_archive(archive, **numbers, processes=1)
