"""Runs the service: a process for each of its roles, started again when it ends.

``child`` is such a process, and ``posts`` the places that processes fill. ``model`` notices that the file of
a model was exchanged.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ich.files import open_locked
from ich.schema import UserError
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.readers import list_lost, list_ready, remove_reader
from ich.serve.store.sends import release_sender
from ich.serve.store.studies import release_reader
from ich.serve.supervisor.child import GRACE, Child, Role, Spare
from ich.serve.supervisor.model import ModelFile
from ich.serve.supervisor.posts import Post

ROLES = (
    Role("receive", "ich.serve.receive"),
    Role("read", "ich.serve.reading", is_reader=True),
    Role("shadow", "ich.serve.reading", "run_shadow", is_reader=True),
    Role("send", "ich.serve.sending"),
    Role("web", "ich.serve.web"),
    Role("upkeep", "ich.serve.upkeep"),
)
"""What the service does, each in processes of its own."""

STEP = 0.2
"""Longest time in seconds between two looks at the processes; the end of one is seen at once."""

LOOK = 1.0
"""Seconds between two looks at the files of models and at the readers' signs of life."""

SPARE_PAUSE = 60.0
"""Seconds without a spare process after one that ended by itself, such as for lack of memory."""

LOCK = "lock"
"""File in the folder of the service that a supervisor holds as long as it runs."""

_ACTOR = "supervisor"
_log = logging.getLogger(__name__)


