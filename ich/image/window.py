"""Windowing: Hounsfield units to the gray values that a network sees."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ich.schema import WINDOWS, InputSpec

__all__ = ["Window", "apply_window", "window_batch"]

# Means over ImageNet's three channel means (0.485, 0.456, 0.406) and deviations (0.229, 0.224, 0.225).
# A window is gray, so all its channels get the same values.
IMAGENET_MEAN = 0.449
IMAGENET_STD = 0.226
IMAGENET_RGB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's, in terms of [0, 1]


def apply_window(hu: Tensor, center: float | Tensor, width: float | Tensor) -> Tensor:
    """Maps HU to [0, 1] with DICOM's LINEAR_EXACT: ``clip((hu - center) / width + 0.5, 0, 1)``.

    Source: DICOM PS3.3 C.11.2.1.3.2. DICOM's default, LINEAR (C.11.2.1.2.1), is the same mapping with center
    ``c + 0.5`` and width ``w + 1``.

    Args:
        hu: Hounsfield units, any shape and type.
        center: Center in HU; a tensor broadcasts against ``hu``.
        width: Width in HU, above 0; a tensor broadcasts against ``hu``.

    Returns:
        Values in [0, 1] of the broadcast shape, float32 (float64 if ``hu`` is).
    """
    # Half precision is too coarse: beyond a few hundred HU it cannot hold every integer.
    hu = hu.to(torch.promote_types(hu.dtype, torch.float32))
    return ((hu - center) / width).add_(0.5).clamp_(0.0, 1.0)


class Window(nn.Module):
    """Turns a batch of HU into the channels of a network, as an ``InputSpec`` describes them.

    The channels are ordered by slice, then by window: with two windows they are slice 0 window 0, slice 0
    window 1, slice 1 window 0, and so on, slices in order of position.

    A learnable window has two parameters, both 0 at the start: ``shift``, how far the center has moved in
    units of the window's first width, and ``log_scale``, the logarithm of the width over the first width. So
    the width stays positive, and one learning rate suits narrow windows, wide windows and the network's own
    weights.

    Args:
        spec: The input. Its windows, normalization and ``learnable`` are used.

    Attributes:
        center: Centers in HU, one per window; NaN for the header's window.
        width: Widths in HU, one per window; NaN for the header's window.
    """

    first_center: Tensor
    first_width: Tensor
    from_header: Tensor
    rgb: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.normalization = spec.normalization
        self.windows = len(spec.windows)
        self.uses_header = "dicom" in spec.windows
        named = {**WINDOWS, "dicom": (float("nan"), float("nan"))}
        pairs = [named[w] if isinstance(w, str) else w for w in spec.windows]
        first = torch.tensor(pairs, dtype=torch.float32).reshape(-1, 2)  # (W, 2)
        # The spec travels in the checkpoint and rebuilds these, so they are not part of the state.
        self.register_buffer("first_center", first[:, 0].clone(), persistent=False)
        self.register_buffer("first_width", first[:, 1].clone(), persistent=False)
        self.register_buffer("from_header", first[:, 0].isnan(), persistent=False)
        self.register_buffer("rgb", torch.tensor(IMAGENET_RGB)[..., None, None], persistent=False)
        self.learnable = spec.learnable
        if spec.learnable:
            self.shift = nn.Parameter(torch.zeros(self.windows))
            self.log_scale = nn.Parameter(torch.zeros(self.windows))

    @property
    def center(self) -> Tensor:  # noqa: D102 - described with the class
        if self.learnable:
            return self.first_center + self.first_width * self.shift
        return self.first_center

    @property
    def width(self) -> Tensor:  # noqa: D102 - described with the class
        if self.learnable:
            return self.first_width * self.log_scale.exp()
        return self.first_width

    def forward(
        self, hu: Tensor, header_window: Tensor | None = None, changes: Tensor | None = None
    ) -> Tensor:
        """Windows and normalizes a batch.

        Args:
            hu: (N, D, H, W) Hounsfield units, int16 or floating.
            header_window: (N, 2) center and width in HU from the header of each sample's center slice,
                finite and with a width above 0; applied to all D slices of the sample. Needed with the
                window ``"dicom"``, unused otherwise.
            changes: (N, at least W, 2) for each of the W windows how far its center moves in HU, and the
                factor of its width, above 0; as ``ich.image.augment.Changes`` holds them.

        Returns:
            (N, D * max(1, number of windows), H, W) float32 (float64 if ``hu`` is).

        Raises:
            ValueError: If ``hu`` is not a batch, or if the header's windows are needed but missing.
        """
        if hu.ndim != 4:
            raise ValueError(f"expected HU of shape (N, D, H, W), found {tuple(hu.shape)}")
        if self.normalization == "max_abs":
            return _divide_by_peak(hu)
        center, width = self.center.unsqueeze(0), self.width.unsqueeze(0)  # (1, W)
        if self.uses_header:
            if header_window is None:
                raise ValueError("the window 'dicom' needs header_window: (N, 2) centers and widths in HU")
            center = torch.where(self.from_header, header_window[:, :1], center)  # (N, W)
            width = torch.where(self.from_header, header_window[:, 1:], width)  # (N, W)
        if changes is not None:
            movement, factor = changes[:, : self.windows].unbind(2)
            center, width = center + movement, width * factor  # (N, W)
        gray = apply_window(
            hu.unsqueeze(2),  # (N, D, 1, H, W)
            center[:, None, :, None, None],  # (1 or N, 1, W, 1, 1)
            width[:, None, :, None, None],
        )  # (N, D, W, H, W)
        # In place: on a CPU a batch costs as much as the memory that it passes through.
        if self.normalization == "imagenet_rgb":
            gray.sub_(self.rgb[0]).div_(self.rgb[1])
        gray = gray.flatten(1, 2)  # (N, D * W, H, W)
        if self.normalization == "imagenet":
            return gray.sub_(IMAGENET_MEAN).div_(IMAGENET_STD)
        if self.normalization == "symmetric":
            return gray.mul_(2).sub_(1)
        return gray


def window_batch(
    window: Window, hu: Tensor, header_window: Tensor | None = None, changes: Tensor | None = None
) -> Tensor:
    """Windows a batch without gradients, as ``window`` does, but on a CPU in a third of the time.

    It works slice by slice, so that the data stay in the processor's cache.

    Args:
        window: The window to apply.
        hu: (N, D, H, W) Hounsfield units.
        header_window: (N, 2) center and width in HU, if the window needs them.
        changes: As ``Window.forward`` takes them.

    Returns:
        (N, C, H, W), as ``window`` returns it.
    """
    with torch.no_grad():
        if hu.device.type != "cpu" or len(hu) < 2:
            return cast("Tensor", window(hu, header_window, changes))
        extras = [
            [None] * len(hu) if each is None else each[:, None].unbind() for each in (header_window, changes)
        ]
        first, *others = zip(hu[:, None].unbind(), *extras, strict=True)
        image: Tensor = window(*first)
        batch = image.new_empty(len(hu), *image.shape[1:])
        batch[:1] = image
        for number, sample in enumerate(others, 1):
            batch[number : number + 1] = window(*sample)
        return batch


def _divide_by_peak(hu: Tensor) -> Tensor:
    hu = hu.to(torch.promote_types(hu.dtype, torch.float32))
    peak = hu.abs().amax(dim=(2, 3), keepdim=True)  # (N, D, 1, 1)
    return hu / torch.where(peak > 0, peak, 1.0)  # a slice of zeros stays zero
