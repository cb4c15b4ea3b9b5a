"""``ich evaluate``: the evaluation a reviewer would ask for."""

from __future__ import annotations

import argparse
import inspect
from functools import partial
from pathlib import Path

from rich.console import Console

from ich.calibration import METHODS
from ich.cli.options import add_columns, add_trust, join_columns
from ich.evaluate import evaluate
from ich.evaluate.pooling import METHODS as POOLING
from ich.schema import DISCLAIMER

_EXAMPLE = """\
example: the test set of a run, with subgroups, galleries and heat maps

  ich evaluate runs/mine/predictions_test.csv --root data/ct_ich --checkpoint runs/mine

The command uses predictions_val.csv beside it for calibration and operating points. Two models on
the same slices, and their mean:

  ich evaluate runs/a/predictions_test.csv runs/b/predictions_test.csv --ensemble --out both

Tables of any origin work: a CSV with SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID, PatientID,
part, a column prob_LABEL for each label, such as prob_epidural ... prob_any, and, if known,
target_LABEL.
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "evaluate",
        help=summary,
        description="Writes the evaluation that a reviewer would ask for. Predictions are enough. The "
        "index adds subgroups\n"
        "and galleries, and the checkpoint adds heat maps. Items without their input are "
        "marked as not available.",
        epilog=f"{_EXAMPLE}\n{DISCLAIMER}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_inputs(parser)
    _add_choices(parser)
    _add_outputs(parser)
    add_trust(parser)
    parser.set_defaults(run=_run)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "predictions",
        type=Path,
        nargs="+",
        metavar="PREDICTIONS",
        help="CSV file, or the folder of a run or of `ich predict`; several are compared",
    )
    inputs = parser.add_argument_group("inputs")
    inputs.add_argument(
        "--val",
        type=Path,
        nargs="+",
        metavar="CSV",
        help="predictions for the validation set (default: predictions_val.csv beside predictions_test.csv)",
    )
    inputs.add_argument(
        "--labels",
        type=Path,
        metavar="CSV",
        help="labels of slices, studies or patients; they replace the targets",
    )
    add_columns(inputs)
    inputs.add_argument("--root", type=Path, metavar="DIR", help="folder of the DICOM files")
    inputs.add_argument(
        "--index", type=Path, metavar="FILE", help="index of the data (default: that of --root)"
    )
    inputs.add_argument(
        "--checkpoint",
        type=Path,
        metavar="RUN",
        help="a run's folder, a checkpoint or a bundle, for heat maps, calibration and operating points",
    )


def _add_choices(parser: argparse.ArgumentParser) -> None:
    defaults = {name: each.default for name, each in inspect.signature(evaluate).parameters.items()}
    choices = parser.add_argument_group("settings")
    choices.add_argument(
        "--by",
        nargs="+",
        metavar="COLUMN",
        help="columns for subgroups (default with an index: encoding slice_spacing tilt)",
    )
    choices.add_argument(
        "--pooling",
        choices=POOLING,
        help="method that pools slices to studies and patients (default: max, or with labels of studies "
        "top3_mean)",
    )
    choices.add_argument(
        "--rule",
        default=defaults["rule"],
        metavar="RULE",
        help="rule for operating points: sensitivity>=X, specificity>=X, or cost:C (default: %(default)s)",
    )
    choices.add_argument(
        "--calibration",
        choices=METHODS,
        default=defaults["calibration"],
        help="calibration method (default: %(default)s)",
    )
    choices.add_argument(
        "--ensemble", action="store_true", help="evaluate the mean of several PREDICTIONS, not the first"
    )
    for name, meaning in {
        "replicates": "number of bootstrap samples",
        "seed": "random seed for the bootstrap",
    }.items():
        choices.add_argument(
            f"--{name}",
            type=int,
            default=defaults[name],
            metavar="N",
            help=f"{meaning} (default: %(default)s)",
        )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument(
        "--out", type=Path, metavar="DIR", help="folder (default: evaluation, beside the first PREDICTIONS)"
    )
    outputs.add_argument("--pdf", action="store_true", help="also write the report for print")
    outputs.add_argument("--slides", action="store_true", help="also write a short deck as a PowerPoint file")
    outputs.add_argument(
        "--submission",
        type=Path,
        metavar="SAMPLE",
        help="also write submission.csv, in the form of this sample submission of the RSNA 2019 challenge",
    )
    outputs.add_argument(
        "--write-calibration",
        type=Path,
        metavar="FILE",
        help="also write calibration and operating points as JSON, for ich bundle --calibration",
    )


def _run(args: argparse.Namespace) -> None:
    # It imports matplotlib and more, so other commands do not.
    from ich.evaluate.terminal import render_evaluation
    from ich.evaluation_report import write_evaluation

    console = Console(highlight=False)
    tell = partial(console.print, markup=False, soft_wrap=True)
    arguments = {name: value for name, value in vars(args).items() if name != "run"}
    arguments["columns"] = join_columns(args.columns)
    written = write_evaluation(**arguments, tell=tell)
    if written.data is not None:
        console.print(render_evaluation(written.data.evaluation, written.data.parts))
        tell(f"wrote everything to {written.folder}")
