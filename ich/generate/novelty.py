"""Whether generated lesions are new, or copies of those that they were learned from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ich.image.lesions.bank import Novelty

_LOWEST = 5  # percent of the held-out lesions that may be closer to the training


def find_nearest(images: NDArray[np.float32], training: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the distance of each image to the nearest of the training, or its mirror image.

    Args:
        images: (N, 2, S, S).
        training: (M, 2, S, S).

    Returns:
        (N,) root of the mean squared difference.
    """
    both = np.concatenate([training, training[..., ::-1]]).reshape(2 * len(training), -1)
    flat = images.reshape(len(images), -1)
    return np.array([np.sqrt(np.square(both - each).mean(axis=1).min()) for each in flat])


def measure_novelty(
    generated: NDArray[np.float32], training: NDArray[np.float32], held_out: NDArray[np.float32]
) -> tuple[Novelty, NDArray[np.bool_]]:
    """Compares generated lesions to those of the training, as those of other patients compare to them.

    Args:
        generated: (N, 2, S, S).
        training: (M, 2, S, S), what the generator learned from.
        held_out: (K, 2, S, S), lesions of patients that it did not learn from, at least one.

    Returns:
        The distances, and which of the generated lesions are new. The others are closer to one of the
        training than 95 % of the held-out lesions.
    """
    near, other = find_nearest(generated, training), find_nearest(held_out, training)
    new = near >= np.percentile(other, _LOWEST)
    medians = float(np.median(near)), float(np.median(other))
    return Novelty(len(generated), int((~new).sum()), *medians), new
