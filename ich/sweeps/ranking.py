"""Which jobs of a multirun are best, and which settings matter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ich.schema import PLACES
from ich.sweeps.record import Job

UNENDED = "it has not ended: it still runs, or its process was killed"
"""What stands in the table instead of an error of a job that has not ended."""

JOB, VALUE, MINUTES, ERROR = "job", "value", "minutes", "error"
"""Columns of the table beside the settings."""


def make_table(jobs: Sequence[Job]) -> pd.DataFrame:
    """Makes a table of the jobs, the best first and failed ones last.

    Args:
        jobs: The jobs.

    Returns:
        A row for each job: ``job`` with its number, a column of texts for each setting that differs between
        jobs, ``value`` of the monitored metric, ``minutes`` and ``error``, which is empty for a job that is
        done. Settings that name folders or files are left out.
    """
    settings = pd.DataFrame([_split(job.record.overrides) for job in jobs]).fillna("")
    varied = [name for name in settings if len(set(settings[name])) > 1]
    table = settings[varied].copy()
    table.insert(0, JOB, [job.number for job in jobs])
    table[VALUE] = [math.nan if job.record.value is None else job.record.value for job in jobs]
    table[MINUTES] = [math.nan if job.record.seconds is None else job.record.seconds / 60 for job in jobs]
    table[ERROR] = ["" if job.record.is_done else job.record.error or UNENDED for job in jobs]
    return table.sort_values(VALUE, kind="stable", na_position="last", ignore_index=True)


def list_settings(table: pd.DataFrame) -> list[str]:
    """Lists the columns of settings."""
    return [str(name) for name in table if name not in (JOB, VALUE, MINUTES, ERROR)]


def measure_importance(table: pd.DataFrame) -> dict[str, float]:
    """Measures which share of the metric's variance each setting explains by itself.

    It is the correlation ratio: the variance of the means of a setting's values, over that of all jobs
    (Fisher, Statistical Methods for Research Workers, 1925, section 45). Settings that vary together share
    what they explain, and chance explains something too if there are few jobs for each value.

    Args:
        table: From ``make_table``.

    Returns:
        For each setting with several values that several jobs have, a share from 0 to 1, the largest first.
    """
    done = table[table[VALUE].notna()]
    whole = float(np.square(done[VALUE] - done[VALUE].mean()).sum())
    shares: dict[str, float] = {}
    for name in list_settings(table):
        groups = done.groupby(name)[VALUE]
        if whole > 0 and 1 < groups.ngroups < len(done):
            means = groups.transform("mean")
            shares[name] = float(np.square(means - done[VALUE].mean()).sum()) / whole
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _split(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (item.lstrip("+").partition("=") for item in overrides)
    return {name: value.strip("'") for name, _, value in pairs if name.rpartition(".")[2] not in PLACES}
