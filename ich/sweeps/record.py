"""What became of a job of a multirun, as a file in its folder, so that jobs may run in any process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ich.files import replacing
from ich.schema import MONITOR, UserError
from ich.schema.formats import STRICT, NotNegative, Number, Text, read_plain, to_plain
from ich.sweeps.names import find_number

FORMAT: Final = "ich job 1"
"""Name and version of the format."""

NAME: Final = "job.json"
"""Name of the file."""


@dataclass(frozen=True)
class JobRecord:
    """A job of a multirun."""

    __pydantic_config__ = STRICT

    overrides: tuple[str, ...]
    """Its settings from the command line, in their order."""
    value: Number | None
    """The monitored metric of the best epoch; null if the job failed."""
    error: Text | None
    """Why it failed; null if it is done."""
    seconds: NotNegative | None
    """Its duration; null if it has not ended, because it still runs or its process was killed."""
    monitor: Text = MONITOR
    """Name of the monitored metric; lower is better."""
    format: Literal["ich job 1"] = field(default=FORMAT, kw_only=True)
    """Name and version of this format."""

    @property
    def is_done(self) -> bool:
        """Whether it has ended and did not fail."""
        return self.seconds is not None and self.error is None


@dataclass(frozen=True)
class Job:
    """A job in its folder.

    Attributes:
        folder: The folder.
        record: What became of it.
    """

    folder: Path
    record: JobRecord

    @property
    def name(self) -> str:
        """Name of the folder, such as ``3_lr=0.001``."""
        return self.folder.name

    @property
    def number(self) -> str:
        """The number in it, such as 3."""
        return find_number(self.name)


def write_record(record: JobRecord, folder: Path) -> None:
    """Writes the file of a job.

    Raises:
        OSError: If it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / NAME) as partial:
        partial.write_text(json.dumps(to_plain(record), indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> JobRecord | None:
    """Reads the file of a job.

    Args:
        folder: The folder of the job.

    Returns:
        What became of the job; None if it has not begun.

    Raises:
        UserError: If the file is not of this format.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    return read_plain(JobRecord, content, str(path))


def has_jobs(sweep: Path) -> bool:
    """Whether a folder holds jobs of a multirun."""
    return any(sweep.glob(f"*/{NAME}"))


def read_jobs(sweep: Path) -> Sequence[Job]:
    """Reads all jobs of a multirun that have begun, in the order of their numbers.

    Args:
        sweep: Its folder.

    Raises:
        UserError: If there is none, or a file is not of this format.
    """
    folders = [path.parent for path in sweep.glob(f"*/{NAME}")]
    jobs = [Job(folder, record) for folder in folders if (record := read_record(folder)) is not None]
    if not jobs:
        raise UserError(f"{sweep} holds no job; expected {sweep}/*/{NAME}, which `train.py -m` writes")
    return sorted(jobs, key=lambda job: (len(job.number), job.number, job.name))
