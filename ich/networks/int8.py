"""Backbones in int8: NNCF quantizes them, a file keeps them beside their model, and OpenVINO computes them.

The file, ``ich int8 1``, is an archive of ``int8.json``, a ``Description``, and the quantized backbones.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from numpy.typing import NDArray

from ich.files import hash_file, replacing
from ich.image.window import window_batch
from ich.machine.packages import list_versions
from ich.model_files.description import BAD_ARCHIVE
from ich.models import SliceNet
from ich.networks.engines import PACKAGES, Quantized
from ich.networks.openvino import Compiled, find_backbone, read_models, write_models
from ich.networks.slices import Slices
from ich.schema import DISCLAIMER, UserError
from ich.schema.formats import STRICT, Count, Digest, Ordinal, Share, Text, parse_fields, read_plain, to_plain

if TYPE_CHECKING:  # ich.networks.openvino imports it in a way that sends no usage data
    import openvino

DESCRIPTION = "int8.json"

_LARGEST = 2_000_000_000  # bytes of a member of the archive
_LARGEST_DESCRIPTION = 64 * 1024  # bytes

_ATTENTION = {"Softmax", "ScaledDotProductAttention"}
"""Operators of transformers, for which NNCF has settings of their own."""


@dataclass(frozen=True)
class Agreement:
    """How a model in int8 agrees with the same in 32 bits.

    Attributes:
        studies: Number of studies that both have read.
        slices: Number of slices in them.
        mean_difference: Mean difference of a probability, over slices and labels.
        largest_difference: Largest difference of a probability.
        changed: Number of studies whose outcome differs.
        changed_labels: Number of labels, over all studies, that are called present by one and not by the
            other.
    """

    studies: Count
    slices: Count
    mean_difference: Share
    largest_difference: Share
    changed: Count
    changed_labels: Count


@dataclass(frozen=True)
class Description:
    """What ``int8.json`` holds.

    Attributes:
        model: SHA-256 of the file of the model.
        backbones: Number of its backbones.
        calibrated_on: Number of slices that the quantization has seen.
        agreement: What was measured before the file was written.
        versions: Versions of the packages that made it.
        format: Name and version of this format.
        note: The disclaimer.
    """

    __pydantic_config__ = STRICT

    model: Digest
    backbones: Ordinal
    calibrated_on: Count
    agreement: Agreement
    versions: Mapping[str, Text | None]
    format: Literal["ich int8 1"] = field(default="ich int8 1", kw_only=True)
    note: Text = field(default=DISCLAIMER, kw_only=True)


def quantize_backbone(net: SliceNet, slices: Sequence[Slices]) -> openvino.Model:
    """Quantizes the backbone of a network, to int8 weights and activations.

    Args:
        net: The network, on the CPU.
        slices: Slices from which the ranges of the activations are measured.

    Raises:
        UserError: If NNCF is not installed or cannot quantize it, or OpenVINO cannot convert it.
    """
    # Its import looks for a compiler of CUDA, which the CPU does not need.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        import nncf
    except ImportError as error:
        raise UserError(
            f"int8 needs {error.name}, which is not installed: pip install 'ich[quantize]'"
        ) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function also sets handlers of others
    model = find_backbone(net)
    images = list(_list_images(net, slices))
    is_transformer = any(op.get_type_name() in _ATTENTION for op in model.get_ops())
    quiet = StringIO()
    try:
        with redirect_stdout(quiet), redirect_stderr(quiet):  # bars, which no setting turns off
            return nncf.quantize(
                model,
                nncf.Dataset(images),
                subset_size=len(images),
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
            )
    except Exception as error:  # of its own kinds, which share no base
        name = net.metadata.model.backbone
        raise UserError(f"NNCF cannot quantize {name} ({type(error).__name__})") from error


def _list_images(net: SliceNet, slices: Iterable[Slices]) -> Iterator[NDArray[Any]]:
    """Yields (1, C, S, S) images, one at a time as NNCF advises."""
    for hu, window in slices:
        header = None if window is None else torch.from_numpy(window)
        images = window_batch(net.window, torch.from_numpy(hu), header).float()
        yield from (image.numpy() for image in torch.split(images, 1))


def to_engine(model: openvino.Model, name: str) -> Quantized:
    """Returns how a network is computed with its quantized backbone.

    Args:
        model: The backbone.
        name: Name for results.
    """
    return Quantized(f"int8-openvino {name}".strip(), Compiled(model, "float32"))


def write_int8(path: Path, description: Description, models: Sequence[openvino.Model]) -> None:
    """Writes the file.

    Raises:
        UserError: If it cannot be written.
    """
    text = json.dumps(to_plain(description), indent=1) + "\n"
    try:
        with replacing(path) as new, zipfile.ZipFile(new, "w") as archive:
            archive.writestr(DESCRIPTION, text)
            write_models(archive, models)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def read_int8(path: Path, model: str | Path, backbones: int) -> list[Quantized]:
    """Reads how the networks of a model are computed in int8.

    Args:
        path: The file.
        model: The file of the model.
        backbones: Number of its networks.

    Raises:
        UserError: If the file is damaged, of another kind, or made from another model.
    """
    source = f"{path}: {DESCRIPTION}"
    expected = [DESCRIPTION, *(f"{n}.{kind}" for n in range(backbones) for kind in ("xml", "bin"))]
    try:
        with zipfile.ZipFile(path) as archive:
            names, sizes = archive.namelist(), [info.file_size for info in archive.infolist()]
            if DESCRIPTION not in names:
                raise UserError(f"{path} is another archive: `ich quantize` did not write it")
            if max(sizes) > _LARGEST or archive.getinfo(DESCRIPTION).file_size > _LARGEST_DESCRIPTION:
                raise UserError(f"{path} is damaged: its parts are too large")
            description = read_plain(Description, parse_fields(archive.read(DESCRIPTION), source), source)
            if description.model != hash_file(model):
                raise UserError(
                    f"{path} was made from another model than {model}: make it anew by `ich quantize {model}`"
                )
            if description.backbones != backbones or names != expected:
                raise UserError(f"{path} is damaged: it does not hold {backbones} backbones")
            models = read_models(archive, backbones)
    except (*BAD_ARCHIVE, OSError) as error:
        raise UserError(f"{path} is damaged, and cannot be read ({type(error).__name__})") from error
    digest = hash_file(path)[:12]
    return [to_engine(each, digest) for each in models]


def list_makers() -> dict[str, str | None]:
    """Lists the versions of the packages that quantize."""
    return list_versions((*PACKAGES, "nncf"))
