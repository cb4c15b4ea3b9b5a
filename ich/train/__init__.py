"""The command line of a training; ``ich.train.jobs`` is what it starts."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from ich.progress.printing import printing
from ich.schema.exits import ExitCode

__all__ = ["main"]

# Read when torch is imported: threads that wait for each other by spinning take the cores from the threads
# that read slices, which made a step four times slower on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

log = logging.getLogger("ich")


def find_conf() -> Path:
    """Finds the folder ``conf``: beside the package in a checkout, or inside an installed package."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def start_log() -> None:
    """Shows the messages of this package on the terminal, in the command or in a process of its launcher."""
    if not log.handlers:
        log.setLevel(logging.INFO)
        log.addHandler(RichHandler(show_path=False, console=Console(stderr=True)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a training, or with ``-m`` several, from ``key=value`` arguments.

    Args:
        arguments: The arguments; None takes those of the program.

    Raises:
        SystemExit: For a wrong argument, after a message, or if a signal ends the training.
    """
    program = sys.argv
    if arguments is not None:  # Hydra reads them there
        sys.argv = ["ich train", *arguments]
    try:
        _run()
    finally:
        sys.argv = program


def _run() -> None:
    # Hydra, and below it PyTorch and Lightning, take seconds to import. A help needs the first only.
    from ich.train.command import HELP, answer_help, reading_arguments

    log.setLevel(logging.INFO)
    start_log()
    conf = find_conf()
    with printing(), reading_arguments(conf) as given:
        if not set(HELP).isdisjoint(given):
            return answer_help(conf, given)
        from ich.train.jobs import run_jobs

        failures = run_jobs(conf)
    if failures:
        log.error("%d jobs failed: %s", len(failures), ", ".join(failures))
        sys.exit(ExitCode.INCOMPLETE)
    return None
