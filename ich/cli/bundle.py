"""``ich bundle``: one file to share a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ich.cli.options import add_trust, add_tta
from ich.schema import DISCLAIMER, UserError
from ich.schema.formats import show

if TYPE_CHECKING:
    from ich.model_files.metadata import ModelMetadata


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to a parser."""
    parser = commands.add_parser(
        "bundle",
        help="write a trained model to one file to share",
        description="Writes the weights of a run's best epoch to one file, with all that is needed to use "
        "them and with the run's model card. The file names no patient and contains no code. "
        "Without OUT, prints the model metadata.",
    )
    parser.add_argument("source", type=Path, metavar="RUN", help="a run's folder, a checkpoint or a bundle")
    parser.add_argument(
        "out",
        type=Path,
        nargs="?",
        metavar="OUT",
        help="new file, for instance model.zip; without it, print the model metadata",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="file from `ich evaluate --write-calibration`; its calibration and operating points replace "
        "those of the run, and the run's model card is left out, because it describes the replaced "
        "ones",
    )
    add_tta(parser, "as it is; `ich predict` uses it")
    add_trust(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds, so other commands do not.
    from ich.calibration import order_decisions
    from ich.calibration.files import read_calibration
    from ich.model_files.bundle import write_bundle
    from ich.model_files.checkpoint import find_checkpoint
    from ich.models import load_slice_net
    from ich.networks.views import check_tta

    source = find_checkpoint(args.source, "best")
    model = load_slice_net(source, trusted=args.trusted)
    model_card = _find_model_card(source)
    if args.out is None:
        if args.calibration is not None or args.tta is not None:
            raise UserError("--calibration and --tta need a bundle to write: give OUT, a new file")
        print("\n".join(_describe(model.metadata)), model_card, sep="\n\n")
        return
    if args.calibration is not None:
        decisions = order_decisions(
            read_calibration(args.calibration),
            model.metadata.labels.names,
            f"--calibration {args.calibration}",
        )
        model.metadata = replace(model.metadata, decisions=decisions)
        model_card = ""
    if args.tta is not None:
        check_tta(args.tta)
        model.metadata = replace(model.metadata, tta=tuple(args.tta) or None)
    write_bundle(model.metadata, model.state_dict(), args.out, model_card=model_card)
    print(f"wrote {model.metadata.model.backbone} of {source} to {args.out}")


def _find_model_card(source: Path) -> str:
    """Reads the model card of a bundle, or of a checkpoint's run; empty if there is none."""
    from ich.model_files.bundle import MODEL_CARD, is_bundle, read_bundle
    from ich.model_files.checkpoint import CHECKPOINTS

    if is_bundle(source):
        return read_bundle(source).model_card
    file = source.resolve().parent.parent / MODEL_CARD
    if source.resolve().parent.name != CHECKPOINTS or not file.is_file():
        return ""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}; remove it or write it again") from error


def _describe(metadata: ModelMetadata) -> Iterator[str]:
    from ich.calibration import NotFitted
    from ich.calibration.smoothing import Kernel

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
    series = metadata.series
    yield f"network over series: {'none' if series is None else f'{series.kind}, {series.width} wide'}"
    kernels = (metadata.smoothing or {}).items()
    widths = [f"{label} {each.width:g} mm" for label, each in kernels if isinstance(each, Kernel)]
    yield f"smoothing over neighboring slices: {', '.join(widths) or 'none'}"
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
    yield DISCLAIMER
