"""Opens a page in the browser, where somebody looks."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path


def has_display(environment: Mapping[str, str], system: str) -> bool:
    """Whether a browser can show a window: not in CI, and not where a remote shell or a server has no screen.

    Args:
        environment: The variables of the process.
        system: The system, as in ``sys.platform``.
    """
    if environment.get("CI"):
        return False
    if system == "darwin":
        return not environment.get("SSH_CONNECTION")
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def open_page(page: Path) -> bool:
    """Opens a page if there is a display; returns whether a browser took it."""
    if not has_display(os.environ, sys.platform):
        return False
    try:
        return webbrowser.open(page.resolve().as_uri())
    except webbrowser.Error:
        return False
