"""Prepares the study that is probably read next, while the network reads another."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from ich.predict.reading import Reading
from ich.serve.store.studies import Content


class Ahead:
    """Prepares one study in a thread. The study stays in the queue, so whoever takes it gets it whole.

    Args:
        prepare: Reads and checks the pixels of a study.
    """

    def __init__(self, prepare: Callable[[Content], Reading]) -> None:
        self._prepare = prepare
        self._pool = ThreadPoolExecutor(1, "ahead")
        self._begun: tuple[Content, Future[Reading]] | None = None

    def begin(self, content: Content) -> None:
        """Begins to prepare a study, unless that was begun before. An earlier one is dropped."""
        if self._begun is None or self._begun[0] != content:
            self._begun = content, self._pool.submit(self._prepare, content)

    def take(self, content: Content) -> Reading:
        """Returns a study whose pixels were read, before or now.

        Raises:
            Exception: As ``prepare`` does.
        """
        if self._begun is None or self._begun[0] != content:
            return self._prepare(content)
        (_, future), self._begun = self._begun, None
        return future.result()