class Supervisor:
    """Keeps the processes of the service running until SIGTERM or SIGINT comes.

    After SIGHUP, or when the file of a model was exchanged, readers with the new model start one after the
    other. Each takes over when it has loaded the model, and the one before it finishes its study. If the new
    model cannot be loaded, the readers keep the old one.

    Args:
        settings: The settings of the service.
        store: The database.
        roles: What to run.
    """

    def __init__(self, settings: Settings, store: Store, roles: Sequence[Role] = ROLES) -> None:
        self._settings = settings
        self._store = store
        self._models, self._posts = _make_posts(settings, roles)
        self._retired: list[Child] = []
        self._spare: Spare | None = None
        self._spare_due = 0.0
        self._notes: list[Callable[[Connection], object]] = []  # what the database has to learn
        self._looked = 0.0
        self._must_stop = self._must_exchange = False

    def run(self) -> None:
        """Runs the service."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_stop)
        signal.signal(signal.SIGHUP, self._note_exchange)
        # Nobody else reads from a queue in a file, so what earlier readers held is free.
        self._release_lost(math.inf if self._settings.queue is None else time.time() - self._most_silent)
        try:
            while not self._must_stop:
                self._step()
                wait([child.process.sentinel for child in self._children], STEP)
        finally:
            self._stop_all()

    def _note_stop(self, *_: object) -> None:
        self._must_stop = True

    def _note_exchange(self, *_: object) -> None:
        self._must_exchange = True

    @property
    def _children(self) -> list[Child]:
        return [*self._retired, *(child for post in self._posts for child in post.children)]

    @property
    def _most_silent(self) -> float:
        return self._settings.read.most_minutes * 60

    def _step(self) -> None:
        for post in self._posts:
            self._collect(post)
        for child in [child for child in self._retired if child.has_ended]:
            self._retired.remove(child)
            self._note_end(child)
        for post in self._posts:
            if post.is_due:
                self._note_start(post.fill(self._settings, self._take_spare() if post.needs_spare else None))
        try:
            self._tell()
            if time.monotonic() >= self._looked + LOOK:
                self._looked = time.monotonic()
                self._look_at_models()
                self._look_at_readers()
        except SQLAlchemyError as error:  # such as a database that is locked; what is to be told is kept
            _log.warning("the database does not answer: %s", type(error).__name__)

    def _collect(self, post: Post) -> None:
        """Notes which processes of a post have ended."""
        if post.child is not None and post.child.has_ended:
            self._note_end(post.child)
            post.vacate()
        if post.successor is not None and post.successor.has_ended:
            self._note_end(post.successor)
            post.successor = None
            self._note_model("a reader could not start with the new model; the others keep the old one")
            for other in self._posts:
                other.is_outdated = other.is_outdated and other.model is not post.model

    def _look_at_models(self) -> None:
        """Notices models that were exchanged, and starts a reader with the new model if it is time."""
        for model in self._models:
            if model.has_changed() or self._must_exchange:
                self._note_model(f"readers start with {model.digest[:12] or 'the model in the folder'}")
                for post in self._posts:
                    post.is_outdated = post.is_outdated or post.model is model
        self._must_exchange = False
        successors = [post for post in self._posts if post.successor is not None]
        outdated = [post for post in self._posts if post.is_outdated and post.child is not None]
        if outdated and not successors:
            post = outdated[0]
            post.successor = Child(post.role, post.number, self._settings, self._take_spare())
            self._note_start(post.successor)

    def _look_at_readers(self) -> None:
        """Lets successors that are ready take over, and ends readers that are silent for too long."""
        with self._store.view() as connection:
            ready = list_ready(connection)
        for post in self._posts:
            if post.successor is not None and post.successor.identity in ready:
                before = post.replace()
                before.stop()
                self._retired.append(before)
        now, clock = time.time(), time.monotonic()
        for child in self._children:
            if not child.role.is_reader or child.has_ended:
                continue
            heard = ready.get(child.identity)
            silent = clock - child.started if heard is None else now - heard
            if silent > self._most_silent:
                _log.warning("%s gave no sign of life for %.0f s", child.identity, silent)
                child.kill()
        self._release_lost(now - self._most_silent)
        self._keep_spare(ready)

    def _keep_spare(self, ready: Collection[str]) -> None:
        """Starts a spare process if there is none. Readers that still load have the processor first."""
        now = time.monotonic()
        if self._spare is not None and self._spare.has_ended:
            self._spare, self._spare_due = None, now + SPARE_PAUSE
        readers = [post for post in self._posts if post.role.is_reader]
        is_quiet = all(post.child is not None and post.child.identity in ready for post in readers)
        is_due = self._settings.read.spare and now >= self._spare_due
        if is_due and readers and is_quiet and self._spare is None:
            self._spare = Spare(self._settings, readers[0].role.module)

    def _take_spare(self) -> Spare | None:
        """Takes the spare process out of its place, if there is one."""
        spare, self._spare = self._spare, None
        return spare

    def _release_lost(self, since: float) -> None:
        """Gives back what readers held that are gone or silent, also those of other machines."""
        with self._store.view() as connection:
            lost = set(list_lost(connection, since)) - {child.identity for child in self._children}
        for identity in lost:
            _log.warning("%s is gone; what it held is queued again", identity)
            self._notes.append(partial(self._release, identity=identity, is_blamed=True))

    def _release(self, connection: Connection, *, identity: str, is_blamed: bool) -> None:
        most = self._settings.read.most_kills
        release_reader(connection, identity, time.time(), most_kills=most, is_blamed=is_blamed)
        remove_reader(connection, identity)

    def _note_start(self, child: Child) -> None:
        _log.info("%s started as process %s", child.identity, child.process.pid)
        now = time.time()
        self._notes.append(lambda connection: add_event(connection, now, child.identity, EventKind.STARTED))

    def _note_end(self, child: Child) -> None:
        how = child.describe_end()
        _log.log(logging.INFO if child.is_stopping else logging.WARNING, "%s %s", child.identity, how)
        now = time.time()

        def note(connection: Connection) -> None:
            if child.role.is_reader:
                self._release(connection, identity=child.identity, is_blamed=not child.is_stopping)
            release_sender(connection, child.identity, now)
            add_event(connection, now, child.identity, EventKind.ENDED, detail=how)

        self._notes.append(note)

    def _note_model(self, what: str) -> None:
        _log.info("model: %s", what)
        now = time.time()
        self._notes.append(
            lambda connection: add_event(connection, now, _ACTOR, EventKind.MODEL, detail=what)
        )

    def _tell(self) -> None:
        """Tells the database what happened."""
        if self._notes:
            with self._store.begin() as connection:
                for note in self._notes:
                    note(connection)
            self._notes.clear()

    def _stop_all(self) -> None:
        """Ends all processes within ``GRACE`` seconds and what it takes to kill the rest."""
        children = self._children
        for child in children:
            child.stop()
        if spare := self._take_spare():
            spare.end()
        end = time.monotonic() + GRACE
        for child in children:
            child.process.join(max(0.0, end - time.monotonic()))
            if not child.has_ended:
                child.process.kill()
                child.process.join()
            self._note_end(child)
        try:
            self._tell()
        except SQLAlchemyError as error:  # the next start releases what is held
            _log.warning("the database does not answer: %s", type(error).__name__)


@contextmanager
def holding(settings: Settings) -> Iterator[None]:
    """Keeps other services off the folder while this one runs.

    A queue in PostgreSQL may have several services on one folder, each on a machine of its own.

    Raises:
        UserError: If another service holds it, or it cannot be written.
    """
    if settings.queue is not None:
        yield
        return
    folder = Path(settings.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_locked(folder / LOCK)
    except BlockingIOError as error:
        raise UserError(
            f"folder={folder}: another ich serve runs there; stop it, or name another folder"
        ) from error
    except OSError as error:
        raise UserError(f"folder={folder} cannot be written: {error.strerror}") from error
    with file:
        yield


def _make_posts(settings: Settings, roles: Sequence[Role]) -> tuple[list[ModelFile], list[Post]]:
    """Makes the posts of the roles, with the files of the models that they load."""
    model = ModelFile(settings.bundle)
    shadow = None if settings.read.shadow is None else ModelFile(settings.read.shadow)
    posts = []
    for role in roles:
        if role.name == "read":
            posts += [Post(role, number, model) for number in range(1, settings.read.workers + 1)]
        elif role.name == "shadow":
            posts += [] if shadow is None else [Post(role, 1, shadow)]
        else:
            posts.append(Post(role, 1))
    return [each for each in (model, shadow) if each is not None], posts
