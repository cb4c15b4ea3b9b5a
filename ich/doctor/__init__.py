"""A machine as this process sees it: what it has, what will limit a run, and the settings that fit.

``hardware``, ``software`` and ``disk`` look, ``advice`` concludes, and ``record`` is the format of the file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ich.doctor.advice import advise, find_limits
from ich.doctor.disk import measure_disk
from ich.doctor.hardware import count_open_files, list_gpus, measure_memory, read_cores, read_system
from ich.doctor.record import Machine
from ich.doctor.software import PACKAGES, ask_hub, list_codecs
from ich.machine.packages import list_versions
from ich.progress import waiting


def examine(root: Path | None = None) -> Machine:
    """Looks at this machine, for some seconds.

    Args:
        root: Folder whose disk is measured.

    Raises:
        UserError: If ``root`` is not a folder that can be listed.
    """
    with waiting("Looking at this machine"):
        disk = None if root is None else measure_disk(root)
        found = Machine(
            read_system(), read_cores(), measure_memory(), count_open_files(), list_gpus(), disk,
            list_codecs(), list_versions(PACKAGES) | {"cuda": torch.version.cuda}, ask_hub(),
        )  # fmt: skip
    return replace(
        found, limits=tuple(find_limits(found, root_given=root is not None)), advice=tuple(advise(found))
    )
