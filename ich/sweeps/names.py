"""Names of the folders of jobs: the number of a job, and the settings in which the jobs differ."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

LONGEST = 80
"""Characters of a name. File systems allow 255 bytes, and paths get longer below it."""

_ODD = re.compile(r"[^A-Za-z0-9.+=-]+")
_BRACKETS = "[]{}'\" "
_NUMBER = re.compile(r"[0-9][0-9_-]*(?=_|$)")


def name_job(number: object, overrides: Iterable[str], left_out: Collection[str] = ()) -> str:
    """Names the folder of a job, such as ``3_lr=0.001_seed=1``.

    A key is shown without its groups. Characters that a shell or a file system may take otherwise become
    ``-``. The number comes first, so names differ even if they are cut.

    Args:
        number: Number of the job.
        overrides: Its settings from the command line.
        left_out: Keys of settings that are not shown, such as those that all jobs share.
    """
    pairs = (item.lstrip("+").partition("=") for item in overrides if "=" in item)
    own = ((key.rpartition(".")[2], value.strip(_BRACKETS)) for key, _, value in pairs if key not in left_out)
    shown = (_ODD.sub("-", f"{key}={value}") for key, value in own)
    return "_".join([str(number), *shown])[:LONGEST].rstrip("._-=")


def find_number(name: str) -> str:
    """Returns the number at the beginning of a folder's name, or all of it if there is none.

    In a search by Optuna it includes the time of the command, as in ``11-30_09-15-00_3``.
    """
    found = _NUMBER.match(name)
    return found[0] if found else name
