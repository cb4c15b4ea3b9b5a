"""Finds the grid of features in a network for a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import timm
import torch
from torch import Tensor, nn

from ich.schema import UserError

FINE = 12
"""A grid with at least this many cells a side is fine enough: a cell is then 15 to 20 mm of a head."""

_LEAST = 1e-3  # share that must remain after the sum over channels; rounding in float32 leaves less than 1e-5
_NOISE = 4  # images of noise that show where a cell looks


class Classifier(Protocol):
    """A model that can be explained: logits for labels from a timm or another convolutional backbone."""

    backbone: nn.Module
    training: bool

    def __call__(self, x: Tensor, /) -> Tensor:
        """Maps (N, C, S, S) images to (N, L) logits, one per label."""


class Layout(NamedTuple):
    """How a grid of features lies in a tensor."""

    kind: Literal["NCHW", "NHWC", "tokens"]
    side: int  # cells
    prefix: int = 0  # tokens before those of the grid, such as the class token

    def to_grid(self, features: Tensor) -> Tensor:
        """Returns the features as (N, C, h, w)."""
        if self.kind == "tokens":
            tokens = features[:, self.prefix :].transpose(1, 2)  # (N, C, T)
            return tokens.reshape(*tokens.shape[:2], self.side, self.side)
        return features if self.kind == "NCHW" else features.permute(0, 3, 1, 2)

    def from_grid(self, grid: Tensor, features: Tensor) -> Tensor:
        """Undoes ``to_grid``; the tokens before the grid are those of ``features``."""
        if self.kind == "tokens":
            return torch.cat([features[:, : self.prefix], grid.flatten(2).transpose(1, 2)], dim=1)
        return grid if self.kind == "NCHW" else grid.permute(0, 2, 3, 1)


@dataclass(frozen=True)
class Grid:
    """A grid of features in a network.

    Attributes:
        name: The module's name in the backbone.
        module: The module whose output is the grid.
        layout: Position of the grid in the tensor.
        shift: Pixels of the image, down and to the right, from the middle of a cell's own square to the
            middle of the region that it looks at. Convolutions that halve the size look half a cell to the
            upper left.
    """

    name: str
    module: nn.Module
    layout: Layout
    shift: tuple[float, float] = (0.0, 0.0)


def find_grid(model: Classifier, x: Tensor, grids: Sequence[Grid] | None = None) -> Grid:
    """Finds the last grid of features that is fine enough, or else the finest.

    Args:
        model: In evaluation mode.
        x: (N, C, S, S) input of the model. Its first image and the spread of its values are used.
        grids: Grids to choose from; by default ``list_grids``.

    Raises:
        UserError: If the backbone has no grid, or none with information.
        ValueError: If the model is in training mode.
    """
    with gradients(model, x) as x:
        latest = (list_grids(model, x[:1]) if grids is None else grids)[::-1]
        for grid in sorted(latest, key=lambda grid: -min(grid.layout.side, FINE)):
            if _is_informative(model, x[:1], grid):
                return replace(grid, shift=_measure_shift(model, x, grid))
    raise UserError(
        f"no heat map of {type(model.backbone).__name__}: it has no square grid of features; explain a "
        "model with another backbone"
    )


@contextmanager
def gradients(model: Classifier, x: Tensor) -> Iterator[Tensor]:
    """Gives a copy of the input that records gradients, even if the caller has switched them off.

    Raises:
        ValueError: If the model is in training mode.
    """
    if model.training:
        raise ValueError("maps of a model in training mode are random: call model.eval() first")
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone()
        yield (x if x.is_floating_point() else x.float()).requires_grad_()


def list_grids(model: Classifier, x: Tensor) -> list[Grid]:
    """Lists grids in the order of the network.

    They are those that timm lists for a backbone, or where it lists none any convolution's; and those that
    are normalized cell by cell. Some transformers continue with their class token only. The other tokens then
    carry information for the last time after the normalization in the last block.
    """
    backbone = model.backbone
    prefix = int(getattr(backbone, "num_prefix_tokens", 0))
    listed = [(info["module"], info["num_chs"]) for info in getattr(backbone, "feature_info", None) or ()]
    channels: dict[str, int] = dict(listed) or {
        name: module.out_channels
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    channels |= {
        name: module.normalized_shape[-1]
        for name, module in backbone.named_modules()
        if isinstance(module, nn.LayerNorm | nn.RMSNorm | timm.layers.RmsNorm)
    }
    found: list[Grid] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        layout = _find_layout(output, channels[name], prefix)
        if layout is not None:
            found.append(Grid(name, module, layout))

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in backbone.named_modules()
        if name in channels
    ]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _find_layout(features: Any, channels: int, prefix: int) -> Layout | None:
    if not isinstance(features, Tensor):
        return None
    shape = tuple(features.shape[1:])
    if len(shape) == 3 and shape[0] == channels and shape[1] == shape[2] > 1:
        return Layout("NCHW", shape[1])
    if len(shape) == 3 and shape[2] == channels and shape[0] == shape[1] > 1:
        return Layout("NHWC", shape[0])
    if len(shape) == 2 and shape[1] == channels:
        for before in (prefix, 0):  # some put the class token to the others late
            side = math.isqrt(max(0, shape[0] - before))
            if side > 1 and side * side == shape[0] - before:
                return Layout("tokens", side, before)
    return None


@contextmanager
def detour(grid: Grid) -> Iterator[nn.Module]:
    """Leads a grid through a module of its own as (N, C, h, w), to be hooked there."""
    passage = nn.Identity()

    def lead(_: nn.Module, __: tuple[Any, ...], features: Tensor) -> Tensor:
        cells = passage(grid.layout.to_grid(features))
        # A copy, because the next module may work in place.
        return grid.layout.from_grid(cells, features).clone()

    handle = grid.module.register_forward_hook(lead)
    try:
        yield passage
    finally:
        handle.remove()


def _pass(model: Classifier, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Returns the logits and the grid that they come from."""
    cells: list[Tensor] = []
    with detour(grid) as passage:
        passage.register_forward_hook(lambda *hooked: cells.append(hooked[-1]))
        logits = model(x)
    return logits, cells[-1]


