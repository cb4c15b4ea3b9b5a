"""A process of the service: how it begins, and how it ends when its supervisor is gone."""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import threading
import time
import warnings
from dataclasses import dataclass
from importlib import import_module

from ich.schema import UserError
from ich.serve.faults import describe_fault
from ich.serve.settings import Settings

GRACE = 8.0
"""Seconds that a process has to end by itself; `docker stop` gives ten."""

WRONG_SETTINGS = 2
"""Exit code of a process that cannot work with its settings."""

_CONTEXT = multiprocessing.get_context("spawn")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Role:
    """What a process does.

    Attributes:
        name: Begins the identities of its processes.
        module: Module of its function.
        function: The function, which gets the settings and the identity of its process.
        is_reader: Whether it loads a model and reads studies.
    """

    name: str
    module: str
    function: str = "run"
    is_reader: bool = False


class Child:
    """A running process.

    Args:
        role: What it does.
        number: Number among those of the role.
        settings: The settings of the service.

    Attributes:
        role: As given.
        identity: Names it in the database and the log.
        process: The process.
        started: When it began, by ``time.monotonic``.
        is_stopping: Whether it was told to end.
    """

    def __init__(self, role: Role, number: int, settings: Settings) -> None:
        self.role = role
        self.identity = f"{role.name}-{number}-{secrets.token_hex(4)}"
        self.started = time.monotonic()
        self.is_stopping = False
        arguments = (role, settings, self.identity, os.getpid())
        self.process = _CONTEXT.Process(target=enter, args=arguments, name=self.identity)
        self.process.start()

    def stop(self) -> None:
        """Tells it to end, and returns at once."""
        self.is_stopping = True
        self.process.terminate()

    def kill(self) -> None:
        """Ends it by force, because it hangs."""
        self.is_stopping = False
        self.process.kill()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self.process.exitcode is not None

    def describe_end(self) -> str:
        """Says how it ended."""
        code = self.process.exitcode or 0
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def enter(role: Role, settings: Settings, identity: str, parent: int) -> None:
    """Runs in the new process. It ends when the supervisor does.

    Args:
        role: What it does.
        settings: The settings of the service.
        identity: Its name.
        parent: Process ID of the supervisor.
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # from the terminal; the supervisor decides what follows
        signal.signal(number, signal.SIG_IGN)
    start_log(identity)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    code = _run(role, settings, identity)
    logging.shutdown()
    os._exit(code)  # Python takes seconds to take PyTorch apart, and the supervisor would end it by force


def _run(role: Role, settings: Settings, identity: str) -> int:
    try:
        getattr(import_module(role.module), role.function)(settings, identity)
    except UserError as error:
        _log.error("%s", error)
        return WRONG_SETTINGS
    except Exception as error:
        _log.error("ends by %s", describe_fault(error))
        return 1
    return 0


def start_log(identity: str) -> None:
    """Starts the log of a process, on standard error.

    Warnings of libraries may quote a header, so they are left out.
    """
    warnings.simplefilter("ignore")
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {identity}: %(message)s", level=logging.WARNING)
    logging.getLogger("ich").setLevel(logging.INFO)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
