"""Trained networks for prediction, from Hounsfield units to probabilities, by PyTorch or onnxruntime."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.backends import cudnn

from ich.files import hash_file
from ich.image.window import window_batch
from ich.model_files.bundle import is_bundle
from ich.model_files.checkpoint import CHECKPOINTS, ENSEMBLE, find_checkpoint
from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import ModelMetadata
from ich.models import SliceNet, load_ensemble
from ich.models.series import Slices, correct
from ich.networks.engines import ENGINES, Engine, Quantized, load_engines, make_extract
from ich.schema import InputSpec, UserError, check_threads

__all__ = [
    "MeanNetwork",
    "Members",
    "Network",
    "Output",
    "TorchNetwork",
    "is_network",
    "load_members",
    "load_network",
]

BATCH = 16
"""Number of slices that a network gets at a time."""

IR_VERSION = b"\x08"
"""First byte of an ONNX file: the tag of ``ModelProto.ir_version``, the first field of all."""


class Output(NamedTuple):
    """Output of a network for slices.

    Attributes:
        probs: (N, L) float32, not calibrated.
        distance: (N,) float32 distance from the training data, by ``ich.calibration.ood``; None without
            a reference.
        series: (L,) float32 probabilities of the series that the slices form; None without a network over
            series, or without a position.
    """

    probs: NDArray[np.float32]
    distance: NDArray[np.float32] | None
    series: NDArray[np.float32] | None = None


class Network(Protocol):
    """A trained network, for one thread at a time.

    The same slices give the same output, to the bit. For other batch sizes it agrees to 1e-5.

    Attributes:
        metadata: Metadata from its file. Those of an ensemble are of its first member, with the decisions and
            the smoothing for the mean.
        name: Name of its backbone, or of several.
        input: Input of the network.
        sha256: SHA-256 of its file.
        limit: Distance above which a study is out of distribution; None without distances.
    """

    metadata: ModelMetadata
    name: str
    input: InputSpec
    sha256: str
    limit: float | None

    def run(
        self,
        hu: NDArray[np.int16],
        window: NDArray[np.float32] | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> Output:
        """Runs the network.

        Args:
            hu: (N, D, S, S) HU of slices with their neighbors, N at least 1.
            window: (N, 2) center and width in HU from the header of each slice; needed if ``input`` has the
                window ``"dicom"``, otherwise unused.
            positions: (N,) of the slices of one series along the slice normal, mm; NaN for a slice that says
                nothing about the others. Needed if the metadata name a network over series, otherwise unused.

        Raises:
            ValueError: If the shapes are wrong.
        """


class TorchNetwork:
    """A network that PyTorch runs, on the CPU or on a GPU.

    Args:
        net: The network, in evaluation mode; it is moved to the device.
        sha256: SHA-256 of its file.
        gpus: None uses a GPU if there is one; 0 is the CPU, 1 a GPU.
        engine: How to compute it, or its backbone in int8. A GPU knows the default only.

    Attributes:
        net: The network itself, for heat maps.

    Raises:
        UserError: If there is no such GPU, or it is to compute with an engine for the CPU.
    """

    def __init__(
        self, net: SliceNet, sha256: str, *, gpus: int | None = None, engine: Engine | Quantized = ENGINES[0]
    ) -> None:
        self.device = _choose_device(gpus)
        name = engine.name if isinstance(engine, Quantized) else engine
        if engine != ENGINES[0] and self.device.type != "cpu":
            raise UserError(f"the engine {name} is for the CPU: use gpus=0, or leave the engine out")
        self.net = net.to(self.device)
        self.metadata = net.metadata
        self.name = net.metadata.model.backbone
        self._extract = engine.extract if isinstance(engine, Quantized) else make_extract(net, engine)
        if engine != ENGINES[0]:  # results say how they were computed
            self.name += f" in {name}"
        self.input = net.input
        self.sha256 = sha256
        self.limit = None if net.ood is None else float(net.ood.limit)

    def run(
        self,
        hu: NDArray[np.int16],
        window: NDArray[np.float32] | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> Output:
        """Runs the network; see ``Network``."""
        check_slices(self.input, hu, window)
        with torch.inference_mode(), _exactly(self.device):
            parts, features = zip(
                *(self._run(*batch) for batch in split(self.input, hu, window)), strict=True
            )
            output = join(parts)
            if self.net.series is None:
                return output
            if positions is None or positions.shape != (len(hu),):
                raise ValueError(
                    f"expected the positions of {len(hu)} slices in mm, for the network over series"
                )
            one = np.zeros(len(hu), np.int64)
            slices = Slices(np.concatenate(features), output.probs, positions, one)
            corrected = correct(self.net.series, slices)
            of_series = corrected.series[0] if len(corrected.series) else None
            return output._replace(probs=corrected.probs, series=of_series)

    def _run(
        self, hu: NDArray[np.int16], window: NDArray[np.float32] | None
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
        x = torch.from_numpy(np.array(hu, order="C")).to(self.device)  # a copy: views may be reversed
        header = None if window is None else torch.tensor(window, device=self.device)
        image = window_batch(self.net.window, x, header)
        features = self._extract(image)
        return [part.cpu().numpy() for part in self.net.classify_features(features)], features.cpu().numpy()


class MeanNetwork:
    """Several networks of one input as one: the mean of their probabilities.

    A distance is given in units of the members' limits, so that the limit of their mean is 1. As for any
    network, the smoothing that its metadata name comes after it.

    Args:
        members: The networks.
        metadata: Their metadata.

    Raises:
        UserError: If they are not their mean, because their inputs differ, or they smooth or decide by
            themselves.
    """

    def __init__(self, members: Sequence[Network], metadata: EnsembleMetadata) -> None:
        first = members[0]
        if obstacle := metadata.obstacle:
            raise UserError(
                f"an ensemble of {len(members)} models cannot be one network: {obstacle}. `ich predict` and "
                "ich.predict.Predictor take it as it is"
            )
        self.members = tuple(members)
        self.ensemble = metadata
        self.metadata = metadata.joined
        self.name = metadata.name
        self.input = first.input
        self.sha256 = first.sha256
        self.limit = None if any(member.limit is None for member in members) else 1.0

    def run(
        self,
        hu: NDArray[np.int16],
        window: NDArray[np.float32] | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> Output:
        """Runs the networks; see ``Network``."""
        outputs = [member.run(hu, window) for member in self.members]
        probs = np.average([each.probs for each in outputs], axis=0, weights=self.ensemble.shares)
        shares = [
            each.distance / member.limit
            for each, member in zip(outputs, self.members, strict=True)
            if each.distance is not None and member.limit is not None
        ]
        distance = None if self.limit is None else np.mean(shares, axis=0).astype(np.float32)
        return Output(probs.astype(np.float32), distance)


class Members(NamedTuple):
    """The networks of a model file, whose probabilities are averaged; often one."""

    networks: tuple[Network, ...]
    metadata: EnsembleMetadata


def is_network(path: str | Path) -> bool:
    """Whether a path looks like a trained network, by its content and not by its name.

    Such a file may still be damaged or of another kind, which ``load_network`` reports.
    """
    path = Path(path)
    if path.is_dir():
        return (path / CHECKPOINTS).is_dir() or is_bundle(path / ENSEMBLE)
    try:
        with zipfile.ZipFile(path) as archive:
            return is_bundle(path) or any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):  # no archive, or a damaged one
        return _is_onnx(path)


def _is_onnx(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(132)
    # A data set of DICOM without its preamble begins with the tag 0008,0005, little endian.
    return head[:1] == IR_VERSION and head[1:2] != b"\0" and head[128:] != b"DICM"


def load_network(
    path: str | Path, *, threads: int | None = None, gpus: int | None = None, trusted: Sequence[str] = ()
) -> Network:
    """Loads a trained network, recognized by its content and not by its name.

    Args:
        path: A run's folder (its best epoch is used), a checkpoint, a bundle, or an ONNX file. The members of
            an ensemble become one network, the mean.
        threads: Number of CPU threads; None leaves it to PyTorch or onnxruntime. PyTorch's hold for all
            networks of the process.
        gpus: None uses a GPU if there is one; 0 is the CPU, 1 a GPU. ONNX files run on the CPU.
        trusted: Code that a model file may name as its backbone; see ``ich.models.load_slice_net``.

    Raises:
        UserError: If the file is missing, damaged or not a model, an ensemble is not one network, or there is
            no such GPU or number of threads.
    """
    networks, metadata = load_members(path, threads=threads, gpus=gpus, trusted=trusted)
    return networks[0] if len(networks) == 1 else MeanNetwork(networks, metadata)


def load_members(
    path: str | Path,
    *,
    threads: int | None = None,
    gpus: int | None = None,
    trusted: Sequence[str] = (),
    engine: str | Path | None = None,
) -> Members:
    """Loads the networks of a model file, those of an ensemble one by one; arguments as ``load_network``.

    Args:
        path: As ``load_network`` takes it.
        threads: As ``load_network`` takes it.
        gpus: As ``load_network`` takes it.
        trusted: As ``load_network`` takes it.
        engine: File from ``ich doctor --tune`` or ``ich quantize``, which says how to compute; None is the
            default.

    Raises:
        UserError: As ``load_network`` does, but members may have different inputs; if ``engine`` is damaged
            or stale.
    """
    check_threads(threads)
    path = find_checkpoint(path, "best")
    if _is_onnx(path):
        from ich.networks.onnx import OnnxNetwork  # its packages are an extra

        if gpus:
            raise UserError(
                f"gpus={gpus}: {path} is an ONNX file, which runs on the CPU; leave out gpus, or use 0"
            )
        if engine is not None:
            raise UserError(f"--engine is for PyTorch, but {path} is an ONNX file: leave it out")
        network = OnnxNetwork(path, threads=threads)
        return Members((network,), EnsembleMetadata((network.metadata,)))
    ensemble = load_ensemble(path, trusted=trusted)
    if threads is not None:
        torch.set_num_threads(threads)
    engines = load_engines(engine, path, len(ensemble.nets))
    sha256 = hash_file(path)
    networks = tuple(
        TorchNetwork(net, sha256, gpus=gpus, engine=each)
        for net, each in zip(ensemble.nets, engines, strict=True)
    )
    return Members(networks, ensemble.metadata)


def check_slices(spec: InputSpec, hu: NDArray[np.int16], window: NDArray[np.float32] | None) -> None:
    """Checks that slices fit a network.

    Raises:
        ValueError: Naming what does not fit.
    """
    shape = (len(hu), spec.depth, spec.size, spec.size)
    if hu.dtype != np.int16 or hu.shape != shape or not len(hu):
        raise ValueError(
            f"expected int16 HU of shape (N, {spec.depth}, {spec.size}, {spec.size}), "
            f"found {hu.dtype} {hu.shape}"
        )
    if "dicom" in spec.windows and (window is None or window.shape != (len(hu), 2)):
        found = "none" if window is None else window.shape
        raise ValueError(f"expected the header's windows, ({len(hu)}, 2) centers and widths, found {found}")


def split(
    spec: InputSpec, hu: NDArray[np.int16], window: NDArray[np.float32] | None
) -> list[tuple[NDArray[np.int16], NDArray[np.float32] | None]]:
    """Splits slices into batches of at most ``BATCH``, with their header's windows if used."""
    parts = [slice(start, start + BATCH) for start in range(0, len(hu), BATCH)]
    if window is None or "dicom" not in spec.windows:
        return [(hu[part], None) for part in parts]
    return [(hu[part], window[part].astype(np.float32)) for part in parts]


def join(parts: Sequence[Sequence[NDArray[np.float32]]]) -> Output:
    """Joins the outputs of a network for batches: probabilities, and distances if there are any.

    Raises:
        UserError: If an output is not a number, because it would be below every threshold.
    """
    probs, *distance = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not ((probs >= 0) & (probs <= 1)).all() or not np.isfinite(distance).all():
        raise UserError("the outputs of the network are not probabilities and distances; it is damaged")
    return Output(probs, distance[0] if distance else None)


def _choose_device(gpus: int | None) -> torch.device:
    there = torch.cuda.device_count()
    if gpus is not None and not 0 <= gpus <= min(there, 1):
        raise UserError(
            f"gpus={gpus}: this machine has {there} GPUs, and a network uses one; leave it out to use a GPU "
            "if there is one, or use 0 for the CPU"
        )
    return torch.device("cuda" if (there if gpus is None else gpus) else "cpu")


def _exactly(device: torch.device) -> AbstractContextManager[None]:
    """Makes convolutions on a GPU exact: full precision, and the same algorithm in each call."""
    if device.type == "cpu":
        return nullcontext()
    return cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
