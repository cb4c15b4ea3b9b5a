"""The log of a program: lines on standard error, and a file with a JSON object a line.

No line holds a patient attribute. Messages and tracebacks of other packages may quote a header, so the file
holds the messages of this package only, and never a traceback.
"""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from pathlib import Path

from ich.schema import UserError
from ich.schema.formats import write_instant

_OWN = "ich"  # the logger of this package
_log = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """Writes a message as a JSON object on one line.

    Its fields are ``time`` in UTC, ``level``, ``logger`` and ``message``. ``study`` follows if the message is
    about one: give it as ``extra={"study": key}``.

    Args:
        process: Names the process in each line, as ``process``; empty for none.
    """

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without its end."""
        fields = {
            "time": write_instant(record.created),
            "level": record.levelname,
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
            "study": getattr(record, "study", ""),
        }
        return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False)


def add_file(path: str | Path, process: str = "") -> logging.Handler:
    """Adds a file to the log of this package, which several processes may share.

    A file that was moved away, such as by logrotate, is begun again.

    Args:
        path: The file; lines are added at its end.
        process: Names the process in each line.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        handler = WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"the log {path} cannot be written: {error.strerror}; name another file") from error
    handler.setFormatter(JsonLines(process))
    logger = logging.getLogger(_OWN)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    return handler


def start_log(process: str, path: str | None = None) -> None:
    """Starts the log of a process of the service, on standard error and in a file.

    Warnings of libraries may quote a header, so they are left out.

    Args:
        process: Names the process.
        path: The file; None for none.

    Raises:
        UserError: If the file cannot be written.
    """
    warnings.simplefilter("ignore")
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {process}: %(message)s", level=logging.WARNING)
    logging.getLogger(_OWN).setLevel(logging.INFO)
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    if path is not None:
        add_file(path, process)


@contextmanager
def logging_to(path: Path | None) -> Iterator[None]:
    """Keeps a log of a command in a file, and says in it how the command ended if that was not in peace.

    Warnings reach the terminal as they do without a file.

    Args:
        path: The file; None for none.

    Raises:
        UserError: If it cannot be written.
    """
    if path is None:
        yield
        return
    logger = logging.getLogger(_OWN)
    level, handlers = logger.level, [add_file(path)]
    if logging.lastResort is not None:  # it writes warnings only where there is no handler
        handlers.append(logging.lastResort)
        logger.addHandler(logging.lastResort)
    try:
        yield
    except BaseException as error:
        # Its message, which the terminal shows, may name a file.
        _log.info("ended by %s", describe_fault(error))
        raise
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        handlers[0].close()
        logger.setLevel(level)


def describe_fault(error: BaseException) -> str:
    """Returns the kind of an error, and where in this package it came from.

    Its message and its traceback may quote a header, and so name a patient.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "ich" in Path(frame.filename).parts]
    place = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{place}"
