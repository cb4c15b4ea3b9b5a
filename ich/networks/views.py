"""Test-time augmentation: a network runs several times, on changed views of the same slices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from ich.image.augment import Changes, apply_changes
from ich.networks import Network, Output
from ich.schema import UserError

TTA = ("flip", "scale", "reverse")
"""``flip`` adds mirrored slices; ``scale`` adds smaller and larger ones, about their center. ``reverse`` adds
slices with their neighbors and series in reverse order, and changes nothing for a network without both."""

SCALES = (0.9, 1.1)


def augmented(network: Network, tta: Sequence[str]) -> Network:
    """Returns a network that gives the mean over views of its slices.

    The views are all combinations: with ``flip`` and ``scale`` there are six.

    Args:
        network: A network of any kind, because views are made of HU.
        tta: Some of ``TTA``; none returns the network itself.

    Raises:
        UserError: For another name.
    """
    check_tta(tta)
    return _Augmented(network, tta) if tta else network


def check_tta(tta: Sequence[str]) -> None:
    """Raises ``UserError`` for a name that is not in ``TTA``."""
    if unknown := set(tta) - set(TTA):
        raise UserError(f"tta={', '.join(sorted(unknown))}: expected some of {', '.join(TTA)}")


class _Augmented:
    def __init__(self, network: Network, tta: Sequence[str]) -> None:
        self.metadata = network.metadata
        self.name = network.name
        self.input = network.input
        self.sha256 = network.sha256
        self.limit = network.limit
        self._network = network
        mirrors, scales = (1, -1) if "flip" in tta else (1,), (1.0, *SCALES) if "scale" in tta else (1.0,)
        orders = (1, -1) if "reverse" in tta and _has_order(network) else (1,)
        center = (network.input.size - 1) / 2
        slices, depth = network.input.slices, network.input.depth
        # A plane that shows only the brain is not a neighbor, and stays the last one.
        planes = {1: [*range(depth)], -1: [*reversed(range(slices)), *range(slices, depth)]}
        _, *views = product(mirrors, scales, orders)  # the first changes nothing
        self._views = [
            (_make_matrix(mirror, scale, center), planes[order], order) for mirror, scale, order in views
        ]

    def run(
        self,
        hu: NDArray[np.int16],
        window: NDArray[np.float32] | None = None,
        positions: NDArray[np.float64] | None = None,
    ) -> Output:
        """Runs the network on each view; distances are those of the unchanged slices."""
        first = self._network.run(hu, window, positions)
        others = [
            self._network.run(
                _transform(hu[:, planes], matrix), window, None if positions is None else order * positions
            )
            for matrix, planes, order in self._views
        ]
        of_series = [each.series for each in (first, *others) if each.series is not None]
        return Output(
            _average([each.probs for each in (first, *others)]),
            first.distance,
            _average(of_series) if of_series else None,
        )


def _average(probs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    mean: NDArray[np.float64] = np.mean(probs, axis=0, dtype=np.float64)
    return mean.astype(np.float32)


def _has_order(network: Network) -> bool:
    return network.input.neighbors > 0 or network.metadata.series is not None


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
