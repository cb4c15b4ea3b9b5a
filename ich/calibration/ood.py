"""Out-of-distribution detection: the distance of a study from the training data, by its features.

The features of slices, each in units of its own spread, are described by probabilistic principal components:
a Gaussian whose covariance has a few directions of its own and one variance for all others. Tipping and
Bishop, Probabilistic Principal Component Analysis, J R Stat Soc B 61, 1999. Its Mahalanobis distance detects
inputs that a network was not made for: Lee et al., A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks, NeurIPS 2018; here with one Gaussian for all slices.

This distance has a part along the directions and a part beside them, which grows with the number of features.
Both get the same weight, each divided by its typical value, as in process monitoring: Yue and Qin,
Reconstruction-Based Fault Identification Using a Combined Index, Ind Eng Chem Res 40, 2001. On the phantom
this detected more changed studies, at the same share of normal ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit
from torch import Tensor, nn

from ich.schema import UserError

MAX_COMPONENTS = 16
"""Number of directions with their own variance. With more, fewer changed studies are detected. With fewer,
more normal studies are taken for changed ones."""

MIN_REFERENCE_PATIENTS = 5
"""Patients needed for a fit: the limit estimates how studies of different patients vary."""

FOLDS = 10
"""Number of folds of held-out patients to find the limit; with fewer patients each is a fold."""

DEVIATIONS = 2.6
"""The limit lies this many standard deviations above the mean log distance of held-out studies. In a normal
distribution 0.5 % are above it. The tail is longer, so up to 2 % of normal studies may be."""

_FLOOR = 0.1
"""Smallest spread of a feature, as a fraction of the average spread. A feature that hardly varies on the
validation set says little about its variation elsewhere."""

_KEY = "ood."
_EARLIER_KEY = "likeness."  # in files of version 0.1 and before


def pool_distances(distances: ArrayLike) -> float:
    """Pools the distances of a study's slices, (N,), to that of the study: their mean."""
    return float(np.mean(np.asarray(distances, np.float64)))


class OodDistance(nn.Module):
    """Distance of slices from those of the fit, and the limit for a study.

    Args:
        mean: (F,) mean of the features.
        scale: (F,) divisors of the features.
        components: (K, F) orthonormal directions of the scaled features.
        variances: (K,) variances along these directions.
        residual: () variance along each other direction.
        limit: () distance above which a study is out of distribution.
    """

    mean: Tensor
    scale: Tensor
    components: Tensor
    variances: Tensor
    residual: Tensor
    limit: Tensor

    def __init__(
        self,
        mean: Tensor,
        scale: Tensor,
        components: Tensor,
        variances: Tensor,
        residual: Tensor,
        limit: Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())
        self.register_buffer("components", components.float())
        self.register_buffer("variances", variances.float())
        self.register_buffer("residual", residual.float())
        self.register_buffer("limit", limit.float())

    @classmethod
    def restore(cls, state_dict: Mapping[str, Tensor], features: int, source: str) -> Self | None:
        """Restores the reference from the weights of a model; None if they have none.

        Args:
            state_dict: The model's weights, by name.
            features: Number of features of the backbone, F.
            source: Name of the file, for messages.

        Raises:
            UserError: If the weights do not fit a reference for these features.
        """
        found = {name.removeprefix(_KEY): value for name, value in state_dict.items() if is_part(name)}
        if not found:
            return None
        components = found.get("components", torch.empty(0))
        count = len(components) if components.ndim else 0
        shapes = {
            "mean": (features,),
            "scale": (features,),
            "components": (count, features),
            "variances": (count,),
            "residual": (),
            "limit": (),
        }
        whole = {name: tuple(value.shape) for name, value in found.items()} == shapes and all(
            value.is_floating_point() and bool(value.isfinite().all()) for value in found.values()
        )
        positive = ("scale", "variances", "residual", "limit")
        if (
            not whole
            or not 0 < count < features
            or not all(bool((found[name] > 0).all()) for name in positive)
        ):
            raise UserError(f"{source} is damaged: its reference does not have {features} features")
        return cls(**found)

    def forward(self, features: Tensor) -> Tensor:
        """Measures the distance of slices.

        Args:
            features: (N, F) features of the backbone.

        Returns:
            (N,) float32: root of the mean of the squared Mahalanobis distances along the components and
            beside them, each over its number of directions; about 1 is typical.
        """
        scaled = (features.float() - self.mean) / self.scale  # (N, F)
        scores = scaled @ self.components.T  # (N, K)
        others = scaled - scores @ self.components  # (N, F)
        count, size = self.components.shape
        along = (scores.square() / self.variances).sum(dim=1) / count
        beside = others.square().sum(dim=1) / (self.residual * (size - count))
        return ((along + beside) / 2).sqrt()


