"""Exit codes of all commands, each with the sentence that explains it. ``docs/codes.md`` has the table."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

_SIGNAL = 128  # a shell adds the number of the signal that ended a process


class ExitCode(IntEnum):
    """How a command of `ich`, or `train.py`, ended."""

    commands: str
    """The commands that can end so."""
    sentence: str

    def __new__(cls, code: int, commands: str = "", sentence: str = "") -> Self:
        """Makes a member, or finds one by its number."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.commands, member.sentence = commands, sentence
        return member

    DONE = 0, "all", "All is done. `ich serve` and `ich predict --watch` also end so after Ctrl-C or SIGTERM"
    DEFECT = 1, "all", "An error that the command does not expect. The terminal shows where it came from"
    WRONG = 2, "all", "Wrong usage, settings or files, or a full disk. One message says what to do"
    INCOMPLETE = (
        3,
        "`predict`, `train -m`",
        "Some studies have no outcome, or there was no study. Or some jobs of a multirun failed",
    )
    INTERRUPTED = _SIGNAL + 2, "all", "Ctrl-C (SIGINT). A training saves its state first"
    REQUEUED = _SIGNAL + 10, "`train`", "SIGUSR1, as SLURM sends it. The training saves its state first"
    READER_GONE = _SIGNAL + 13, "all", "Nobody reads the output any more, such as `head`"
    TERMINATED = _SIGNAL + 15, "all", "SIGTERM. A training saves its state first"


def find_signal_code(signum: int) -> int:
    """Returns the exit code of a process that a signal has stopped, as in a shell."""
    return _SIGNAL + signum


def make_table() -> str:
    """Returns the table of all exit codes as Markdown."""
    lines = ["| exit code | commands | meaning |", "|---|---|---|"]
    lines += [f"| {code:d} | {code.commands} | {code.sentence} |" for code in ExitCode]
    return "\n".join(lines) + "\n"
