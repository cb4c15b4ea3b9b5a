"""Test-time augmentation: a network runs several times, on changed views of the same slices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ich.image.augment import Changes, apply_changes
from ich.networks import Network, Output
from ich.schema import UserError

TTA = ("flip", "scale")
"""``flip`` adds mirrored slices; ``scale`` adds smaller and larger ones, about their center."""

SCALES = (0.9, 1.1)


def augmented(network: Network, tta: Sequence[str]) -> Network:
    """Returns a network that gives the mean over views of its slices.

    With ``flip`` and ``scale`` the views are all pairs of both: six.

    Args:
        network: A network of any kind, because views are made of HU.
        tta: Some of ``TTA``; none returns the network itself.

    Raises:
        UserError: For another name.
    """
    if unknown := set(tta) - set(TTA):
        raise UserError(f"tta={', '.join(sorted(unknown))}: expected some of {', '.join(TTA)}")
    return _Augmented(network, tta) if tta else network


class _Augmented:
    def __init__(self, network: Network, tta: Sequence[str]) -> None:
        self.metadata = network.metadata
        self.input = network.input
        self.sha256 = network.sha256
        self.limit = network.limit
        self._network = network
        mirrors, scales = (1, -1) if "flip" in tta else (1,), (1.0, *SCALES) if "scale" in tta else (1.0,)
        center = (network.input.size - 1) / 2
        _, *views = product(mirrors, scales)  # the first is the plain one
        self._matrices = [_make_matrix(*view, center) for view in views]

    def run(self, hu: NDArray[np.int16], window: NDArray[np.float32] | None = None) -> Output:
        """Runs the network on each view; distances are those of the unchanged slices."""
        probs, distance = self._network.run(hu, window)
        views = [
            probs,
            *(self._network.run(_transform(hu, matrix), window).probs for matrix in self._matrices),
        ]
        mean: NDArray[np.float64] = np.mean(views, axis=0, dtype=np.float64)
        return Output(mean.astype(np.float32), distance)


def _make_matrix(mirror: int, scale: float, center: float) -> NDArray[np.float32]:
    """(3, 3) from pixels (x, y, 1) before to pixels after."""
    across = mirror * scale
    return np.array(
        [[across, 0, center - across * center], [0, scale, center - scale * center], [0, 0, 1]], np.float32
    )


def _transform(hu: NDArray[np.int16], matrix: NDArray[np.float32]) -> NDArray[np.int16]:
    """(N, D, S, S) of a view: every slice moved alike, with air around it."""
    view = hu.copy(order="C")
    changes = Changes(matrix=matrix[None], holes=None, tone=None, noise=None)
    for sample in view:
        apply_changes(sample, changes, 0)
    return view
