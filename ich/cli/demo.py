"""``ich demo``: a first try without data."""

from __future__ import annotations

import argparse
from pathlib import Path

from ich.schema import DISCLAIMER

_EXAMPLES = f"""\
what OUT then holds:

  results/pages/index.html   the list of results, with a page for each study
  results/                   tables, JSON, DICOM reports and key images; see docs/predict.md
  archive/                   the studies that were read; archive.json has the truth about them
  model.zip                  the model, for `ich predict` and `ich serve`
  run/, training/            the training, and the synthetic head CT that it used

examples:

  ich demo                                       minutes on two cores
  ich demo first --studies 44                    two studies of most kinds
  ich demo other --train model=resnet18          another network; `ich train --help` lists all settings

  ich predict demo/model.zip /data/inbox         the model on studies of your own, to see the output. It has
                                                 seen drawings only: its results say nothing about a patient

{DISCLAIMER}."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "demo",
        help=summary,
        usage="ich demo [OUT] [--studies N] [--no-open] [--train KEY=VALUE ...]",
        description="Shows the whole way without data, in minutes on two cores:\n\n"
        "  1  writes synthetic head CT with hemorrhages (the phantom), and trains a small model on it\n"
        "  2  writes the model to one file\n"
        "  3  writes the archive of a department, with heads that the model has not seen, and with\n"
        "     scouts, bone kernels, other body parts and damaged files among them\n"
        "  4  reads each study of it, and writes pages, tables, DICOM reports and key images\n\n"
        "Each step is printed as the command that does the same, so that you can repeat it with data of\n"
        "your own. In the end a table shows the truth of each study beside what the model said, and the\n"
        "browser opens the list of results. The same command continues after an interruption.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        default=Path("demo"),
        metavar="OUT",
        help="new folder, or that of an earlier call with the same options (default: %(default)s)",
    )
    parser.add_argument("--studies", type=int, metavar="N", help="number of studies to read (default: 20)")
    parser.add_argument(
        "--no-open",
        action="store_true",
        help="open no browser, as without a display and in CI; the address of the list of results is printed",
    )
    parser.add_argument(
        "--train",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings of the training, as for `ich train`",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds, so other commands do not.
    from rich.console import Console

    from ich.demo import STUDIES, write_demo
    from ich.demo.browser import open_page
    from ich.demo.comparison import render_comparisons

    studies = STUDIES if args.studies is None else args.studies
    demo = write_demo(args.out, studies=studies, settings=args.train)
    Console().print(render_comparisons(demo.comparisons))
    is_open = not args.no_open and open_page(demo.page)
    print(f"the list of results{', open in the browser' if is_open else ''}: {demo.page}")
