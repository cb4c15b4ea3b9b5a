"""Ways to compute a network on the CPU, and the file that names the one for a machine.

``ich doctor --tune`` measures and writes the file, and ``ich predict --engine`` takes it. It is JSON, an
``EngineFile``. It names no user, host or folder.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ich.files import hash_file, replacing
from ich.machine import Processor, read_processor
from ich.machine.packages import list_versions
from ich.models import SliceNet
from ich.schema import DISCLAIMER, UserError
from ich.schema.formats import (
    STRICT,
    Count,
    Digest,
    Explanation,
    NotNegative,
    Positive,
    Share,
    Text,
    read_fields,
    read_plain,
    to_plain,
)

Engine = Literal[
    "float32",
    "float32-compiled",
    "float32-openvino",
    "bfloat16",
    "bfloat16-compiled",
    "bfloat16-openvino",
]

ENGINES: tuple[Engine, ...] = get_args(Engine)
"""All engines. The first is the default, by which models are trained and evaluated on a CPU. With
``bfloat16`` the backbone multiplies numbers of 8 significant bits, and all that follows has 24."""

PACKAGES = ("torch", "timm", "openvino")
"""Packages that compute, whose versions an engine is measured with."""

_LARGEST = 64 * 1024  # bytes

Extract = Callable[[Tensor], Tensor]


class Quantized(NamedTuple):
    """A backbone in int8, of one network.

    Attributes:
        name: Its name for results.
        extract: Computes features of images.
    """

    name: str
    extract: Extract


def make_extract(net: SliceNet, engine: Engine) -> Extract:
    """Returns a function from images to features that computes as an engine does.

    Args:
        net: The network; on the CPU unless the engine is the default.
        engine: The engine. A compiled one compiles when it gets its first images, which may take a minute.

    Raises:
        UserError: If the engine needs a package that is not installed, or cannot compute this network here.
    """
    kind, _, how = engine.partition("-")
    if how == "openvino":
        from ich.networks.openvino import Compiled, find_backbone  # its package is an extra

        return Compiled(find_backbone(net), kind)
    extract: Extract = net.extract
    if how == "compiled":
        extract = torch.compile(extract, dynamic=True)
    if kind == "float32":
        return extract

    def extract_in_bfloat16(image: Tensor) -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16):
            return extract(image).float()

    return extract_in_bfloat16


@dataclass(frozen=True)
class Candidate:
    """What was measured of a way to compute a network.

    Attributes:
        name: An engine, or ``onnxruntime``.
        milliseconds: Time of a slice; None if it does not work.
        preparation: Seconds until the first results; None if it does not work.
        difference: Largest difference of a probability from the default engine; None if it does not work.
        refusal: Why it cannot be chosen; None if it can.
    """

    name: Text
    milliseconds: Positive | None
    preparation: NotNegative | None
    difference: Share | None
    refusal: Explanation | None


@dataclass(frozen=True)
class EngineFile:
    """The engine of a model on a machine, with what it was chosen by.

    Attributes:
        engine: The engine.
        model: SHA-256 of the file of the model.
        processor: The processor.
        versions: Versions of the packages that compute.
        threads: Number of threads of the measurement.
        slices: Number of slices of the measurement.
        tolerance: Largest difference of a probability that was allowed.
        candidates: What was measured.
        format: Name and version of this format.
        note: The disclaimer.
    """

    __pydantic_config__ = STRICT

    engine: Engine
    model: Digest
    processor: Processor
    versions: Mapping[str, Text | None]
    threads: Count
    slices: Count
    tolerance: Share
    candidates: tuple[Candidate, ...]
    format: Literal["ich engine 1"] = field(default="ich engine 1", kw_only=True)
    note: Text = field(default=DISCLAIMER, kw_only=True)


def load_engines(path: str | Path | None, model: str | Path, count: int) -> Sequence[Engine | Quantized]:
    """Loads how the networks of a model are to be computed.

    Args:
        path: File of ``ich doctor --tune`` or of ``ich quantize``; None is the default.
        model: The file of the model.
        count: Number of its networks.

    Raises:
        UserError: If the file is damaged or stale.
    """
    if path is None:
        return [ENGINES[0]] * count
    if zipfile.is_zipfile(path):
        from ich.networks.int8 import read_int8  # its package is an extra

        return read_int8(Path(path), model, count)
    return [read_engine(path, model)] * count


def write_engine(found: EngineFile, path: Path) -> None:
    """Writes the file.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        with replacing(path) as partial:
            partial.write_text(json.dumps(to_plain(found), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"the engine {path} cannot be written: {error.strerror or error}") from error


def read_engine(path: str | Path, model: str | Path) -> Engine:
    """Reads which engine a model is to be computed with.

    Args:
        path: The file.
        model: The file of the model.

    Raises:
        UserError: If the file is damaged, or was measured for another model, processor or version.
    """
    found = read_plain(EngineFile, read_fields(Path(path), "engine", _LARGEST), str(path))
    here = read_processor()
    pairs = [("processor", found.processor.name, here.name)]
    used = list_versions(PACKAGES)
    pairs += [(name, found.versions.get(name) or "none", version or "none") for name, version in used.items()]
    stale = next((f"with {name} {old}, and here is {new}" for name, old, new in pairs if old != new), None)
    if found.model != hash_file(model):
        stale = f"for another model than {model}"
    elif stale is None and found.processor != here:
        stale = "on a processor with other instructions"
    if stale is not None:
        raise UserError(
            f"{path} was measured {stale}: measure again by `ich doctor --tune {model} --engine {path}`"
        )
    return found.engine
