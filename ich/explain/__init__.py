"""Heat maps of any network: where in a slice the evidence for a label lies.

A map combines the gradient of the label's logit with the activations on the last grid of features that is
fine enough. captum computes it. This package finds the grid in any backbone, convolutional or transformer
(``grids``), and places the map where its cells look. ``drawing`` draws it over the slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor
from torch.nn import functional as F

from ich.explain.grids import Classifier, Grid, detour, find_grid, gradients
from ich.schema import LABELS, UserError

__all__ = ["explain", "explain_finely"]

METHODS = ("hirescam", "gradcam")


def explain(
    model: Classifier,
    x: Tensor,
    label: str,
    method: str = METHODS[0],
    *,
    names: Sequence[str] = LABELS,
    grid: Grid | None = None,
) -> Tensor:
    """Computes heat maps of the evidence for a label.

    Args:
        model: The model, in evaluation mode. Its gradients do not change.
        x: (N, C, S, S) input of the model.
        label: One of ``names``.
        method: ``hirescam``: each channel of a cell weighted by its own gradient (Draelos and Carin,
            arXiv:2011.08891); ``gradcam``: by the channel's mean gradient (Selvaraju et al., ICCV 2017). With
            a global average and a linear head, both equal the class activation map.
        names: The labels of the model's outputs.
        grid: From ``find_grid``, to search for it only once for many batches.

    Returns:
        (N, S, S) float32 on the device of ``x``: 0 without evidence for the label, and 1 at the peak of the
        slice. A slice without evidence is 0 everywhere.

    Raises:
        UserError: If the label or method is unknown, or no grid is found in the backbone.
        ValueError: If the model is in training mode.
    """
    if label not in names:
        raise UserError(f"label={label}: expected one of {', '.join(names)}")
    if method not in METHODS:
        raise UserError(f"method={method}: expected one of {', '.join(METHODS)}")
    grid = grid or find_grid(model, x)
    with gradients(model, x) as x, detour(grid) as passage:
        attribution = LayerGradCam if method == "gradcam" else LayerGradientXActivation
        map_ = attribution(model, passage).attribute(x, names.index(label))  # (N, 1 or C, h, w)
    return _scale(lay_out(map_.detach().float().sum(dim=1, keepdim=True), grid.shift, x.shape[-1]).relu())


def explain_finely(
    model: Classifier, x: Tensor, label: str, *, names: Sequence[str] = LABELS, grid: Grid | None = None
) -> Tensor:
    """Computes heat maps as ``explain`` does, on a grid that is twice as fine.

    A map is the mean of four: of the image, and of the image moved by half a cell down, right, or both. The
    cells then look at twice as many places in each direction. It takes four times as long.

    Args:
        model: See ``explain``.
        x: (N, C, S, S) input of the model.
        label: One of ``names``.
        names: The labels of the model's outputs.
        grid: From ``find_grid``.

    Returns:
        (N, S, S) as from ``explain``.

    Raises:
        UserError: See ``explain``.
    """
    grid = grid or find_grid(model, x)
    size = x.shape[-1]
    half = max(1, round(size / grid.layout.side / 2))  # pixels
    total = x.new_zeros((len(x), size, size), dtype=torch.float32)
    for down, right in product((0, half), repeat=2):
        moved = F.pad(x.float(), (right, 0, down, 0), mode="replicate")[..., :size, :size]
        heat = explain(model, moved, label, names=names, grid=grid)
        total += F.pad(heat, (0, right, 0, down))[..., down:, right:]
    return _scale(total)


def _scale(heat: Tensor) -> Tensor:
    """Scales maps (N, S, S) to a peak of 1; those without evidence stay 0."""
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return heat / torch.where(peak > 0, peak, 1.0)


def lay_out(map_: Tensor, shift: tuple[float, float], size: int) -> Tensor:
    """Places maps on their images, with linear interpolation between the places where their cells look.

    Args:
        map_: (N, 1, h, w).
        shift: The shift that ``Grid`` holds.
        size: Side of the image, in pixels.

    Returns:
        (N, S, S).
    """
    down, right = (2 * pixels / size for pixels in shift)  # the image spans from -1 to 1
    turn = map_.new_tensor([[1, 0, -right], [0, 1, -down]]).expand(len(map_), 2, 3)
    places = F.affine_grid(turn, [len(map_), 1, size, size], align_corners=False)
    return F.grid_sample(map_, places, "bilinear", "border", align_corners=False)[:, 0]
