"""Watches the service: queues what is complete, looks for drift and stalls, and deletes old pixels.

loop        the process, and what it does how often
health      `/health`, `/ready` and `/metrics`
metrics     the page for Prometheus
stalls      what does not move although it should
drift       tests of the newest readings against a reference
references  what the reference is; samples takes readings from the database
alarms      begin, end, and are posted
retention   deletes the pixels of old studies
audit       the audit log as lines of JSON
"""

from __future__ import annotations

from ich.schema import UserError
from ich.serve.settings import Settings
from ich.serve.upkeep.health import make_router as make_router
from ich.serve.upkeep.health import read_networks


def run(settings: Settings, identity: str) -> None:
    """Works until SIGTERM; see ``ich.serve.upkeep.loop``.

    Args:
        settings: The settings of the service.
        identity: Name of this process in logs.

    Raises:
        UserError: If the database cannot be opened.
    """
    from ich.serve.upkeep.loop import work  # SciPy, which the process of the pages does not need

    work(settings, identity)


def check(settings: Settings) -> None:
    """Checks what can be wrong with the settings of watching.

    Raises:
        UserError: If an address of ``upkeep.metrics_from`` is not one, ``upkeep.alarm_url`` is not a URL, or
            its secret cannot be read.
    """
    read_networks(settings.upkeep.metrics_from)
    if (url := settings.upkeep.alarm_url) is not None and not url.startswith(("http://", "https://")):
        raise UserError(f"upkeep.alarm_url={url}: expected a URL that begins with http:// or https://")
    if (path := settings.upkeep.alarm_secret_file) is not None:
        from ich.serve.sending.webhook import read_key  # pydicom, which a check needs and the pages do not

        read_key(path, "upkeep.alarm_secret_file")
