"""Handles the signals that stop a run: SIGINT (Ctrl-C), SIGTERM and SIGUSR1."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from ich.schema.exits import find_signal_code

log = logging.getLogger(__name__)

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that stop a run; it exits with 128 and the signal's number: 130, 143 and, on Linux, 138."""


def catch_stops(handle: Callable[[int], Any]) -> None:
    """Calls ``handle`` with the signal's number if one of ``STOPS`` arrives; for the main thread only."""

    def call(signum: int, _: FrameType | None) -> None:
        handle(signum)

    if threading.current_thread() is threading.main_thread():
        for stop in STOPS:
            signal.signal(stop, call)


class handling_stops:  # noqa: N801 - a context, as those of contextlib
    """Runs ``catch_stops`` for a while, and then restores the earlier handlers.

    It is a class, because Python ends the generator of an abandoned context when it collects it. The handlers
    of a run that broke off would then take the place of those of a run that is under way.

    Args:
        handle: Called with the signal's number.
    """

    def __init__(self, handle: Callable[[int], Any]) -> None:
        self._handle = handle

    def __enter__(self) -> None:
        """Handles the signals."""
        self._before = {stop: signal.getsignal(stop) for stop in STOPS}
        catch_stops(self._handle)

    def __exit__(self, *_: object) -> None:
        """Restores the earlier handlers."""
        if threading.current_thread() is threading.main_thread():
            for stop, handler in self._before.items():
                signal.signal(stop, handler)


def exit_at_once(signum: int) -> None:
    """Ends the process if there is nothing to save."""
    raise SystemExit(find_signal_code(signum))


def is_requeued() -> bool:
    """Whether SLURM has started this job before."""
    return SLURMEnvironment.detect() and int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def requeue() -> None:
    """Puts a job of SLURM back into the queue, as Lightning does; elsewhere it does nothing."""
    if not SLURMEnvironment.detect() or (job := os.environ.get("SLURM_JOB_ID")) is None:
        return
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.error("SLURM job %s could not be put back into the queue: %s", job, error)  # noqa: TRY400 - no news in a traceback
    else:
        log.info("SLURM job %s is back in the queue", job)
