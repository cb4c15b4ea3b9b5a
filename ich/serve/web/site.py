"""What all pages need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ich.serve.inbox import Inbox
from ich.serve.settings import Settings
from ich.serve.store import Store
from ich.serve.web.access import Access
from ich.serve.web.findings import Findings
from ich.serve.web.identities import Identities
from ich.serve.web.pages import Pages


@dataclass(frozen=True)
class Site:
    """What all pages need.

    Attributes:
        settings: The settings of the service.
        store: The database.
        now: Returns the time, seconds since 1970.
        access: Finds out who asks.
        pages: The templates.
        findings: What readings found.
        inbox: The objects that were received.
        identities: PatientID and StudyDate of studies; None if pages must not show them.
    """

    settings: Settings
    store: Store
    now: Callable[[], float]
    access: Access
    pages: Pages
    findings: Findings
    inbox: Inbox
    identities: Identities | None
