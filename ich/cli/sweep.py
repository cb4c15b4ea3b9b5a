"""``ich sweep``: the jobs of a multirun as a page."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "sweep",
        help=summary,
        description="Writes one page about the jobs of `python train.py -m`: a table with the best first, "
        "failed jobs with their reasons, and which settings matter. It can be written while jobs still run.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of the multirun")
    parser.add_argument("--out", type=Path, metavar="HTML", help="the page (default: DIR/sweep.html)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from ich.sweeps import write_sweep
    from ich.sweeps.record import read_jobs
    from ich.sweeps.terminal import render_ranking

    page, document = write_sweep(args.folder, args.out)
    if (ranking := render_ranking(read_jobs(args.folder))) is not None:
        Console(highlight=False).print(ranking)
    print(f"{document.subtitle}; wrote {page}")
