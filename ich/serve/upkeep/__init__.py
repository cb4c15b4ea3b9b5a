"""Watches the service: queues what is complete, looks for drift and stalls, and deletes old pixels.

loop        the process, and what it does how often
health      `/health`, `/ready` and `/metrics`
stalls      what does not move although it should
"""

from __future__ import annotations

import logging

from ich.serve.settings import Settings
from ich.serve.upkeep.health import make_router as make_router

_LOG = logging.getLogger(__name__)


def run(settings: Settings, identity: str) -> None:
    """Works until SIGTERM; see ``ich.serve.upkeep.loop``.

    Args:
        settings: The settings of the service.
        identity: Name of this process in logs.

    Raises:
        UserError: If the database cannot be opened.
    """
    from ich.serve.upkeep.loop import work  # SciPy, which the process of the pages does not need

    _LOG.info("%s begins", identity)
    work(settings)