def _is_informative(model: Classifier, x: Tensor, grid: Grid) -> bool:
    """Whether the products of gradients and activations on a grid carry information.

    They are 0 if the logits do not depend on the grid. If a normalization of each cell comes next, they
    cancel out over the channels of every cell, because the scale of its features then has no effect.
    """
    logits, cells = _pass(model, x, grid)
    (gradient,) = torch.autograd.grad(logits[:, -1].sum(), cells, allow_unused=True)
    if gradient is None:
        return False
    products = (gradient * cells).detach()
    return bool(products.sum(dim=1).abs().mean() > _LEAST * products.abs().sum(dim=1).mean())


def _measure_shift(model: Classifier, x: Tensor, grid: Grid) -> tuple[float, float]:
    """Measures how far from their own squares the cells in the middle look, down and to the right, in pixels.

    A cell looks at the mean place of the squared gradient of its features, with random signs, on noise: its
    effective receptive field (Luo et al., NeurIPS 2016). A patch of a transformer looks at its own square.
    """
    if grid.layout.kind == "tokens":
        return 0.0, 0.0
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn((_NOISE, *x.shape[1:]), generator=chance).to(x)
    noise = (x.mean() + x.std() * noise).detach().requires_grad_()
    _, cells = _pass(model, noise, grid)
    signs = torch.randint(0, 2, cells.shape[:2], generator=chance).to(cells) * 2 - 1
    side, size = grid.layout.side, x.shape[-1]
    pixels = torch.arange(size, device=x.device) + 0.5
    places, middle = [], sorted({(side - 1) // 2, side // 2})
    for cell in middle:
        (gradient,) = torch.autograd.grad(
            (cells[:, :, cell, cell] * signs).sum(), noise, retain_graph=True
        )  # (N, C, S, S)
        power = gradient.double().square().sum(dim=(0, 1)) + torch.finfo(torch.float64).tiny
        power /= power.sum()
        places.append([float((power.sum(dim=axis) * pixels).sum()) for axis in (1, 0)])
    down, right = (sum(values) / len(middle) - size / 2 for values in zip(*places, strict=True))
    return down, right
