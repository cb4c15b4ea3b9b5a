"""Processor, memory and GPUs."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch

from ich.doctor.record import Cores, Gpu, Memory, OpenFiles, System
from ich.machine import (
    count_allowed_cores,
    count_cores,
    read_core_quota,
    read_memory,
    read_memory_limit,
    read_open_files,
    read_processor,
)

SHARED = Path("/dev/shm")
"""Memory that processes share as files, which NCCL uses between the GPUs of a machine."""

_PATIENCE = 10  # seconds for nvidia-smi, which waits for a driver that has lost a GPU
_QUERY = "name,memory.total,memory.free,driver_version"


def read_system() -> System:
    """Reads which system and processor this is."""
    names = platform.system(), platform.release(), platform.machine(), platform.python_version()
    processor = read_processor()
    return System(*names, processor.name, processor.instructions)


def read_cores() -> Cores:
    """Reads how many cores there are, and how many this process may use."""
    return Cores(
        os.cpu_count() or 1, count_allowed_cores(), read_core_quota(), count_cores(), torch.get_num_threads()
    )


def measure_memory() -> Memory:
    """Reads how much memory there is."""
    total, available = read_memory()
    shared = shutil.disk_usage(SHARED).total if SHARED.is_dir() else None
    return Memory(total, available, read_memory_limit(), shared)


def count_open_files() -> OpenFiles:
    """Reads how many files may be open."""
    return OpenFiles(*read_open_files())


def list_gpus() -> tuple[Gpu, ...]:
    """Lists the GPUs that PyTorch can use, or else those that the driver shows."""
    shown = _ask_driver()
    driver = shown[0].driver if shown else None
    if not torch.cuda.is_available():
        return shown
    found = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        free, _ = torch.cuda.mem_get_info(number)
        capability = f"{about.major}.{about.minor}"
        found.append(Gpu(about.name, about.total_memory, free, capability, driver, usable=True))
    return tuple(found)


def _ask_driver() -> tuple[Gpu, ...]:
    """Lists the GPUs of nvidia-smi; none if there is no such program, or it fails."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[value.strip() for value in line.split(",")] for line in done.stdout.splitlines()]
    return tuple(
        Gpu(name, int(total) << 20, int(free) << 20, None, driver, usable=False)
        for name, total, free, driver in (row for row in rows if len(row) == 4)
        if total.isdecimal() and free.isdecimal()
    )
