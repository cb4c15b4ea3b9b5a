"""The command line as the tests call it."""

from __future__ import annotations

import sys
from unittest import mock

import ich.cli


def call(*arguments: str) -> int:
    """Runs ``ich`` in this process; returns its exit code."""
    with mock.patch.object(sys, "argv", ["ich", *arguments]):
        try:
            ich.cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0
