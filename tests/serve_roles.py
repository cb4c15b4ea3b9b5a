"""A supervisor as a process, with roles that need no PyTorch; tests kill it and its processes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ich.log import start_log
from ich.schema import UserError
from ich.serve.settings import Settings, read_settings
from ich.serve.store import Store, open_store
from ich.serve.store.readers import add_reader, note_beat
from ich.serve.store.studies import Reading, claim_study, finish_study
from ich.serve.supervisor import ROLES, Supervisor, holding
from ich.serve.supervisor.child import Role

HOLD = "hold"
"""A file in the folder of the service for whose end ``pretend`` waits."""

READERS = ("load", "hang", "die", "pretend")

LIMIT = 240.0
"""Seconds that anything may take on a machine that does much else."""


def work(settings: Settings, identity: str) -> None:
    """Works until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()


def touch(settings: Settings, identity: str) -> None:
    """Writes a file, and works until SIGTERM."""
    Path(settings.folder, "touched").touch()
    work(settings, identity)


def fail(settings: Settings, identity: str) -> None:
    """Cannot begin, for a reason that names a patient."""
    raise ValueError("SECRET^PATIENT")


def load(settings: Settings, identity: str) -> None:
    """A reader that loads its model and then works."""
    _load(settings, identity)
    work(settings, identity)


def hang(settings: Settings, identity: str) -> None:
    """A reader that took a study and has said nothing since long ago."""
    store, _ = _load(settings, identity)
    with store.begin() as connection:
        claim_study(connection, identity, time.time())
        note_beat(connection, identity, 0.0)
    work(settings, identity)


def die(settings: Settings, identity: str) -> None:
    """A reader that its study ends."""
    store, _ = _load(settings, identity)
    with store.begin() as connection:
        claim = claim_study(connection, identity, time.time())
    if claim is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    work(settings, identity)


def pretend(settings: Settings, identity: str) -> None:
    """A reader that needs no network. It keeps a study as long as there is the file ``HOLD``."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    store, model = _load(settings, identity)
    while not stop.wait(0.02):
        with store.begin() as connection:
            claim = claim_study(connection, identity, time.time())
        if claim is None:
            continue
        while Path(settings.folder, HOLD).exists():
            time.sleep(0.02)
        made = Reading(model, claim.number, f"{claim.token}/{claim.number}", 0.0, "NEGATIVE", 0.1, None)
        with store.begin() as connection:
            finish_study(connection, claim, made, time.time())


def _load(settings: Settings, identity: str) -> tuple[Store, str]:
    """Loads a model, whose file holds nothing if it is broken; returns the database and the model's hash."""
    content = Path(settings.bundle).read_bytes()
    if not content:
        raise UserError("the model is broken")
    store, model = open_store(settings.store), hashlib.sha256(content).hexdigest()
    with store.begin() as connection:
        add_reader(connection, identity, model, time.time())
    return store, model


@contextmanager
def supervising(config: Path, *roles: str) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a supervisor with these settings.

    Args:
        config: File of the settings.
        *roles: Names of the functions here or of roles of the service.
    """
    command = [sys.executable, __file__, str(config), *roles]
    with (config.parent / "log").open("ab") as log:
        process = subprocess.Popen(command, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(LIMIT)


def wait_until(condition: Callable[[], object]) -> None:
    """Waits until something is so."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def _find_role(name: str) -> Role:
    known = {role.name: role for role in ROLES}
    if name in known:
        return known[name]
    return Role("read" if name in READERS else name, "serve_roles", name, name not in ("work", "touch"))


if __name__ == "__main__":
    settings = read_settings(Path(sys.argv[1]))
    start_log("supervisor", settings.log)
    with holding(settings):
        Supervisor(settings, open_store(settings.store), [_find_role(name) for name in sys.argv[2:]]).run()
