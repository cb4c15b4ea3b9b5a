"""A place in the service that one process at a time fills, and when it is filled again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ich.serve.settings import Settings
from ich.serve.supervisor.child import Child, Role, Spare
from ich.serve.supervisor.model import ModelFile

FIRST_DELAY, MOST_DELAY = 0.25, 3.0
"""Seconds before another start: none after the first failure, then the first of these, and twice as long each
time."""

STEADY = 30.0
"""A process that ran for so many seconds did not fail at its start."""


@dataclass
class Post:
    """A place that a process fills.

    Attributes:
        role: What its processes do.
        number: Number among the posts of the role.
        model: File of the model that they load; None for none.
        child: The process that fills it.
        successor: A process that takes over once it has loaded the new model.
        is_outdated: Whether the process has an older model than there is.
    """

    role: Role
    number: int
    model: ModelFile | None = None
    child: Child | None = None
    successor: Child | None = None
    is_outdated: bool = False
    _failures: int = field(default=0, init=False)
    _due: float = field(default=0.0, init=False)

    @property
    def children(self) -> list[Child]:
        """Its processes."""
        return [child for child in (self.child, self.successor) if child is not None]

    @property
    def is_due(self) -> bool:
        """Whether it is empty and another process may start."""
        return self.child is None and time.monotonic() >= self._due

    @property
    def needs_spare(self) -> bool:
        """Whether the next process takes the spare one."""
        return self.role.is_reader and self.successor is None

    def fill(self, settings: Settings, spare: Spare | None = None) -> Child:
        """Starts a process, which loads the newest model; a successor takes over if there is one."""
        self.child, self.successor = self.successor or Child(self.role, self.number, settings, spare), None
        self.is_outdated = False
        return self.child

    def replace(self) -> Child:
        """Puts the successor in the place of the process; returns the latter."""
        assert self.child is not None
        before, self.child, self.successor = self.child, self.successor, None
        self.is_outdated = False
        return before

    def vacate(self) -> None:
        """Notes that the process ended, and when another one may start."""
        assert self.child is not None
        lived = time.monotonic() - self.child.started
        self.child = None
        self._failures = 0 if lived >= STEADY else self._failures + 1
        delay = FIRST_DELAY * 2 ** (self._failures - 2) if self._failures > 1 else 0.0
        self._due = time.monotonic() + min(delay, MOST_DELAY)
