"""States of studies and of sends, verdicts and roles: words that the database and the pages share."""

from __future__ import annotations

from enum import StrEnum


class StudyState(StrEnum):
    """Where a study is."""

    RECEIVING = "receiving"  # more objects may come
    QUEUED = "queued"  # complete, waits for a reader
    READING = "reading"
    READ = "read"
    SET_ASIDE = "set aside"  # not read, for a reason


class SendState(StrEnum):
    """Where an answer to a node is."""

    WAITING = "waiting"  # not sent yet, or sent in vain
    SENT = "sent"  # the node took it; it has not said that it keeps it
    CONFIRMED = "confirmed"  # the node keeps it, or takes no such question
    FAILED = "failed"  # given up, as configured
    SUPERSEDED = "superseded"  # a newer reading came before it was sent


class Verdict(StrEnum):
    """What a person says of a result."""

    ACCEPT = "accept"
    REJECT = "reject"
    CORRECT = "correct"


class Role(StrEnum):
    """What an account may do; each may do what those before it may."""

    VIEW = "view"
    JUDGE = "judge"
    ADMINISTER = "administer"
