"""Reads studies with the models. Only this part of the service imports PyTorch.

``reader`` takes studies from the queue, by the ``priority`` in their header. ``study`` reads the files of
one, and ``files`` writes what was found. ``shadow`` reads again with a second model, for the log.
"""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from ich.predict import Predictor
from ich.schema import UserError
from ich.serve.reading.reader import Reader
from ich.serve.reading.shadow import Shadow
from ich.serve.settings import Settings
from ich.serve.settings.parts import Read
from ich.serve.stopping import Stop, stop_on
from ich.serve.store import Store, open_store
from ich.serve.store.readers import add_reader, note_beat, remove_reader

POLL = 0.5
"""Seconds between two looks at an empty queue."""

PAUSE = 5.0
"""Seconds before another try if the disk or the database failed."""

BEAT = 20.0
"""Seconds between two signs of life."""

_log = logging.getLogger(__name__)


class _Reads(Protocol):
    def read_next(self) -> bool: ...

    def give_back(self) -> None: ...


def run(settings: Settings, identity: str) -> None:
    """Reads queued studies until SIGTERM comes; the study that is being read is finished first.

    Raises:
        UserError: If the model cannot be loaded.
    """
    store = open_store(settings.store)
    predictor = load_model(settings.bundle, settings.read, settings.read.engine)
    reader = Reader(settings, store, predictor, identity, time.time)
    _work(settings, reader, store, predictor, identity)


def run_shadow(settings: Settings, identity: str) -> None:
    """Reads with the shadow model what was read, until SIGTERM comes.

    Raises:
        UserError: If the model cannot be loaded.
    """
    assert settings.read.shadow is not None  # else nobody starts it
    store = open_store(settings.store)
    predictor = load_model(settings.read.shadow, settings.read)
    shadow = Shadow(settings, store, predictor, identity, time.time)
    _work(settings, shadow, store, predictor, identity, shadow=True)


def load_model(path: str, read: Read, engine: str | None = None) -> Predictor:
    """Loads a model as readers do.

    Args:
        path: File of the model.
        read: How studies are read.
        engine: File of its engine; the shadow model has none.

    Raises:
        UserError: If it is missing, damaged or not a model, there is no such GPU, or the engine does not fit.
    """
    return Predictor.load(Path(path), threads=read.threads, gpus=read.gpus, engine=engine)


def find_model_faults(settings: Settings) -> list[str]:
    """Says what is wrong with the models of the settings. It loads them, which takes seconds."""
    faults = []
    try:
        if not load_model(settings.bundle, settings.read, settings.read.engine).algorithm.rule:
            faults.append(
                f"bundle: {settings.bundle} has no operating point for a study, so each study would be "
                "INDETERMINATE; `ich recalibrate` fits one"
            )
    except (UserError, OSError) as error:
        faults.append(f"bundle: {error}")
    try:
        if settings.read.shadow is not None:
            load_model(settings.read.shadow, settings.read)
    except (UserError, OSError) as error:
        faults.append(f"read.shadow: {error}")
    return faults


def _work(
    settings: Settings,
    reader: _Reads,
    store: Store,
    predictor: Predictor,
    identity: str,
    *,
    shadow: bool = False,
) -> None:
    every = min(BEAT, settings.read.most_minutes * 60 / 4)
    stop = stop_on(signal.SIGTERM)
    beat = time.time()
    with store.begin() as connection:
        add_reader(connection, identity, predictor.algorithm.weights[0], beat, shadow=shadow)
    while not stop.is_set():
        try:
            if time.time() > beat + every:
                beat = time.time()
                with store.begin() as connection:
                    note_beat(connection, identity, beat)
            if not reader.read_next():
                stop.wait(POLL)
        except (OSError, SQLAlchemyError) as error:
            _log.warning("waits %g s after %s", PAUSE, type(error).__name__)
            _give_back(reader, stop)
    with store.begin() as connection:
        remove_reader(connection, identity)
    store.close()


def _give_back(reader: _Reads, stop: Stop) -> None:
    """Gives back what a reader holds, as soon as the database answers again."""
    while not stop.wait(PAUSE):
        try:
            return reader.give_back()
        except SQLAlchemyError:
            continue
    return None
