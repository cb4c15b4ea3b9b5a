"""Metadata of an ensemble: several models in one file, whose probabilities are averaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import MaxLen

from ich.calibration import Decision, Level, order_decisions
from ich.calibration.smoothing import Smoothing, has_kernels, order_smoothing
from ich.model_files.metadata import ModelMetadata
from ich.schema import UserError
from ich.schema.formats import Expected, Share, to_plain
from ich.schema.labels import LabelSet

__all__ = ["EnsembleMetadata"]

MAX_MEMBERS = 64
"""Maximum number of members of an ensemble."""

_ROUNDING = 1e-6


def _sums_to_one(shares: tuple[float, ...]) -> bool:
    return abs(sum(shares) - 1) <= _ROUNDING


@dataclass(frozen=True)
class EnsembleMetadata:
    """Metadata of the members of an ensemble. A single model is its only member.

    Attributes:
        members: Metadata of each member.
        shares: Weight of each member in the mean of the probabilities; None weighs all alike.
        decisions: By level, calibration and operating points of the mean. None where each member has its own.
        smoothing: For each label, how its mean is averaged over neighboring slices, before ``decisions``
            apply. None where members may smooth by themselves, before their mean.

    Raises:
        UserError: If members predict different labels, or decisions, shares or smoothing do not fit them.
    """

    members: Annotated[tuple[ModelMetadata, ...], MaxLen(MAX_MEMBERS)]
    shares: (
        Annotated[tuple[Share, ...], Expected("numbers from 0 to 1 that sum to 1", _sums_to_one)] | None
    ) = None
    decisions: Mapping[Level, Decision] | None = None
    smoothing: Smoothing | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise UserError("members is empty; expected at least one model")
        require_same_labels([member.labels for member in self.members])
        if self.shares is not None and len(self.shares) != len(self.members):
            raise UserError(f"shares has {len(self.shares)} numbers for {len(self.members)} members")
        names = self.members[0].labels.names
        if self.decisions is not None:
            object.__setattr__(self, "decisions", order_decisions(self.decisions, names, "decisions"))
        if self.smoothing is not None:
            if self.decisions is None or any(has_kernels(member.smoothing) for member in self.members):
                raise UserError(
                    "smoothing is given for the mean of models that smooth or decide by themselves: expected "
                    "it for the mean or for each model"
                )
            object.__setattr__(self, "smoothing", order_smoothing(self.smoothing, names))

    def with_decisions(self, decisions: Mapping[str, Decision]) -> EnsembleMetadata:
        """Returns metadata with other decisions, by level. A single model keeps its decisions itself."""
        own, shared = (decisions, None) if len(self.members) == 1 else (None, decisions)
        members = tuple(replace(member, decisions=own) for member in self.members)
        return replace(self, members=members, decisions=shared)

    @property
    def joined(self) -> ModelMetadata:
        """Metadata of the first member, with the decisions and the smoothing that apply to the mean."""
        first = self.members[0]
        if len(self.members) == 1:
            return first
        return replace(
            first,
            decisions=self.decisions,
            thickness=self.thickness,
            smoothing=self.smoothing,
            series=None,
        )

    @property
    def thickness(self) -> float | None:
        """Thickness in mm to average thin slices to: no member sees thicker ones than it knows."""
        known = [each for member in self.members if (each := member.thickness) is not None]
        return min(known) if len(known) == len(self.members) else None

    @property
    def obstacle(self) -> str:
        """Why the members are not the mean of their outputs for single slices; empty if they are."""
        if len({member.model.input for member in self.members}) > 1:
            return "its members have different inputs"
        if len({member.tta for member in self.members}) > 1:
            return "its members name different test-time augmentations"
        if any(has_kernels(member.smoothing) for member in self.members):
            return (
                "its members average over neighboring slices before their mean is taken; bundle the folds of "
                "one model again, or train with smoothing=false"
            )
        if any(member.series is not None for member in self.members):
            return "its members have networks over series"
        if self.decisions is None and any(member.decisions for member in self.members):
            return "its members have calibration and operating points of their own, and none for their mean"
        return ""

    @property
    def name(self) -> str:
        """Names of the backbones."""
        return join_names(member.model.backbone for member in self.members)

    def to_plain(self) -> dict[str, Any]:
        """Returns plain values, without what is None."""
        found = to_plain(self) | {"members": [member.to_plain() for member in self.members]}
        return {name: value for name, value in found.items() if value is not None}


def join_names(names: Iterable[str]) -> str:
    """Joins the names of several backbones: ``2 x resnet18+convnext_tiny``."""
    counted = Counter(names)
    return "+".join(f"{count} x {name}" if count > 1 else name for name, count in counted.items())


def require_same_labels(labels: Sequence[LabelSet]) -> None:
    """Refuses models whose probabilities cannot be averaged.

    Raises:
        UserError: If they predict different labels, or other ones decide.
    """
    first = labels[0]
    for other in labels[1:]:
        if (other.names, other.decides) != (first.names, first.decides):
            raise UserError(
                f"the models predict different labels, {', '.join(first.names)} and "
                f"{', '.join(other.names)}, or other ones decide: predict with each on its own"
            )
