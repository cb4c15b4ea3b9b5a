"""A model in int8, and what that changes.

agreement  results of both models -> differences, changed outcomes, AUROC before and after

``write_quantized`` does all of it. The quantization itself is in ``ich.networks.int8``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ich.evaluate.comparison import Comparison
from ich.evaluate.pooling import DEFAULT_POOLING
from ich.files import hash_file
from ich.model_files.checkpoint import find_checkpoint
from ich.networks import TorchNetwork, load_members
from ich.networks.int8 import Agreement, Description, list_makers, quantize_backbone, to_engine, write_int8
from ich.networks.slices import find_slices
from ich.predict import Predictor
from ich.progress import track
from ich.quantize.agreement import (
    AFTER,
    BEFORE,
    Change,
    compare_areas,
    count_outcomes,
    find_changes,
    measure_agreement,
)
from ich.schema import UserError
from ich.schema.shares import show_percent
from ich.studies import find_studies

__all__ = ["Agreement", "Change", "Quantization", "write_quantized"]

TOLERANCE = 0.01
"""Largest share of studies whose outcome may change, by default."""

MEAN_TOLERANCE = 0.01
"""Largest mean difference of a probability."""


class Quantization(NamedTuple):
    """What was done.

    Attributes:
        calibrated_on: Number of slices that the quantization has seen.
        agreement: How both models agree.
        changes: The outcomes that changed, with their number.
        outcomes: The outcomes in 32 bits, with their number.
        areas: AUROC before and after, and their difference, by level; empty without labels.
        refusal: Why the file was not written; empty if it was.
    """

    calibrated_on: int
    agreement: Agreement
    changes: tuple[Change, ...]
    outcomes: Mapping[str, int]
    areas: Mapping[str, Comparison]
    refusal: str


def write_quantized(
    model: str | Path,
    studies: Sequence[Path],
    out: Path,
    *,
    check: Sequence[Path] = (),
    labels: pd.DataFrame | None = None,
    tolerance: float = TOLERANCE,
    threads: int | None = None,
    trusted: Sequence[str] = (),
) -> Quantization:
    """Quantizes a model, compares it with the model in 32 bits, and writes it if both agree.

    Both read whole studies, as ``ich predict`` does, so that outcomes can be compared. Nothing is written if
    more outcomes change than ``tolerance`` allows, or probabilities differ by more than ``MEAN_TOLERANCE`` in
    the mean.

    Args:
        model: A run's folder, a checkpoint or a bundle.
        studies: DICOM files and folders that the quantization sees.
        out: A new file, for ``ich predict --engine``.
        check: Studies to compare both models on; by default ``studies``.
        labels: Labels of the studies to compare on, of studies or of slices.
        tolerance: Largest share of studies whose outcome may change.
        threads: Number of CPU threads; None leaves it to PyTorch.
        trusted: Code that a model file may name as its backbone.

    Raises:
        UserError: If the model or the studies cannot be read, packages are missing, the model cannot be
            quantized, or ``out`` exists or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists; name a new file by --out, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} does not exist")
    path = find_checkpoint(model, "best")
    members, ensemble = load_members(path, threads=threads, gpus=0, trusted=trusted)
    networks = [network for network in members if isinstance(network, TorchNetwork)]
    if not networks:
        raise UserError(f"{model} is an ONNX file: give the checkpoint or bundle that it was made from")
    gathered = {network.input: list(find_slices(studies, network.input)) for network in networks}
    seen = sum(len(hu) for hu, _ in gathered[networks[0].input])
    if not seen:
        raise UserError("none of the slices to quantize with can be read: give other studies")
    models = [
        quantize_backbone(network.net, gathered[network.input])
        for network in track(networks, "Quantizing", len(networks), shown=True)
    ]
    quantized = [
        TorchNetwork(network.net, network.sha256, gpus=0, engine=to_engine(each, ""))
        for network, each in zip(networks, models, strict=True)
    ]
    with tempfile.TemporaryDirectory(prefix="ich-") as scratch:
        found = find_studies(check or studies, scratch=Path(scratch)).studies
        results = {
            name: list(
                track(
                    Predictor(each, ensemble=ensemble).predict_studies(found),
                    f"Reading studies in {name}",
                    len(found),
                    shown=True,
                )
            )
            for name, each in ((BEFORE, networks), (AFTER, quantized))
        }
    agreement = measure_agreement(results[BEFORE], results[AFTER])
    areas: Mapping[str, Comparison] = {}
    if labels is not None:
        decision = (ensemble.joined.decisions or {}).get("study")
        pooling = DEFAULT_POOLING if decision is None else decision.pooling
        areas = compare_areas(results, networks[0], labels, pooling)
    refusal = _find_refusal(agreement, tolerance)
    if not refusal:
        description = Description(hash_file(path), len(models), seen, agreement, list_makers())
        write_int8(out, description, models)
    changes, outcomes = find_changes(results[BEFORE], results[AFTER]), count_outcomes(results[BEFORE])
    return Quantization(seen, agreement, changes, outcomes, areas, refusal)


def _find_refusal(agreement: Agreement, tolerance: float) -> str:
    """Finds why a model in int8 is refused; empty if it is not."""
    if agreement.changed > tolerance * agreement.studies:
        return (
            f"the outcome of {agreement.changed} of {agreement.studies} studies changes, and "
            f"{show_percent(tolerance, 1)} may (--tolerance)"
        )
    if agreement.mean_difference > MEAN_TOLERANCE:
        return (
            f"probabilities differ by {agreement.mean_difference:.3f} in the mean, and {MEAN_TOLERANCE:g} is "
            "allowed"
        )
    return ""
