"""Measures on this machine which engine computes a model fastest."""

from __future__ import annotations

import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ich.files import hash_file
from ich.machine import read_processor
from ich.machine.packages import list_versions
from ich.model_files.checkpoint import find_checkpoint
from ich.networks import Network, Output, TorchNetwork, load_members
from ich.networks.engines import (
    ENGINES,
    PACKAGES,
    Candidate,
    Engine,
    EngineFile,
    Quantized,
    load_engines,
)
from ich.networks.slices import Slices, find_slices
from ich.progress import track
from ich.schema import InputSpec, UserError

TOLERANCE = 0.02
"""Largest difference of a probability from the default engine that an engine may have, by default."""

GAIN = 0.95
"""An engine is chosen if it takes at most this share of the time of the default one."""

WORK = 35_000
"""Slices for which engines are compared, about those of 1,000 studies. Each also takes its time to get ready,
such as for compiling, in each call of ``ich predict``."""

ONNX = "onnxruntime"
"""A candidate that needs a file of its own, from ``ich export``."""

INT8 = "int8-openvino"
"""A candidate that needs a file of its own, from ``ich quantize``."""

_SECONDS = 4.0  # of the measurement of a candidate
_BATCHES = 8  # of slices, at most
_SPACING = 5.0  # mm between slices, which a network over series wants to know

Load = Callable[[], Sequence[Network]]


def tune(
    model: Path,
    studies: Sequence[Path] = (),
    *,
    threads: int | None = None,
    tolerance: float = TOLERANCE,
    int8: Path | None = None,
    trusted: Sequence[str] = (),
) -> EngineFile:
    """Measures each engine for some seconds, and chooses the fastest one that agrees with the default.

    Compiling comes on top of these seconds. Nothing is chosen for a GPU.

    Args:
        model: A run's folder, a checkpoint or a bundle.
        studies: DICOM files and folders to compare the engines on; by default slices of the phantom.
        threads: Number of CPU threads; None leaves it to PyTorch.
        tolerance: Largest difference of a probability from the default engine.
        int8: File of ``ich quantize`` to measure as well; it is never chosen.
        trusted: Code that a model file may name as its backbone.

    Raises:
        UserError: If the model or the slices cannot be read, the model is an ONNX file, or ``ich
            quantize`` did not write ``int8``.
    """
    if int8 is not None and not zipfile.is_zipfile(int8):
        raise UserError(f"--int8 {int8} is not a file of `ich quantize`")
    path = find_checkpoint(model, "best")
    members, _ = load_members(path, threads=threads, gpus=0, trusted=trusted)
    nets = [network for network in members if isinstance(network, TorchNetwork)]
    if not nets:
        raise UserError(f"{model} is an ONNX file, for which there is nothing to choose: give its bundle")
    slices = [_gather(net.input, studies) for net in nets]
    expected = _run(nets, slices)
    candidates = []
    with tempfile.TemporaryDirectory(prefix="ich-") as scratch:
        ways = dict(_list_ways(nets, path, int8, Path(scratch), trusted))
        for name, load in track(ways.items(), "Measuring engines", len(ways), shown=True):
            candidates.append(_measure(name, load, slices, expected, tolerance))
    count = sum(len(hu) for hu, _ in slices)
    return EngineFile(
        choose(candidates), hash_file(path), read_processor(), list_versions(PACKAGES),
        torch.get_num_threads(), count, tolerance, tuple(candidates),
    )  # fmt: skip


def choose(candidates: Sequence[Candidate]) -> Engine:
    """Chooses the engine that is done first with ``WORK``, or the default if none is clearly faster.

    An engine that is refused is not chosen.
    """
    default: Engine = ENGINES[0]
    times = {
        each.name: WORK * each.milliseconds + 1000 * (each.preparation or 0.0)
        for each in candidates
        if each.milliseconds and not each.refusal
    }
    known: list[Engine] = [name for name in ENGINES if name in times]
    fastest = min(known, key=lambda name: times[name], default=default)
    return fastest if fastest in times and times[fastest] <= GAIN * times.get(default, 0.0) else default


def _gather(spec: InputSpec, studies: Sequence[Path]) -> Slices:
    """Gathers slices of a few batches."""
    batches = list(islice(find_slices(studies, spec), _BATCHES if studies else 1))
    if not batches:
        raise UserError("none of the slices to compare engines on can be read; give other studies")
    windows = [window for _, window in batches if window is not None]
    return np.concatenate([hu for hu, _ in batches]), np.concatenate(windows) if windows else None


def _list_ways(
    nets: Sequence[TorchNetwork], path: Path, int8: Path | None, scratch: Path, trusted: Sequence[str]
) -> Iterator[tuple[str, Load]]:
    """Yields each way to compute networks, with what loads them."""
    for engine in ENGINES:
        yield engine, partial(_load, nets, [engine] * len(nets))
    if int8 is not None:
        yield INT8, lambda: _load(nets, load_engines(int8, path, len(nets)))
    if len(nets) == 1:

        def load() -> Sequence[Network]:
            from ich.networks.export import export_onnx  # its packages are an extra
            from ich.networks.onnx import OnnxNetwork

            export_onnx(path, scratch / "model.onnx", trusted=trusted)
            return [OnnxNetwork(scratch / "model.onnx", threads=torch.get_num_threads())]

        yield ONNX, load


def _load(nets: Sequence[TorchNetwork], engines: Sequence[Engine | Quantized]) -> list[TorchNetwork]:
    pairs = zip(nets, engines, strict=True)
    return [TorchNetwork(net.net, net.sha256, gpus=0, engine=engine) for net, engine in pairs]


def _run(networks: Sequence[Network], slices: Sequence[Slices]) -> list[NDArray[np.float32]]:
    """Returns the probabilities of each network, those of the series last."""
    outputs: list[Output] = [
        network.run(hu, window, _SPACING * np.arange(len(hu), dtype=np.float64))
        for network, (hu, window) in zip(networks, slices, strict=True)
    ]
    parts = [[each.probs, *([] if each.series is None else [each.series[None]])] for each in outputs]
    return [np.concatenate(part) for part in parts]


def _measure(
    name: str, load: Load, slices: Sequence[Slices], expected: Sequence[NDArray[np.float32]], tolerance: float
) -> Candidate:
    start = time.perf_counter()
    times: list[float] = []
    try:
        networks = load()
        found = _run(networks, slices)
        preparation = time.perf_counter() - start
        end = time.perf_counter() + _SECONDS
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            _run(networks, slices)
            times.append(time.perf_counter() - start)
    except UserError as error:
        return Candidate(name, None, None, None, " ".join(str(error).split())[:200])
    except Exception as error:  # compilers raise errors of their own kinds, which share no base
        return Candidate(name, None, None, None, f"does not work here ({type(error).__name__})")
    pairs = zip(found, expected, strict=True)
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    milliseconds = 1000 * statistics.median(times) / len(slices[0][0])
    refusal = None if difference <= tolerance else f"differs by more than {tolerance:g}"
    return Candidate(name, milliseconds, preparation, difference, refusal)
