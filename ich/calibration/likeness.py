"""How like the training data a study is, by the features that the backbone finds in its slices.

The features of slices are described by probabilistic principal components: a Gaussian whose covariance has a
few directions of its own and one variance for all others. Tipping and Bishop, Probabilistic Principal
Component Analysis, J R Stat Soc B 61, 1999. How far a slice lies from its middle is its Mahalanobis
distance, which tells what a network was not made for: Lee et al., A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018; here with one Gaussian for all slices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor, nn

MAX_COMPONENTS = 32
"""Directions that have a variance of their own."""


def pool_distances(distances: ArrayLike) -> float:
    """Pools the distances of a study's slices, (N,), to that of the study: their mean."""
    return float(np.mean(np.asarray(distances, np.float64)))


class Likeness(nn.Module):
    """Distance of slices from those that it was fitted on, and what is too far for a study.

    Args:
        mean: (F,) of the features.
        components: (K, F) orthonormal directions.
        variances: (K,) along them.
        residual: () variance along each other direction.
        limit: () distance above which a study is unlike the training data.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    residual: Tensor
    limit: Tensor

    def __init__(
        self, mean: Tensor, components: Tensor, variances: Tensor, residual: Tensor, limit: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("components", components.float())
        self.register_buffer("variances", variances.float())
        self.register_buffer("residual", residual.float())
        self.register_buffer("limit", limit.float())

    def forward(self, features: Tensor) -> Tensor:
        """Measures the distance of slices.

        Args:
            features: (N, F) of the backbone.

        Returns:
            (N,) root of the squared Mahalanobis distance over F, float32; about 1 is typical.
        """
        centred = features.float() - self.mean  # (N, F)
        scores = centred @ self.components.T  # (N, K)
        others = centred - scores @ self.components  # (N, F)
        squared = (scores.square() / self.variances).sum(dim=1) + others.square().sum(dim=1) / self.residual
        return (squared / self.mean.numel()).sqrt()
