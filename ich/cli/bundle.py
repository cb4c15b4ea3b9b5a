"""``ich bundle``: one file to share a model, or several as an ensemble."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ich.cli.options import add_trust, add_tta
from ich.schema import DISCLAIMER, UserError
from ich.schema.formats import show

if TYPE_CHECKING:
    from ich.model_files.ensemble import EnsembleMetadata
    from ich.model_files.metadata import ModelMetadata

_EXAMPLES = """\
examples:

  ich bundle runs/mine model.zip                  the best epoch of a run
  ich bundle runs/folds model.zip                 all models of a run with data.fold=all
  ich bundle runs/a runs/b both.zip --stack       two such runs, weighed by their predictions
  ich bundle runs/mine/checkpoints/best.ckpt runs/mine/checkpoints/last.ckpt two.zip
  ich bundle model.zip                            prints the model metadata
"""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "bundle",
        help=summary,
        usage="ich bundle RUN... OUT [--calibration FILE] [--stack] [--trust PREFIX]\n       ich bundle RUN",
        description="Writes the weights of a run's best epoch to one file, with all that is needed to use\n"
        "them and with the run's model card. Several models become an ensemble: their\n"
        "probabilities are averaged. If they are the folds of one split, smoothing,\n"
        "calibration and operating points are fitted on their out-of-fold predictions. The\n"
        "file names no patient and contains no code. Without OUT, prints the model metadata.",
        epilog=f"{_EXAMPLES}\n{DISCLAIMER}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUN... OUT",
        help="folders of runs, checkpoints or bundles, then a new file, for instance model.zip; a single "
        "path is described",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="file from `ich evaluate --write-calibration`; its calibration and operating points replace "
        "those of the run, and the run's model card is left out, because it describes the replaced "
        "ones; the smoothing over neighboring slices stays",
    )
    add_tta(parser, "as it is; `ich predict` uses it")
    parser.add_argument(
        "--stack",
        action="store_true",
        help="weigh several runs over all folds by the log loss of their out-of-fold predictions (default: "
        "all alike)",
    )
    add_trust(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds, so other commands do not.
    from ich.calibration.files import read_calibration
    from ich.calibration.smoothing import describe_kernels
    from ich.networks.bundling import bundle_models

    if len(args.paths) == 1:
        return _print_metadata(args)
    *sources, out = args.paths
    decisions = None if args.calibration is None else read_calibration(args.calibration)
    bundled = bundle_models(
        sources, out, decisions=decisions, stack=args.stack, tta=args.tta, trusted=args.trusted
    )
    print(f"wrote {bundled.metadata.name} of {', '.join(map(str, sources))} to {out}")
    print(f"calibration and operating points: {bundled.source}")
    if (smoothing := bundled.metadata.smoothing) is not None:
        print(f"smoothing of the mean over neighboring slices: {describe_kernels(smoothing)}")
    if bundled.shares is not None:
        weighed = (f"{share:.3f} {path}" for share, path in zip(bundled.shares, sources, strict=True))
        print(f"weights: {', '.join(weighed)}")
    return None


def _print_metadata(args: argparse.Namespace) -> None:
    from ich.model_files.checkpoint import find_checkpoint
    from ich.models import load_ensemble
    from ich.networks.bundling import find_model_card

    if args.calibration is not None or args.tta is not None or args.stack:
        raise UserError("--calibration, --tta and --stack need a bundle to write: give OUT, a new file")
    source = find_checkpoint(args.paths[0], "best")
    ensemble = load_ensemble(source, trusted=args.trusted).metadata
    print("\n".join([*_describe(ensemble), DISCLAIMER]), find_model_card(source), sep="\n\n")


def _describe(ensemble: EnsembleMetadata) -> Iterator[str]:
    from ich.calibration.smoothing import describe_kernels

    if len(ensemble.members) == 1:
        yield from _describe_member(ensemble.members[0])
        return
    yield f"an ensemble of {len(ensemble.members)} models: the mean of their probabilities"
    if ensemble.decisions is not None:
        yield f"smoothing of the mean over neighboring slices: {describe_kernels(ensemble.smoothing)}"
        yield f"calibration and operating points of the mean: by {' and '.join(ensemble.decisions)}"
    for number, member in enumerate(ensemble.members, 1):
        share = "" if ensemble.shares is None else f", weight {ensemble.shares[number - 1]:.3f}"
        yield f"model {number}{share}:"
        yield from (f"  {line}" for line in _describe_member(member, ensemble.decisions is None))


def _describe_member(metadata: ModelMetadata, decides: bool = True) -> Iterator[str]:
    """Describes a model, which decides by itself or only in the mean of an ensemble."""
    from ich.calibration import NotFitted
    from ich.calibration.smoothing import describe_kernels

    model = metadata.model
    windows = [window if isinstance(window, str) else list(window) for window in model.input.windows]
    yield f"{model.backbone}, {model.input.size} x {model.input.size} pixels, windows {windows}"
    yield f"written by ich {show(metadata.version)}"
    if metadata.origin is not None:
        yield f"origin of the weights: {metadata.origin.describe()}"
    if (training := metadata.training) is not None:
        yield (
            f"trained on {training.slices:,} slices of {training.patients:,} patients"
            f"{', synthetic' if training.phantom else ''}; epoch {training.best_epoch + 1} of "
            f"{training.epochs}"
        )
        losses = {"validation": training.val_log_loss, "test": training.test_log_loss}
        figures = (f"{part} {'none' if loss is None else f'{loss:.4f}'}" for part, loss in losses.items())
        yield f"weighted log loss: {', '.join(figures)}"
    if metadata.thickness is not None:
        yield f"thin slices are averaged to {metadata.thickness:g} mm"
    series = metadata.series
    yield f"network over series: {'none' if series is None else f'{series.kind}, {series.width} wide'}"
    if decides or metadata.smoothing is not None:
        yield f"smoothing over neighboring slices: {describe_kernels(metadata.smoothing)}"
    if decides:
        yield f"calibration and operating points: by {' and '.join(metadata.decisions or ['nothing'])}"
    yield f"test-time augmentation: {', '.join(map(show, metadata.tta or ())) or 'none'}"
    if (site := metadata.recalibration) is not None:
        where = f" of {show(site.site)}" if site.site else ""
        yield f"recalibrated on {site.studies:,} studies of {site.patients:,} patients{where}"
    ood = metadata.ood or NotFitted("an older version wrote the file")
    if isinstance(ood, NotFitted):
        yield f"out-of-distribution detection: not available, {ood.missing}"
    else:
        yield f"out-of-distribution detection: fitted on {ood.studies:,} studies of {ood.patients:,} patients"
