"""Makes the other series that a department keeps of the same head, from a drawn study.

Each is a ``Study`` of its own, for a series of its own.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ich.phantom.study import Plan, Study

CORONAL = np.array([1.0, 0, 0, 0, 0, -1])
"""ImageOrientationPatient of an image that is seen from the front."""

THICK, THIN = 5.0, 2.5
"""mm, steps from slice to slice, and thickness of the slices."""

BRAIN_CENTER, BRAIN_WIDTH = 35.0, 45.0  # HU, of what an MR image shows as brain


def plan_at(plan: Plan, step: float) -> Plan:
    """Plans the same scan in slices as thick as a step in mm; thinner ones have fewer photons each."""
    noise = plan.scan.noise * np.sqrt(plan.scan.thickness / step)
    scan = replace(plan.scan, thickness=step, gap=step, noise=float(noise))
    return replace(plan, scan=scan, heights=np.arange(plan.heights[0], plan.heights[-1], step))


def plan_contrast(plan: Plan) -> Plan:
    """Plans the same head some minutes later, with contrast in its vessels."""
    head = replace(plan.head, venous=165.0, arterial=190.0, gray=plan.head.gray + 3, falx=plan.head.falx + 25)
    return replace(plan, head=head, noise=plan.noise + 1)


def sharpen(study: Study, rng: np.random.Generator) -> Study:
    """Makes the slices of a bone kernel: edges overshoot, and noise is several times as strong."""
    sharp = np.empty_like(study.hu)
    for k, hu in enumerate(study.hu):
        soft = hu.astype(np.float32)
        edges = soft - cv2.GaussianBlur(soft, (0, 0), 1.3)
        noise = rng.standard_normal(hu.shape, dtype=np.float32) * np.float32(35)
        sharp[k] = np.clip(np.rint(soft + 1.6 * edges + noise), -1024, 20000)
    return replace(study, hu=sharp)


def crop(study: Study, slices: slice) -> Study:
    """Takes some slices of a study, as in a repeated scan of a part."""
    return replace(study, hu=study.hu[slices], mask=study.mask[slices], origins=study.origins[slices])


def reformat_coronal(study: Study, step: float) -> Study:
    """Makes coronal planes at a step in mm: a row of all slices is one, however the gantry is tilted."""
    size = study.hu.shape[1]
    rows = np.arange(size // 8, size - size // 8, max(1, round(step / study.spacing)))
    hu = np.stack([_interpolate(study, study.hu[:, row].astype(np.float32)) for row in rows])
    down = study.spacing * study.orientation[3:]
    corners = study.origins[-1] + rows[:, None] * down
    return _make_view(study, hu, corners)


def project(study: Study) -> Study:
    """Makes a scout: the mean along the rays from front to back."""
    view = _interpolate(study, study.hu.mean(axis=1, dtype=np.float32))
    return _make_view(study, view[None], study.origins[-1:])


def _interpolate(study: Study, plane: NDArray[np.float32]) -> NDArray[np.int16]:
    """Takes (S, W) values at the heights of the slices to rows from top to bottom at the pixel spacing."""
    heights = study.origins[:, 2]
    wanted = np.arange(heights[-1], heights[0], -study.spacing)
    upper = np.clip(np.searchsorted(heights, wanted), 1, len(heights) - 1)
    share = ((wanted - heights[upper - 1]) / (heights[upper] - heights[upper - 1]))[:, None]
    return np.asarray(np.rint(plane[upper - 1] * (1 - share) + plane[upper] * share), dtype=np.int16)


def _make_view(study: Study, hu: NDArray[np.int16], corners: NDArray[np.float64]) -> Study:
    mask = np.zeros(hu.shape, dtype=np.uint8)
    return replace(study, hu=hu, mask=mask, origins=corners, orientation=CORONAL, tilt=0.0)


def weight_t1(study: Study, rng: np.random.Generator) -> Study:
    """Makes MR images of the head: air and bone are dark, fat is bright, and values have no scale."""
    hu = study.hu.astype(np.float32)
    brain = 300 + 6 * np.clip(hu - BRAIN_CENTER, -BRAIN_WIDTH, BRAIN_WIDTH)
    fat = 900 * np.exp(-(((hu + 90) / 40) ** 2))
    signal = np.where((hu > -150) & (hu < 200), np.maximum(brain, fat), 20)
    smooth = cv2.GaussianBlur(signal.transpose(1, 2, 0), (0, 0), 0.7).reshape(*hu.shape[1:], -1)
    noisy = smooth.transpose(2, 0, 1) + 12 * rng.standard_normal(hu.shape, dtype=np.float32)
    return replace(study, hu=np.clip(np.rint(noisy), 0, 4000).astype(np.int16), tilt=0.0)
