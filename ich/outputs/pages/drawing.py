"""The pictures of a study's page, readable on a phone and without color."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from PIL import Image

from ich.image.head import find_head
from ich.outputs.pages.views import SliceView
from ich.report.figures import SMALL, TINY, WIDTH, draw_slice
from ich.report.heat import lay_heat
from ich.report.sides import mark_sides
from ich.schema import DISCLAIMER, WINDOWS

_TALLEST = 6.0  # inches
_QUALITY = 80  # of JPEG, for pictures to find one's way; key slices are PNG


Body: TypeAlias = tuple[slice, slice]
"""Bounds of a body in a slice: its rows and columns."""


class Frame(NamedTuple):
    """The part of a slice that is drawn."""

    rows: slice
    columns: slice


def find_frame(views: Sequence[SliceView]) -> Frame:
    """Finds a common crop for some slices of a study, so that they are large and have one scale."""
    return join_bodies([find_body(view.hu) for view in views], [view.hu.shape for view in views])


def join_bodies(bodies: Sequence[Body | None], shapes: Sequence[tuple[int, ...]]) -> Frame:
    """Finds the crop that contains the body in each slice, and a margin.

    If slices have several shapes, or one shows no body, it is the whole slice.

    Args:
        bodies: From ``find_body``.
        shapes: Rows and columns of the slices.
    """
    if not bodies or len(set(shapes)) != 1 or None in bodies:
        return Frame(slice(None), slice(None))
    sides = []
    for axis, length in enumerate(shapes[0]):
        margin = length // 32
        low = min(body[axis].start for body in bodies if body) - margin
        high = max(body[axis].stop for body in bodies if body) + margin
        sides.append(slice(max(low, 0), min(high, length)))
    return Frame(*sides)


def find_body(hu: NDArray[np.int16]) -> Body | None:
    """Finds the bounds of the head, or of another body; None if there is none."""
    left, top, width, height = cv2.boundingRect(find_head(hu).view(np.uint8))
    return (slice(top, top + height), slice(left, left + width)) if width else None


def draw_view(view: SliceView, frame: Frame) -> Figure:
    """Draws a slice in the brain window, and beside it the same slice under its heat map.

    Without a heat map, the subdural window replaces it. The patient's sides are marked if they are known.
    """
    hu = view.hu[frame]
    aspect = view.spacing[0] / view.spacing[1]
    height = WIDTH / 2 * aspect * hu.shape[0] / hu.shape[1]
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    size = (WIDTH, min(height, _TALLEST) + 0.3)
    figure = Figure(figsize=size, layout=layout, facecolor="black")
    left, right = figure.subplots(1, 2)
    draw_slice(left, hu, "brain", aspect)
    if isinstance(view.heat, str):
        draw_slice(right, hu, "subdural", aspect)
    else:
        draw_slice(right, hu, "brain", aspect)
        lay_heat(right, view.heat[frame], aspect=aspect, width=0.7)
    for axes in (left, right) if view.knows_sides else ():
        mark_sides(axes, SMALL)
    figure.supxlabel(f"{DISCLAIMER}.", fontsize=TINY, color="white")
    return figure


def to_gray(hu: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Returns a slice in the brain window, 8 bits."""
    center, width = WINDOWS["brain"]
    share = (hu.astype(np.float32) - (center - width / 2)) / width
    gray: NDArray[np.uint8] = (255 * np.clip(share, 0, 1)).astype(np.uint8)
    return gray


def encode_jpeg(
    gray: NDArray[np.uint8], spacing: tuple[float, float], side: int
) -> tuple[bytes, tuple[int, int]]:
    """Returns a small picture as JPEG, and its width and height.

    Args:
        gray: (Rows, Columns) from ``to_gray``.
        spacing: Distance between rows and between columns, mm.
        side: Longer side of the picture, pixels.
    """
    height, width = gray.shape[0] * spacing[0], gray.shape[1] * spacing[1]  # mm
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    file = io.BytesIO()
    Image.fromarray(gray).resize(size, Image.Resampling.BILINEAR).save(file, "jpeg", quality=_QUALITY)
    return file.getvalue(), size