def is_part(name: str) -> bool:
    """Whether a weight of a model, by its name, belongs to its reference."""
    return name.startswith((_KEY, _EARLIER_KEY))


def rename_parts(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a model; those of a reference from an earlier version get the names of today."""
    return {
        f"{_KEY}{name.removeprefix(_EARLIER_KEY)}" if name.startswith(_EARLIER_KEY) else name: value
        for name, value in state_dict.items()
    }


def fit_ood(features: NDArray[np.float32], studies: ArrayLike, patients: ArrayLike) -> OodDistance | str:
    """Fits the reference to slices.

    The limit is a tolerance limit for the distance of one more study. The distances of studies come from
    held-out patients, and their logarithms are taken as normal: ``mean + t * sd * sqrt(1 + 1 / n)`` over n
    studies, with the t of n - 1 degrees of freedom that has the tail of ``DEVIATIONS`` of a normal one. Few
    studies give a wide limit. Source: Hahn and Meeker, Statistical Intervals, 1991, chapter 4.

    Args:
        features: (N, F) features of the backbone.
        studies: (N,) StudyInstanceUID.
        patients: (N,) PatientID.

    Returns:
        The reference, or why there is none, without names.
    """
    people, _ = pd.factorize(np.asarray(patients), sort=True)
    count = int(people.max(initial=-1)) + 1
    if count < MIN_REFERENCE_PATIENTS:
        return f"fewer than {MIN_REFERENCE_PATIENTS} patients"
    if not np.isfinite(features).all():
        return "features that are not finite"
    fold = people % min(FOLDS, count)
    sums = [_sum_up(features[fold == number]) for number in range(fold.max() + 1)]
    total = _add(sums)
    if not np.diag(_covariance(total)).any():
        return "features that are the same in all slices"
    distances = np.empty(len(features))
    for number, own in enumerate(sums):
        others = _build(_add([each for each in sums if each is not own]), limit=1.0)
        distances[fold == number] = others(torch.from_numpy(features[fold == number])).numpy()
    pooled = pd.Series(distances).groupby(np.asarray(studies)).agg(pool_distances)
    return _build(total, limit=_find_limit(np.log(pooled.to_numpy(np.float64))))


class _Sums(NamedTuple):
    """Sums over slices, for their mean and covariance."""

    slices: int
    first: NDArray[np.float64]  # (F,)
    second: NDArray[np.float64]  # (F, F)


def _sum_up(features: NDArray[np.float32]) -> _Sums:
    exact = features.astype(np.float64)
    return _Sums(len(exact), exact.sum(axis=0), exact.T @ exact)


def _add(sums: list[_Sums]) -> _Sums:
    counts, firsts, seconds = zip(*sums, strict=True)
    return _Sums(sum(counts), np.sum(firsts, axis=0), np.sum(seconds, axis=0))


def _covariance(sums: _Sums) -> NDArray[np.float64]:
    mean = sums.first / sums.slices
    covariance: NDArray[np.float64] = sums.second / sums.slices - np.outer(mean, mean)
    return covariance


def _build(sums: _Sums, limit: float) -> OodDistance:
    covariance = _covariance(sums)
    spread = np.sqrt(np.diag(covariance).clip(min=0))
    scale = spread + _FLOOR * np.sqrt(np.mean(spread**2))
    scaled = torch.from_numpy(covariance / np.outer(scale, scale))
    values, vectors = (each.numpy() for each in torch.linalg.eigh(scaled))  # rising; by torch, as are threads
    count = min(MAX_COMPONENTS, len(scale) // 2)
    least = np.finfo(np.float32).eps * values[-1]
    kept, rest = values[::-1][:count], values[::-1][count:]
    parts = (
        sums.first / sums.slices,
        scale,
        np.ascontiguousarray(vectors[:, ::-1][:, :count].T),
        kept.clip(min=least),
        rest.mean().clip(min=least),
        np.float64(limit),
    )
    return OodDistance(*(torch.as_tensor(part, dtype=torch.float32) for part in parts))


def _find_limit(logs: NDArray[np.float64]) -> float:
    """Computes the limit from the log distances of held-out studies, (n,)."""
    count = len(logs)
    quantile = -stdtrit(count - 1, ndtr(-DEVIATIONS))
    return float(np.exp(logs.mean() + quantile * logs.std(ddof=1) * np.sqrt(1 + 1 / count)))
