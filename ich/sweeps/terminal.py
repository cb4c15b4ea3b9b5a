"""The best jobs of a multirun on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from ich.sweeps.ranking import ERROR, JOB, MINUTES, VALUE, list_settings, make_table
from ich.sweeps.record import Job

MOST = 10
"""Jobs that are shown."""


def render_ranking(jobs: Sequence[Job]) -> Table | None:
    """Ranks the jobs that are done, the best first.

    Args:
        jobs: The jobs of a multirun.

    Returns:
        A table of the best ones with the settings in which the jobs differ; None if no job is done.
    """
    table = make_table(jobs)
    done = table[table[ERROR] == ""]
    if done.empty:
        return None
    settings, monitor = list_settings(table), jobs[0].record.monitor
    best = f"the best {MOST} of {len(done)}" if len(done) > MOST else "the best first"
    ranking = Table(
        *("job", monitor, *settings, "minutes"),
        title=f"Jobs, {best}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for row in done.head(MOST).to_dict("records"):
        own = [escape(row[name]) for name in settings]  # Rich would take [brain,bone] for a style
        ranking.add_row(row[JOB], f"{row[VALUE]:.4f}", *own, f"{row[MINUTES]:.1f}")
    return ranking
