"""What ``ich doctor`` finds, as a file format; its JSON schema is ``docs/machine.schema.json``.

The file is for a bug report. It names no user, host or folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import Interval

from ich.files import replacing
from ich.schema import DISCLAIMER
from ich.schema.formats import (
    STRICT,
    Count,
    Expected,
    Explanation,
    NotNegative,
    Positive,
    Text,
    adapt,
    to_plain,
)

FORMAT: Final = "ich machine 1"
"""Name and version of the format."""

Bytes = Annotated[int, Interval(ge=0, lt=1 << 63), Expected("a number of bytes")]


@dataclass(frozen=True)
class System:
    """The system and the processor."""

    name: Text
    """Such as Linux."""
    release: Text
    """Version of its kernel."""
    machine: Text
    """Such as x86_64."""
    python: Text
    """Version of Python."""
    processor: Text
    """Name of the processor; empty if it is not known."""
    instructions: tuple[Text, ...] | None
    """Instruction sets that make networks faster; null if the system does not say."""


@dataclass(frozen=True)
class Cores:
    """The cores."""

    machine: Count
    """Number of cores of the machine."""
    allowed: Count
    """Number of cores that the affinity of the process allows."""
    quota: Positive | None
    """Cores' worth of processor time that control groups allow; null without a limit."""
    usable: Count
    """Number of cores that a run can use."""
    torch_threads: Count
    """Number of threads that PyTorch starts by itself."""


@dataclass(frozen=True)
class Memory:
    """The memory, in bytes."""

    machine: Bytes
    """Memory of the machine."""
    available: Bytes | None
    """Memory that is available now; null if it is not known."""
    limit: Bytes | None
    """Memory that control groups allow; null without a limit."""
    shared: Bytes | None
    """Size of /dev/shm; null if there is none."""


@dataclass(frozen=True)
class OpenFiles:
    """How many files a process may have open; null without a limit."""

    soft: Bytes | None
    """The limit."""
    hard: Bytes | None
    """What the process may raise it to."""


@dataclass(frozen=True)
class Gpu:
    """A GPU."""

    name: Text
    """Its name."""
    memory: Bytes
    """Its memory."""
    free: Bytes | None
    """Memory that is free now; null if it is not known."""
    capability: Text | None
    """Its compute capability, such as 9.0; null if it is not known."""
    driver: Text | None
    """Version of the driver; null if it is not known."""
    usable: bool
    """Whether the installed PyTorch can use it."""


@dataclass(frozen=True)
class Disk:
    """A short measurement of the disk of a folder."""

    kind: Literal["CT slices", "a file of its own"]
    """What was read: slices that were there, or a file that was written and removed."""
    files: Count
    """Number of files that were read."""
    size: Bytes
    """Bytes that were read."""
    seconds: Positive
    """Time that one thread took. The operating system was asked to forget the files first."""
    decoded: Count
    """Number of these slices that were then decoded and resized to 256 x 256, from memory."""
    decoding_seconds: NotNegative
    """Time that one thread took for this."""
    free: Bytes
    """Free space."""


@dataclass(frozen=True)
class Codec:
    """What decodes a compressed transfer syntax."""

    uid: Text
    """Its UID."""
    name: Text
    """Its name."""
    by: tuple[Text, ...]
    """Installed packages that decode it; empty if it cannot be read."""


@dataclass(frozen=True)
class Advice:
    """A setting that fits the machine."""

    command: Literal["train", "predict"]
    """The command that it is for."""
    setting: Text
    """As the command line takes it."""
    reason: Explanation
    """Why."""


@dataclass(frozen=True)
class Machine:
    """A machine as this process sees it."""

    __pydantic_config__ = STRICT

    system: System
    """The system and the processor."""
    cores: Cores
    """The cores."""
    memory: Memory
    """The memory."""
    open_files: OpenFiles
    """The limit of open files."""
    gpus: tuple[Gpu, ...]
    """The GPUs."""
    disk: Disk | None
    """The disk of the folder that was given; null if none was given, or it cannot be measured."""
    codecs: tuple[Codec, ...]
    """Each compressed transfer syntax that can be read with its codec installed."""
    versions: Mapping[Text, Text | None]
    """Versions of the packages that matter; null for one that is not installed."""
    hub: Literal["answers", "does not answer", "switched off"]
    """The model hub, from which pretrained weights come."""
    limits: tuple[Explanation, ...] = ()
    """What will limit a run."""
    advice: tuple[Advice, ...] = ()
    """Settings that fit."""
    format: Literal["ich machine 1"] = field(default=FORMAT, kw_only=True)
    """Name and version of this format."""
    note: Text = field(default=DISCLAIMER, kw_only=True)
    """What this software is for."""


def write_machine(machine: Machine, path: Path) -> None:
    """Writes what was found as JSON.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(to_plain(machine), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def make_schema() -> dict[str, Any]:
    """Returns the JSON schema of the format, which ``docs/machine.schema.json`` holds."""
    schema = adapt(Machine).json_schema()
    for part in (schema, *schema["$defs"].values()):
        part["required"] = list(part["properties"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": FORMAT, **schema}
