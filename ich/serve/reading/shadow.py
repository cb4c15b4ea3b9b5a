"""Reads with a second model what the first one has read, for the log only."""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from ich.log import describe_fault
from ich.predict import Predictor
from ich.schema.shares import show_prob
from ich.serve.inbox import Inbox
from ich.serve.reading.reader import make_reading
from ich.serve.reading.study import NotReadError, make_result, prepare_study
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.store.events import EventKind, add_event
from ich.serve.store.readings import claim_for_shadow, find_newest
from ich.serve.store.studies import Claim, finish_study

_log = logging.getLogger(__name__)


class Shadow:
    """Reads each study after its reading. No file is written, and nothing is sent.

    It begins with what is read after it was made. It therefore does not try a study again that ended it.

    Args:
        settings: The settings of the service.
        store: The database.
        predictor: The second model.
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
        with store.view() as connection:
            self._last = find_newest(connection)

    def read_next(self) -> bool:
        """Reads the study of the next reading; returns whether there was one."""
        with self._store.view() as connection:
            if find_newest(connection) <= self._last:
                return False
        started = self._clock()
        with self._store.begin() as connection:
            found = claim_for_shadow(connection, self._identity, self._last, started)
        if found is None:
            return False
        self._last, claim = found
        if claim is not None:
            self._read(claim, started)
        return True

    def give_back(self) -> None:
        """Gives back nothing: a shadow holds no study."""

    def _read(self, claim: Claim, started: float) -> None:
        try:
            words = self._settings.rules.words
            prepared = prepare_study(claim.content, self._inbox, self._predictor, words)
            made = make_result(prepared, self._predictor, claim.number)
        except (OSError, SQLAlchemyError):
            raise
        except NotReadError as error:
            said = "study %s was not read by the shadow: %s"
            _log.warning(said, claim.token, error, extra={"study": claim.token})
            return
        except Exception as error:
            # Its own message, which a traceback shows, may quote a header.
            fault = describe_fault(error)
            _log.error("study %s could not be read: %s", claim.token, fault, extra={"study": claim.token})
            return
        now = self._clock()
        reading = make_reading(made, self._predictor, "", started, shadow=True)
        prob = "" if reading.prob is None else f" with {show_prob(reading.prob, 3)}"
        detail = f"{reading.outcome}{prob} in {now - started:.1f} s by {reading.model[:12]}"
        with self._store.begin() as connection:
            finish_study(connection, claim, reading, now)
            add_event(connection, now, self._identity, EventKind.SHADOW, study=claim.token, detail=detail)
