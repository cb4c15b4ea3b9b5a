"""Takes queued studies, one at a time, reads them and saves what was found.

The next one is prepared meanwhile.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from ich.log import describe_fault
from ich.predict import Predictor
from ich.predict.reading import Reading as PreparedStudy
from ich.serve.inbox import Inbox
from ich.serve.reading.ahead import Ahead
from ich.serve.reading.files import remove_left, write_files
from ich.serve.reading.priority import read_priority
from ich.serve.reading.study import Made, NotReadError, make_result, prepare_study
from ich.serve.results import ResultFiles
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.readings import list_folders
from ich.serve.store.sends import queue_sends
from ich.serve.store.studies import (
    Claim,
    Content,
    Reading,
    claim_study,
    find_next,
    finish_study,
    has_queued,
    list_unranked,
    release_reader,
    set_aside,
    set_priority,
)

_log = logging.getLogger(__name__)


class Reader:
    """Reads queued studies with one model.

    Args:
        settings: The settings of the service.
        store: The database.
        predictor: The model.
        identity: Names the process.
        clock: Gives the time.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        predictor: Predictor,
        identity: str,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._store = store
        self._predictor = predictor
        self._identity = identity
        self._clock = clock
        self._inbox = Inbox(settings.inbox)
        self._ahead = Ahead(self._prepare)

    def read_next(self) -> bool:
        """Reads the next study; returns whether there was one.

        A study whose reading fails for another reason counts as if it had ended the reader.

        Raises:
            OSError: If files cannot be written, such as on a full disk. The reader still holds the study.
            SQLAlchemyError: If the database does not answer. The reader may still hold the study.
        """
        self._rank()
        claim, folders = self._claim()
        if claim is None:
            return False
        started = self._clock()
        earlier = ResultFiles(self._settings.results / folders[-1]) if folders else None
        files = ResultFiles(self._settings.results / claim.token / f"{claim.number:06d}")
        remove_left(self._settings.results, claim.token, folders)
        try:
            reading = self._ahead.take(claim.content)
            self._look_ahead(claim)
            made = make_result(reading, self._predictor, claim.number)
            write_files(made, self._predictor.explainable, files, earlier)
            self._save(claim, made, files, started)
        except NotReadError as error:
            with self._store.begin() as connection:
                set_aside(connection, claim, str(error), self._clock())
        except (OSError, SQLAlchemyError):
            raise
        except Exception as error:
            # Its own message, which a traceback shows, may quote a header.
            fault = describe_fault(error)
            _log.error("study %s could not be read: %s", claim.token, fault, extra={"study": claim.token})
            self.give_back(is_blamed=True)
        return True

    def give_back(self, *, is_blamed: bool = False) -> None:
        """Puts the study that this reader holds back into the queue, if it holds one.

        Args:
            is_blamed: Whether the reading failed by the study's fault.
        """
        with self._store.begin() as connection:
            release_reader(
                connection,
                self._identity,
                self._clock(),
                most_kills=self._settings.read.most_kills,
                is_blamed=is_blamed,
            )

    def _prepare(self, content: Content) -> PreparedStudy:
        return prepare_study(content, self._inbox, self._predictor, self._settings.rules.words)

    def _look_ahead(self, claim: Claim) -> None:
        """Begins to prepare the next study while this one is read.

        If the process ends meanwhile, this study gets the blame for both. So none is prepared where that
        would set it aside, and a study that may have ended a reader is read alone. With several readers they
        would all prepare the same study.
        """
        read = self._settings.read
        if claim.kills or read.most_kills == 1 or read.workers > 1:
            return
        with self._store.view() as connection:
            content = find_next(connection)
        if content is not None:
            self._ahead.begin(content)

    def _rank(self) -> None:
        """Looks up the priority of each queued study that is new."""
        with self._store.view() as connection:
            unranked = list_unranked(connection)
        if unranked:
            found = {study: read_priority(self._inbox.locate(path)) for study, path in unranked.items()}
            with self._store.begin() as connection:
                for study, priority in found.items():
                    set_priority(connection, study, priority)

    def _claim(self) -> tuple[Claim | None, list[str]]:
        """Claims a study; returns the folders of its earlier readings too."""
        with self._store.view() as connection:
            if not has_queued(connection):
                return None, []
        with self._store.begin() as connection:
            claim = claim_study(connection, self._identity, self._clock())
            return claim, [] if claim is None else list_folders(connection, claim.study)

    def _save(self, claim: Claim, made: Made, files: ResultFiles, started: float) -> None:
        """Saves a reading, unless the study was given to another reader meanwhile."""
        with self._store.begin() as connection:
            now = self._clock()
            folder = files.folder.relative_to(self._settings.results).as_posix()
            reading = make_reading(made, self._predictor, folder, started)
            number = finish_study(connection, claim, reading, now)
            if number is not None:
                queue_sends(connection, self._settings.send, number, reading.outcome, now)
                detail = f"{reading.outcome} in {now - started:.1f} s by {reading.model[:12]}"
                add_event(connection, now, self._identity, EventKind.READ, study=claim.token, detail=detail)
                return
        shutil.rmtree(files.folder, ignore_errors=True)


def make_reading(
    made: Made, predictor: Predictor, folder: str, started: float, *, shadow: bool = False
) -> Reading:
    """Makes the row of a reading."""
    result = made.result
    return Reading(
        model=predictor.algorithm.weights[0],
        number=result.number,
        folder=folder,
        started_at=started,
        outcome=str(result.outcome or ""),
        prob=None if result.decides is None else result.labels[result.decides].prob,
        distance=result.distance,
        shadow=shadow,
        distance_limit=result.distance_limit,
    )
