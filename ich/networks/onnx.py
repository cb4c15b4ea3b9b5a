"""ONNX files: networks that onnxruntime runs on the CPU, without PyTorch.

An exported network is data, like a bundle. Its metadata is checked exactly, its graph may hold only the
standard's operators, and no other file is read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ich.model_files.ensemble import EnsembleMetadata
from ich.model_files.metadata import ModelMetadata, Versions, upgrade_file
from ich.networks import Output, check_slices, join, split
from ich.schema import DISCLAIMER, UserError
from ich.schema.formats import STRICT, Positive, Text, parse_fields, read_plain, to_plain

try:
    import onnx
    import onnxruntime
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise UserError(
        f"ONNX files need {error.name}, which is not installed: pip install 'ich[onnx]'"
    ) from error

KEY = "ich"
"""Key in the file's metadata that holds the description as JSON."""

_OLDER = ("ich network 1", "ich network 2", "ich network 3")

_LARGEST_DESCRIPTION = 1024 * 1024  # characters; see ich.model_files.bundle

_NESTED = {
    *(onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS),
    *(onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS),
}


@dataclass(frozen=True)
class Description:
    """Description of the network in an ONNX file, as JSON under ``KEY``.

    Attributes:
        format: Name and version of this format.
        note: The disclaimer.
        ensemble: Metadata of the model, or of all whose mean the network is.
        limit: Distance above which a study is out of distribution; None without distances.
        versions: Versions of the libraries at the export.
    """

    __pydantic_config__ = STRICT

    format: Literal["ich network 4"] = field(default="ich network 4", kw_only=True)
    note: Text = field(default=DISCLAIMER, kw_only=True)
    ensemble: EnsembleMetadata
    limit: Positive | None
    versions: Versions

    def to_text(self) -> str:
        """Returns the text that stands in a file's metadata."""
        return json.dumps(to_plain(self) | {"ensemble": self.ensemble.to_plain()}, allow_nan=False)


class OnnxNetwork:
    """A network that onnxruntime runs on the CPU.

    Args:
        path: An ONNX file that ``ich.networks.export`` wrote.
        threads: Number of CPU threads; None leaves it to onnxruntime.

    Raises:
        UserError: If the file is damaged or not such a network.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        content = path.read_bytes()
        description = _check(content, str(path))
        self.metadata = description.ensemble.joined
        self.name = description.ensemble.name
        self.limit = description.limit
        self.input = self.metadata.model.input
        self.sha256 = hashlib.sha256(content).hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.use_deterministic_compute = True
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of its own kinds, which share no base
            raise UserError(f"{path} is not a network that onnxruntime can run: {error}") from error

    def run(
        self,
        hu: NDArray[np.int16],
        window: NDArray[np.float32] | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> Output:
        """Runs the network; see ``ich.networks.Network``."""
        check_slices(self.input, hu, window)
        return join([self._run(*batch) for batch in split(self.input, hu, window)])

    def _run(self, hu: NDArray[np.int16], window: NDArray[np.float32] | None) -> list[NDArray[np.float32]]:
        feed: dict[str, NDArray[Any]] = {"hu": np.ascontiguousarray(hu)}
        if window is not None:
            feed["window"] = window
        parts: list[NDArray[np.float32]] = self._session.run(None, feed)
        return parts


def _check(content: bytes, source: str) -> Description:
    """Checks a file's inputs, outputs and metadata."""
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise UserError(f"{source} is not a readable ONNX file: {error}") from error
    texts = [entry.value for entry in model.metadata_props if entry.key == KEY]
    if len(texts) != 1 or len(texts[0]) > _LARGEST_DESCRIPTION:
        raise UserError(f"{source} is another ONNX file: `ich export` did not write it")
    fields = parse_fields(texts[0].encode(), source)
    fields = upgrade_file(fields, Description.format, *_OLDER)
    description = read_plain(Description, fields, source)
    if any(member.series is not None for member in description.ensemble.members):
        raise UserError(f"{source} names a network over series, which an ONNX file does not hold")
    if fault := _find_fault(model):
        raise UserError(f"{source} has {fault}, which does not occur in networks of `ich export`")
    found = {value.name: _to_shape(value) for value in (*model.graph.input, *model.graph.output)}
    expected = _expect_shapes(description.ensemble.joined, description.limit is not None)
    if found != expected:
        raise UserError(f"{source} has the inputs and outputs {found}, but its metadata says {expected}")
    return description


def _expect_shapes(metadata: ModelMetadata, has_distance: bool) -> dict[str, tuple[str | int, ...]]:
    """Returns the expected type and shape of each input and output; N is the number of slices."""
    spec = metadata.model.input
    shapes: dict[str, tuple[str | int, ...]] = {"hu": ("INT16", "N", spec.depth, spec.size, spec.size)}
    if "dicom" in spec.windows:
        shapes["window"] = ("FLOAT", "N", 2)
    shapes["probs"] = ("FLOAT", "N", len(metadata.labels.names))
    if has_distance:
        shapes["distance"] = ("FLOAT", "N")
    return shapes


def _to_shape(value: Any) -> tuple[str | int, ...]:
    tensor = value.type.tensor_type
    sizes = [size.dim_param or size.dim_value for size in tensor.shape.dim]
    return (onnx.TensorProto.DataType.Name(tensor.elem_type), *sizes)


def _find_fault(model: onnx.ModelProto) -> str | None:
    """Finds content other than standard operators in one flat graph and their weights."""
    domains = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    if domains or model.functions or {attribute.type for attribute in attributes} & _NESTED:
        return "operators outside the ONNX standard, or nested graphs"
    tensors = [tensor for attribute in attributes for tensor in (attribute.t, *attribute.tensors)]
    tensors += model.graph.initializer
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        return "weights in other files"
    return None
