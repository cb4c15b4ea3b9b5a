"""What this process may use of the machine: processor, memory, open files; whether the model hub answers.

A container or a batch system limits a process by a control group (cgroup), which the number of cores and the
memory of the machine do not show. Both versions of control groups are read.
"""

from __future__ import annotations

import math
import os
import platform
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_NO_LIMIT = 1 << 60  # bytes: version 1 writes a number near 2**63 where there is none


INSTRUCTIONS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX-BF16",
    "amx_int8": "AMX-INT8",
    "asimd": "NEON",
    "sve": "SVE",
    "bf16": "BF16",
    "i8mm": "I8MM",
}
"""Instruction sets by their names in ``/proc/cpuinfo``, of x86 and then of ARM."""


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: Its name; empty if the system does not say.
        instructions: Instruction sets that make networks faster; None if the system does not say.
    """

    name: str
    instructions: tuple[str, ...] | None


class OpenFiles(NamedTuple):
    """How many files a process may have open; None without a limit. It may raise ``soft`` up to ``hard``."""

    soft: int | None
    hard: int | None


def count_cores() -> int:
    """Counts the cores that this process may use: those of its affinity, and no more than its quota."""
    allowed, quota = count_allowed_cores(), read_core_quota()
    return allowed if quota is None else min(allowed, max(1, math.ceil(quota)))


def count_allowed_cores() -> int:
    """Counts the cores that the affinity of this process allows."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_core_quota(root: Path = Path("/")) -> float | None:
    """Reads the processor time that control groups allow, in cores; None without a limit.

    Args:
        root: The root of the file system.
    """
    quotas = []
    for folder in _list_groups("cpu", root):
        share, _, period = (_read(folder / "cpu.max") or "max").partition(" ")
        old = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        for allowed, of in ((share, period), old):
            if allowed and of and allowed.isdecimal() and int(of) > 0:
                quotas.append(int(allowed) / int(of))
    return min(quotas, default=None)


def read_memory_limit(root: Path = Path("/")) -> int | None:
    """Reads the memory that control groups allow, bytes; None without a limit.

    Args:
        root: The root of the file system.
    """
    names = ("memory.max", "memory.limit_in_bytes")
    texts = [_read(folder / name) for folder in _list_groups("memory", root) for name in names]
    limits = [int(text) for text in texts if text and text.isdecimal()]
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


def read_memory() -> tuple[int, int | None]:
    """Reads the memory of the machine and what of it is available now, bytes; None if not known."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return total, int(value.split()[0]) * 1024
    return total, None


def read_processor() -> Processor:
    """Reads which processor this is."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Processor(platform.processor(), None)
    lines = [line.partition(":") for line in text.splitlines()]
    fields = {name.strip().lower(): value.strip() for name, _, value in reversed(lines)}
    flags = (fields.get("flags") or fields.get("features") or "").split()
    found = tuple(name for flag, name in INSTRUCTIONS.items() if flag in flags)
    return Processor(fields.get("model name", "")[:200], found if flags else None)


def read_open_files() -> OpenFiles:
    """Reads the limit of open files."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    return OpenFiles(*(None if limit == resource.RLIM_INFINITY else limit for limit in limits))


def _list_groups(controller: str, root: Path) -> Iterator[Path]:
    """Yields the folders of the control groups of this process, and of those around them."""
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / (controller if controllers else "")
        # In a container the path may be that of the machine around it, which is not there.
        inside = Path(path.lstrip("/"))
        for folder in (inside, *inside.parents) if ".." not in inside.parts else (Path(),):
            yield mounted / folder


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
