"""Backbones that OpenVINO computes on the CPU.

Converting a backbone takes some seconds, so it is kept in the user's cache. Compiling takes 50 ms.

OpenVINO's package sends usage data over the network when it is imported, unless its package for that is out
of reach. It is out of reach here.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ich import __version__
from ich.files import find_cache, for_owner_only, replacing
from ich.models import SliceNet, hash_weights
from ich.schema import UserError

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # an import of it fails from now on
try:
    import openvino
except ImportError as error:
    raise UserError(
        "engines of OpenVINO need openvino, which is not installed: pip install 'ich[openvino]'"
    ) from error

TOLERANCE = 1e-3
"""Largest relative difference from PyTorch that features of noise may have, both in 32 bits."""

KEPT = 8
"""Number of converted backbones that the cache keeps."""

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class Compiled:
    """A backbone that OpenVINO computes: (N, C, S, S) images -> (N, F) features, for one thread at a time.

    Args:
        model: The converted backbone.
        kind: ``float32`` or ``bfloat16``: how it multiplies where the model does not say.

    Raises:
        UserError: If the processor has no instructions for bfloat16.
    """

    def __init__(self, model: openvino.Model, kind: str) -> None:
        core = openvino.Core()
        if kind == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UserError("the processor has no instructions for bfloat16, which OpenVINO needs")
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[kind],  # OpenVINO's own choice depends on the processor
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }
        self._compiled = core.compile_model(model, "CPU", settings)

    def __call__(self, image: Tensor) -> Tensor:
        """Computes the features."""
        return torch.from_numpy(self._compiled(image.contiguous().numpy())[0])


def find_backbone(net: SliceNet) -> openvino.Model:
    """Returns the converted backbone of a network, from the user's cache if it is there.

    A backbone of the user's own is always converted, because its code may have changed.

    Raises:
        UserError: As ``convert_backbone`` does.
    """
    if net.metadata.model.own is not None:
        return convert_backbone(net)
    versions = __version__, torch.__version__, openvino.__version__
    key = hashlib.sha256(f"{versions} {net.metadata.model} {hash_weights(net)}".encode()).hexdigest()
    kept = Path("openvino", f"{key}.zip")  # in the cache
    none = OSError, RuntimeError, ValueError, LookupError, zipfile.BadZipFile  # not there, or damaged
    with suppress(*none), zipfile.ZipFile(find_cache() / kept) as archive:
        return read_models(archive, 1)[0]
    model = convert_backbone(net)
    with suppress(OSError, RuntimeError), for_owner_only():  # without a home, it is converted each time
        folder = (find_cache() / kept).parent
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / kept.name) as new, zipfile.ZipFile(new, "w") as archive:
            write_models(archive, [model])
        for old in sorted(folder.glob("*.zip"), key=lambda path: path.stat().st_mtime)[:-KEPT]:
            old.unlink()
    return model


def convert_backbone(net: SliceNet) -> openvino.Model:
    """Converts the backbone of a network on the CPU, and checks it on noise against PyTorch.

    Raises:
        UserError: If OpenVINO cannot convert it, or its features differ by more than ``TOLERANCE``.
    """
    shape = net.input.in_chans, net.input.size, net.input.size
    name = net.metadata.model.backbone
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns about each size that it takes as fixed
            example = torch.zeros(2, *shape)
            traced = torch.jit.trace(_Backbone(net).eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
            model = openvino.convert_model(traced, input=[-1, *shape])
    except Exception as error:  # of its own kinds, which share no base
        raise UserError(
            f"OpenVINO cannot convert {name} ({type(error).__name__}): use another engine"
        ) from error
    # Three images, because tracing could have fixed their number to that of the example.
    image = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = net.extract(image)
    difference = float((Compiled(model, "float32")(image) - expected).norm() / expected.norm())
    if not difference <= TOLERANCE:
        raise UserError(
            f"OpenVINO's features of {name} differ from those of PyTorch by {difference:.1e} of their size: "
            "use another engine"
        )
    return model


def write_models(archive: zipfile.ZipFile, models: Sequence[openvino.Model]) -> None:
    """Writes converted backbones into an archive, without compression."""
    with tempfile.TemporaryDirectory(prefix="ich-") as scratch:
        for number, model in enumerate(models):
            graph = Path(scratch, f"{number}.xml")
            openvino.save_model(model, graph, compress_to_fp16=False)
            for path in (graph, graph.with_suffix(".bin")):
                archive.write(path, path.name)


def read_models(archive: zipfile.ZipFile, count: int) -> list[openvino.Model]:
    """Reads converted backbones from an archive.

    Args:
        archive: What ``write_models`` has written into; its checksums are checked.
        count: Number of backbones.

    Raises:
        RuntimeError: If OpenVINO cannot read one.
        KeyError: If there are fewer.
        zipfile.BadZipFile: If the archive is damaged.
    """
    core = openvino.Core()
    return [
        core.read_model(archive.read(f"{number}.xml"), archive.read(f"{number}.bin"))
        for number in range(count)
    ]


class _Backbone(nn.Module):
    """What OpenVINO converts."""

    def __init__(self, net: SliceNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        return self.net.extract(image)
