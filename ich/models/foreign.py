"""Networks of other programs: their weights under the names of a ``SliceNet``, for a bundle.

Such a network is a timm backbone with one linear layer for the labels. ``InputSpec`` describes its input, and
refuses a scaling of the image that it cannot express. Such a scaling is not folded into the first
convolution: that pads its image with zeros, and a zero would then stand for another gray value, which changes
all features along the borders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from ich.calibration import NotFitted
from ich.files import hash_file
from ich.model_files.metadata import Origin
from ich.models.network import SliceNet
from ich.models.weights import describe_misfit, read_weights
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.labels import RSNA_LABELS, LabelSet


@dataclass(frozen=True)
class Layout:
    """How a foreign network is built, and how its file names and orders things.

    Attributes:
        backbone: Name of a timm model.
        input: What the network sees.
        labels: What it predicts, in the order of its outputs.
        decides: The label behind the outcome of a study; the RSNA's six labels have theirs.
        renamed: Beginnings of the file's names, and ours in their place: ``backbone.`` or ``head.1.``. The
            longest that fits counts. An empty one of ours leaves tensors out.
        channels: ``slice``: ordered by slice, then by window, as ours are; ``window``: by window, then by
            slice.
        link: As in ``SliceNet``.
        pool: As in ``SliceNet``.
        thickness: As in ``ModelMetadata``, mm: much thinner slices are averaged to it.
    """

    backbone: str
    input: InputSpec
    labels: Sequence[str]
    decides: str | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
    channels: str = "slice"
    link: str = "sigmoid"
    pool: Literal["last"] | None = None
    thickness: float | None = None


@dataclass(frozen=True)
class Preset:
    """A public model: its name, its license and its layout."""

    model: str
    license: str
    layout: Layout


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # By its model card and code, revision e6d89c2. Two things differ here: at both ends of a series the
        # end slice repeats, not an empty one, and slices of another size than 512 are resized, not padded.
        "ianpan": Preset(
            "ianpan/ct-head-hemorrhage-detection",
            "MIT",
            Layout(
                backbone="maxvit_tiny_tf_512.in1k",
                input=InputSpec(
                    size=512, neighbors=1, windows=("brain", "subdural", "bone"), normalization="symmetric"
                ),
                labels=LABELS,
                renamed={"backbone.": "backbone.", "linear.": "head.1."},
                pool="last",
                thickness=5.0,  # the usual step of the RSNA 2019 data, on which it was trained
            ),
        )
    }
)
"""Layouts of public models, by the name of their author."""


def import_network(file: Path, layout: Layout, *, weights: str, license: str) -> SliceNet:  # noqa: A002 - its name
    """Makes a network of foreign weights. It has no calibration, operating point or reference.

    Args:
        file: Safetensors, or PyTorch's format, which is read without running its code.
        layout: How the network is built.
        weights: What the weights are, for the metadata.
        license: Their license, as their author states it.

    Raises:
        UserError: If the file does not hold exactly the weights of this layout.
    """
    tensors = _rename(read_weights(file, str(file)), layout.renamed, file)
    label_set = _make_label_set(layout)
    net = SliceNet(
        layout.backbone,
        input=layout.input,
        label_set=label_set,
        drop_rate=0.0,
        drop_path_rate=0.0,
        link=layout.link,
        channels_last=True,
        pool=layout.pool,
    )
    if misfit := describe_misfit(tensors, net, layout.backbone):
        raise UserError(
            f"{file} does not hold the weights of {layout.backbone} with {len(layout.labels)} labels and "
            f"{layout.input.in_chans} channels: {misfit}. Rename them with --map OLD=NEW, to backbone. and "
            "head.1.; leave out others with --map OLD="
        )
    rows = [list(layout.labels).index(name) for name in label_set.names]
    tensors |= {name: tensors[name][rows] for name in ("head.1.weight", "head.1.bias")}
    if layout.channels == "window":
        stem = _find_stem(net)
        tensors[stem] = _order_by_slice(tensors[stem], layout.input)
    net.load_state_dict(tensors)
    origin = Origin(weights, license, hash_file(file))
    net.metadata = replace(
        net.metadata, origin=origin, thickness=layout.thickness, ood=NotFitted("the model was imported")
    )
    return net.eval()


def _rename(tensors: Mapping[str, Tensor], renamed: Mapping[str, str], file: Path) -> dict[str, Tensor]:
    """Renames the tensors of a file."""
    found: dict[str, Tensor] = {}
    used = set()
    for name, value in tensors.items():
        old = max((each for each in renamed if name.startswith(each)), key=len, default=None)
        used.add(old)
        new = name if old is None else renamed[old] + name.removeprefix(old)
        if old is not None and not renamed[old]:
            continue
        if new in found:
            raise UserError(f"--map gives two tensors of {file} the name {new}")
        found[new] = value
    if unused := renamed.keys() - used:
        raise UserError(f"--map {min(unused)}={renamed[min(unused)]}: no tensor of {file} begins like that")
    return found


def _make_label_set(layout: Layout) -> LabelSet:
    if set(layout.labels) == set(LABELS) and len(layout.labels) == len(LABELS):
        return RSNA_LABELS
    return LabelSet(tuple(layout.labels), (1.0,) * len(layout.labels), layout.decides)


def _find_stem(net: SliceNet) -> str:
    """Names the weights of the first convolution."""
    config: Mapping[str, object] = getattr(net.backbone, "pretrained_cfg", {})
    stem = f"backbone.{config.get('first_conv')}.weight"
    if stem not in net.state_dict():
        raise UserError(
            f"--channels window: timm does not name the first layer of {net.metadata.model.backbone}, so its "
            "channels cannot be put into our order"
        )
    return stem


def _order_by_slice(weight: Tensor, spec: InputSpec) -> Tensor:
    """(F, W * D, h, w) weights for channels by window -> (F, D * W, h, w) weights for channels by slice."""
    filters, channels, *kernel = weight.shape
    return (
        weight.reshape(filters, -1, spec.depth, *kernel).transpose(1, 2).reshape(filters, channels, *kernel)
    )
