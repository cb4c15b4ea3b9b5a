"""``ich recalibrate``: a model fitted to a site."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from ich.cli.options import add_columns, add_devices, add_trust, add_tta, join_columns
from ich.schema import DISCLAIMER, UserError

if TYPE_CHECKING:  # they import torch, which takes seconds, so other commands do not
    from ich.predict import Predictor
    from ich.report.document import Table as Figures
    from ich.schema.results import StudyResult

PREDICTED = "predicted"
"""Folder in ``--out`` with the results of the studies."""

_TEACHING = f"""\
Why: the probabilities of a model are calibrated for the patients and scanners of its training. At another
site they are often too high or too low, so an operating point calls too many or too few studies.

How: a curve with two parameters, slope and intercept, is fitted on the model's own calibration, for each
label. Few studies stay close to the model's own, and many replace it. Then the rule of each operating
point, such as sensitivity>=0.95, is applied to the new probabilities. The network itself stays as it is.

What it needs: 20 to 50 studies with labels, at least 10, with and without hemorrhage, as they come and not
chosen by their result. The labels are a CSV file with one row per study:

  StudyInstanceUID,any,subdural        1, 0, true or false; blank is unknown; labels may be missing
  1.2.840.1.1,1,1
  1.2.840.1.2,0,0

PatientID instead of StudyInstanceUID serves if each patient has one study. A label file of slices
(SOPInstanceUID, or the RSNA's ID) serves too. Then slices are recalibrated as well.

examples:

  ich recalibrate model.zip /data/local --labels local.csv --site "Hospital A" --out site
  ich predict model.zip /data/local --out results            first the results, which takes longest
  ich recalibrate model.zip results --labels local.csv       and then from them
  ich predict site/model.zip /data/inbox                     uses the new bundle

{DISCLAIMER}."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "recalibrate",
        help=summary,
        description="Fits calibration and operating points of a model to a few studies of a site. Writes a "
        "new bundle,\nand a report with figures before and after.",
        epilog=_TEACHING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a bundle, a checkpoint or a run's folder")
    parser.add_argument(
        "studies",
        type=Path,
        metavar="STUDIES",
        help="folder of studies, or the folder in which `ich predict` wrote results of the same MODEL",
    )
    parser.add_argument(
        "--labels", type=Path, required=True, metavar="CSV", help="labels of the studies, patients or slices"
    )
    add_columns(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("recalibrated"),
        metavar="DIR",
        help="folder for model.zip, report.html and reliability.png; the results of STUDIES, which name "
        "patients, go to its folder predicted (default: %(default)s)",
    )
    parser.add_argument(
        "--site", default="", metavar="NAME", help="name of the site, which the new bundle keeps"
    )
    add_tta(parser, "what MODEL names; the new bundle names what was used")
    add_devices(parser)
    add_trust(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds, so other commands do not.
    from ich.index.labels import read_any_labels
    from ich.networks import load_members
    from ich.predict import Predictor
    from ich.recalibrate import MODEL, require_recalibrable, write_recalibrated
    from ich.recalibrate.report import describe_studies, tabulate_change, tabulate_labels

    if (model := args.out / MODEL).exists():
        raise UserError(f"{model} exists; name a new folder by --out, or remove it")
    members = load_members(args.model, threads=args.threads, gpus=args.gpus, trusted=args.trusted)
    require_recalibrable(members.networks)
    predictor = Predictor(members.networks, tta=args.tta, ensemble=members.metadata)
    labels = read_any_labels(args.labels, predictor.label_set, join_columns(args.columns))
    results = _find_results(predictor, args)
    done = write_recalibrated(members, results, labels, args.out, site=args.site)
    console = Console(highlight=False)
    for sentence in describe_studies(done.studies):
        console.print(sentence, markup=False, soft_wrap=True)
    for changes in done.changes.values():
        if done.headline in changes:
            console.print(_lay_out(tabulate_change(changes[done.headline])))
    console.print(_lay_out(tabulate_labels(done.fits["study"], done.changes["study"])))
    console.print(f"wrote {MODEL}, its report and its picture to {args.out}", markup=False, soft_wrap=True)
    console.print(f"{DISCLAIMER}.")


def _find_results(predictor: Predictor, args: argparse.Namespace) -> list[StudyResult]:
    """Reads the results in a folder of ``ich predict``, or predicts the studies in any other folder."""
    from ich.predict.folder import is_result_folder, read_results
    from ich.predict.run import predict_folder

    if not is_result_folder(args.studies):
        return list(predict_folder(predictor, [args.studies], args.out / PREDICTED).results)
    if args.tta is not None:
        raise UserError(f"--tta: {args.studies} has results already; choose augmentations in `ich predict`")
    return read_results(args.studies)


def _lay_out(figures: Figures) -> Table:
    table = Table(
        *figures.header,
        caption=figures.caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for row in figures.rows:
        table.add_row(*row)
    return table
