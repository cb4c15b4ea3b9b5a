"""Exports a trained model as ONNX, with windows inside, and checks it against PyTorch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from torch import Tensor, nn

from ich import __version__
from ich.files import replacing
from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import Versions
from ich.models import SliceNet
from ich.networks import MeanNetwork, Network, TorchNetwork, load_members
from ich.networks.onnx import KEY, Description, OnnxNetwork
from ich.networks.slices import Slices, find_slices
from ich.progress import track, waiting
from ich.schema import WINDOWS, UserError

__all__ = ["Exported", "export_onnx"]

TOLERANCE = 1e-4
"""Largest allowed difference in a probability."""

RELATIVE_TOLERANCE = 1e-3
"""Largest allowed relative difference in a distance."""

LARGEST = 2_000_000_000  # bytes of weights; a protobuf holds 2 GiB

OPSET = 20  # of ONNX's operators; onnxruntime knows it since 1.17


class Exported(NamedTuple):
    """Differences between an ONNX file and its model.

    Attributes:
        slices: Number of slices that both were run on.
        difference: Largest difference in a probability.
        distance: Largest relative difference in a distance; None if the model has no distances.
    """

    slices: int
    difference: float
    distance: float | None


def export_onnx(
    source: str | Path, out: Path, paths: Sequence[Path] = (), *, trusted: Sequence[str] = ()
) -> Exported:
    """Writes a model as ONNX, if it gives the same results as PyTorch.

    An ensemble becomes one network, which gives the mean of the probabilities.

    Inputs are ``hu``, (N, D, S, S) int16, for any N, and, where the model has the window ``"dicom"``,
    ``window``, (N, 2) float32. Outputs are ``probs``, (N, L) float32, a column for each label, not
    calibrated, and, if the model has a reference, ``distance``, (N,) float32. The file's own metadata hold a
    ``Description``, under ``ich`` as JSON.

    Args:
        source: A run's folder (its best epoch is used), a checkpoint or a bundle.
        out: A new file.
        paths: DICOM files and folders to check it on; by default slices of the phantom.
        trusted: Code that a model file may name as its backbone; see ``ich.models.load_slice_net``.

    Raises:
        UserError: If the model or the slices cannot be read, the network cannot be exported, or the two
            differ by more than ``TOLERANCE``; then nothing is written.
    """
    if find_spec("onnxscript") is None:
        raise UserError("`ich export` needs onnxscript, which is not installed: pip install 'ich[onnx]'")
    if out.exists():
        raise UserError(f"{out} exists; name a new file, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"the folder {out.parent} does not exist")
    networks, ensemble = load_members(source, gpus=0, trusted=trusted)
    nets = [network.net for network in networks if isinstance(network, TorchNetwork)]
    if not nets:
        raise UserError(f"{source} is an ONNX file; give the checkpoint or bundle that it was made from")
    if any(net.series is not None for net in nets):
        raise UserError(
            f"{source} holds a network over series, which `ich export` cannot write: share it with "
            "`ich bundle`, or train a model without a network over the series (series=none)"
        )
    network: Network = networks[0]
    module: nn.Module = _Single(nets[0])
    if len(nets) > 1:
        network, module = MeanNetwork(networks, ensemble), _Mean(nets, ensemble.shares)
    slices = find_slices(paths, network.input)
    with waiting("Converting the network"):
        content = _convert(module.eval(), ensemble, network.limit)
    try:
        with replacing(out) as partial:
            partial.write_bytes(content)
            exported = _compare(network, OnnxNetwork(partial), slices)
            _require_close(exported, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    return exported


class _Single(nn.Module):
    """What is exported of a network: from HU to probabilities and distance."""

    def __init__(self, net: SliceNet) -> None:
        super().__init__()
        self.net = deepcopy(net)
        # The exporter of torch 2.10 turns the pooling of images with channels last into a loop.
        self.net.keep_in(torch.contiguous_format)

    def forward(self, hu: Tensor, window: Tensor | None = None) -> tuple[Tensor, ...]:
        return self.net.classify_hu(hu, window)


class _Mean(nn.Module):
    """What is exported of an ensemble, as ``MeanNetwork`` computes it."""

    def __init__(self, nets: Sequence[SliceNet], shares: Sequence[float] | None) -> None:
        super().__init__()
        self.members = nn.ModuleList(map(_Single, nets))
        self.shares = [1 / len(nets)] * len(nets) if shares is None else list(shares)
        self.limits = [None if net.ood is None else float(net.ood.limit) for net in nets]

    def forward(self, hu: Tensor, window: Tensor | None = None) -> tuple[Tensor, ...]:
        outputs = [member(hu, window) for member in self.members]
        weighed = [share * each[0] for each, share in zip(outputs, self.shares, strict=True)]
        probs = torch.stack(weighed).sum(dim=0)
        if None in self.limits:
            return (probs,)
        pairs = zip(outputs, self.limits, strict=True)
        distances = [each[1] / limit for each, limit in pairs if limit is not None]
        return probs, torch.stack(distances).mean(dim=0)


def _convert(module: nn.Module, ensemble: EnsembleMetadata, limit: float | None) -> bytes:
    """Returns a network as an ONNX file without names from this machine."""
    spec = ensemble.joined.model.input
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size > LARGEST:
        raise UserError(
            f"{ensemble.name} has {size / 1e9:.1f} GB of weights, but one ONNX file holds at most "
            f"{LARGEST / 1e9:.0f}"
        )
    example = [torch.zeros(2, spec.depth, spec.size, spec.size, dtype=torch.int16)]
    if "dicom" in spec.windows:
        example.append(torch.tensor([WINDOWS["brain"]] * 2))
    several = torch.export.Dim("N", min=1)
    try:
        program = torch.onnx.export(
            module,
            tuple(example),
            dynamo=True,
            opset_version=OPSET,
            input_names=["hu", "window"][: len(example)],
            output_names=["probs"] if limit is None else ["probs", "distance"],
            dynamic_shapes=({0: several}, {0: torch.export.Dim.AUTO})[: len(example)],  # as many windows
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{ensemble.name} cannot be written as ONNX: {reason}") from error
    assert program is not None
    file = program.model_proto
    graph = file.graph
    # The exporter writes down where in which source file each operator comes from.
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    file.ClearField("metadata_props")
    versions = Versions(__version__, torch.__version__, timm.__version__)
    file.metadata_props.add(key=KEY, value=Description(ensemble, limit, versions).to_text())
    return bytes(file.SerializeToString(deterministic=True))


def _compare(torch_: Network, onnx: Network, slices: Iterable[Slices]) -> Exported:
    count, probs, distances = 0, [0.0], [0.0]
    for hu, window in track(slices, "Comparing", None, shown=True):
        ours, theirs = torch_.run(hu, window), onnx.run(hu, window)
        count += len(hu)
        probs.append(float(np.abs(ours.probs - theirs.probs).max()))
        if ours.distance is not None and theirs.distance is not None:
            distances.append(float((np.abs(ours.distance - theirs.distance) / ours.distance).max()))
    if not count:
        raise UserError("none of the slices to check on can be read; give other slices")
    return Exported(count, max(probs), None if torch_.limit is None else max(distances))


def _require_close(exported: Exported, out: Path) -> None:
    slices, probs, distance = exported
    if probs > TOLERANCE:
        wrong = f"a probability by {probs:.1e}, more than {TOLERANCE:.0e}"
    elif distance is not None and distance > RELATIVE_TOLERANCE:
        wrong = f"a distance by {distance:.1e} of it, more than {RELATIVE_TOLERANCE:.0e}"
    else:
        return
    raise UserError(
        f"{out} was not written, because over {slices} slices it differs from the model in {wrong}"
    )
