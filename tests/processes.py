"""Processes of their own as users start them, without the seconds in which Python imports torch and more.

A server that has imported everything forks them. Each is a real process: it can be killed, it has handlers
of signals of its own, and nothing that it changes is seen by a test.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["ich.cli", "ich.train.run", "ich.serve.reading", "ich.serve.web"])

LIMIT = 300
"""Seconds that a program may take; a test that needs this long has hung."""


def run_program(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a program as ``python -c PROGRAM WORDS`` does, in the folder and environment of the test.

    Args:
        program: Python, run as ``__main__``.
        words: What follows the program's name in ``sys.argv``.
    """
    return start_program(program, *words)()


def start_program(
    program: str, *words: str, environment: Mapping[str, str] | None = None
) -> Callable[[], subprocess.CompletedProcess[str]]:
    """Starts a program as ``run_program`` does; what it returns waits for the end.

    Args:
        program: Python, run as ``__main__``.
        words: What follows the program's name in ``sys.argv``.
        environment: Its environment; by default that of the test.
    """
    folder = TemporaryDirectory()
    out, err = Path(folder.name, "out"), Path(folder.name, "err")
    arguments = (program, words, dict(environment or os.environ), out, err)
    process = FORKING.Process(target=_run, args=arguments)
    process.start()

    def finish() -> subprocess.CompletedProcess[str]:
        with folder:
            process.join(LIMIT)
            if process.exitcode is None:
                process.kill()
                process.join()
                said = out.read_text() + err.read_text()
                raise AssertionError(f"still running after {LIMIT} s; it said:\n{said}")
            return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())

    return finish


def _run(program: str, words: tuple[str, ...], environment: Mapping[str, str], out: Path, err: Path) -> None:
    os.environ.clear()  # the server's is that of the time at which it started
    os.environ.update(environment)
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        with path.open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["-c", *words]
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    finally:
        sys.stdout.flush()
