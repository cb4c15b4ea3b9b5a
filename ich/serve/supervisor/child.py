"""A process of the service: how it begins, and how it ends when its supervisor is gone.

A reader starts slowly, because PyTorch takes seconds to import. A ``Spare`` has done so and waits.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import signal
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from sqlalchemy.exc import SQLAlchemyError

from ich.files import permitting
from ich.log import describe_fault, start_log
from ich.schema import UserError
from ich.schema.exits import ExitCode
from ich.serve.settings import Settings
from ich.serve.store import open_store
from ich.serve.store.readers import remove_reader
from ich.serve.store.studies import release_reader

GRACE = 8.0
"""Seconds that a process has to end by itself; `docker stop` gives ten."""

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
        spare: A process that becomes the new one; None starts one.

    Attributes:
        role: As given.
        identity: Names it in the database and the log.
        process: The process.
        started: When it began, by ``time.monotonic``.
        is_stopping: Whether it was told to end.
    """

    def __init__(self, role: Role, number: int, settings: Settings, spare: Spare | None = None) -> None:
        self.role = role
        self.identity = f"{role.name}-{number}-{secrets.token_hex(4)}"
        self.started = time.monotonic()
        self.is_stopping = False
        self.process = (spare or Spare(settings)).begin(role, self.identity)

    def stop(self) -> None:
        """Tells it to end, and returns at once."""
        self.is_stopping = self.is_stopping or not self.has_ended
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


class Spare:
    """A process without a role. It may import the modules of one, and waits for it.

    Args:
        settings: The settings of the service.
        module: What it imports at once; None for nothing.
    """

    def __init__(self, settings: Settings, module: str | None = None) -> None:
        theirs, self._ours = _CONTEXT.Pipe(duplex=False)
        self.process = _CONTEXT.Process(target=enter, args=(theirs, module, settings, os.getpid()))
        self.process.start()
        theirs.close()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self.process.exitcode is not None

    def begin(self, role: Role, identity: str) -> BaseProcess:
        """Gives it a role, which it begins once it has imported its module; returns the process."""
        with suppress(OSError), self._ours:  # if it has ended, its supervisor sees that
            self._ours.send((role, identity))
        return self.process

    def end(self) -> None:
        """Ends it."""
        self._ours.close()
        self.process.kill()
        self.process.join()


def enter(orders: Connection, module: str | None, settings: Settings, parent: int) -> None:
    """Runs in the new process. It ends when the supervisor does.

    Args:
        orders: Where its role and its name come from.
        module: What it imports before it waits for them.
        settings: The settings of the service.
        parent: Process ID of the supervisor.
    """
    for number in (signal.SIGINT, signal.SIGHUP):  # from the terminal; the supervisor decides what follows
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # those of libraries may quote a header
    if module is not None:
        with suppress(Exception):  # what fails here fails again in the role, which logs it
            import_module(module)
    try:
        role, identity = orders.recv()
    except EOFError:
        os._exit(ExitCode.DONE)
    threading.Thread(target=_end_with, args=(parent, role, settings, identity), daemon=True).start()
    start_log(identity, settings.log)
    code = _run(role, settings, identity)
    logging.shutdown()
    os._exit(code)  # Python takes seconds to take PyTorch apart, and the supervisor would end it by force


def _run(role: Role, settings: Settings, identity: str) -> int:
    try:
        with permitting(settings.mode):
            getattr(import_module(role.module), role.function)(settings, identity)
    except UserError as error:
        _log.error("%s", error)
        return ExitCode.WRONG
    except Exception as error:
        _log.error("ends by %s", describe_fault(error))
        return ExitCode.DEFECT
    return ExitCode.DONE


def _end_with(parent: int, role: Role, settings: Settings, identity: str) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    if role.is_reader:
        give_back(settings, identity)
    os._exit(ExitCode.DEFECT)


def give_back(settings: Settings, identity: str) -> None:
    """Puts the study that a reader holds back into the queue. The study did not end the reader.

    Args:
        settings: The settings of the service.
        identity: The reader.
    """
    most = settings.read.most_kills
    try:
        store = open_store(settings.store)
        with store.begin() as connection:
            release_reader(connection, identity, time.time(), most_kills=most, is_blamed=False)
            remove_reader(connection, identity)
    except (UserError, SQLAlchemyError) as error:
        _log.warning("the database does not answer: %s", type(error).__name__)
