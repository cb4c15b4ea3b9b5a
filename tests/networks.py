"""Networks of random weights, and slices to run them on."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ich.calibration.ood import OodDistance
from ich.models import SliceClassifier, SliceNet
from ich.phantom import draw_patient
from ich.schema import LABELS, InputSpec

DEEP = InputSpec(size=64, neighbors=1)
LIMIT = 2.5


def draw_slices(depth: int, size: int = 64) -> NDArray[np.int16]:
    """(N, D, S, S) HU of a phantom's study, each slice with its neighbors."""
    hu = _draw_study(size)
    around = np.arange(len(hu))[:, None] + np.arange(depth) - depth // 2
    return hu[around.clip(0, len(hu) - 1)]


@cache
def _draw_study(size: int) -> NDArray[np.int16]:
    """(N, S, S) HU."""
    return draw_patient(3, 0, size)[0].hu


def make_model(spec: InputSpec, *, ood: bool = True, **settings: Any) -> SliceNet:
    """A network of random weights, whose probabilities for the slices of a phantom are all over the place."""
    torch.manual_seed(0)
    model = SliceClassifier("test_resnet", input=spec, pretrained=False, **settings).net.eval()
    hu = torch.from_numpy(draw_slices(spec.depth, spec.size))
    with torch.inference_mode():
        features = model.extract(model.window(hu, torch.tensor([[40.0, 80.0]])))
    width, middle, scale = features.shape[1], features.mean(dim=0), features.std(dim=0) + 1e-3
    with torch.no_grad():
        weight = torch.randn(len(LABELS), width) / scale / width**0.5
        model.get_parameter("head.1.weight").copy_(weight)
        model.get_parameter("head.1.bias").copy_(-weight @ middle)
    if ood:
        directions = torch.linalg.qr(torch.randn(width, 4)).Q.T
        one, limit = torch.tensor(1.0), torch.tensor(LIMIT)
        model.ood = OodDistance(middle, scale, directions, torch.ones(4), one, limit)
    return model
