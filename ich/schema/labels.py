"""The labels of a run or a model. The RSNA's six are the default."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ich.schema import LABEL_WEIGHTS, LABELS, UserError

__all__ = ["RSNA_LABELS", "LabelSet"]

MOST = 64
"""Maximum number of labels."""

MIN_PREVALENCE = 1e-4
"""Prevalence of a label without positives, because it may have some elsewhere."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_TAKEN = ("allow_pickle", "file", "id", "label", "mean", "part", "probs", "slices", "spacing")
"""Names with another meaning in a label file, a table, a metric or a file of heat maps."""


def say_label(name: str, names: Iterable[str]) -> str:
    """Names a label within a sentence: ``any`` among the RSNA's labels is any hemorrhage."""
    return "any hemorrhage" if name == "any" and set(names) <= set(LABELS) else name


def _to_tuple(key: str, values: object) -> tuple[object, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not 1 <= len(values) <= MOST:
        raise UserError(f"labels.{key}={values}: expected a list of 1 to {MOST}")
    return tuple(values)


def _is_weight(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    )


@dataclass(frozen=True)
class LabelSet:
    """What a model predicts for each slice.

    Attributes:
        names: The labels, in the order of a network's outputs.
        weights: The weight of each label in the loss and in the weighted log loss.
        decides: The label behind the outcome of a study; None gives no outcome.
        union: The label that is 1 exactly if another label is 1; None without such a label.

    Raises:
        UserError: If a name or a weight cannot be used, or ``decides`` or ``union`` is not a label.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    decides: str | None = None
    union: str | None = None

    def __post_init__(self) -> None:
        for key in ("names", "weights"):
            object.__setattr__(self, key, _to_tuple(key, getattr(self, key)))
        for name in self.names:
            if not (isinstance(name, str) and _NAME.fullmatch(name)) or name in _TAKEN:
                raise UserError(
                    f"labels.names holds {name!r}: expected a lowercase letter, then up to 39 of a-z, 0-9, "
                    f"_ and -, and none of {', '.join(_TAKEN)}; a label file may use any case"
                )
        if set(self.names) == set(LABELS) and tuple(self.names) != LABELS:
            raise UserError(
                f"labels.names={list(self.names)} holds the RSNA's labels in another order than its "
                "files: leave labels.names out, or use other names"
            )
        if len(set(self.names)) < len(self.names):
            raise UserError(f"labels.names={list(self.names)} holds a name twice")
        if len(self.weights) != len(self.names) or not all(map(_is_weight, self.weights)):
            raise UserError(
                f"labels.weights={list(self.weights)}: expected {len(self.names)} numbers above 0, "
                f"one for each of {', '.join(self.names)}"
            )
        for key, label in (("decides", self.decides), ("union", self.union)):
            if label is not None and label not in self.names:
                raise UserError(
                    f"labels.{key}={label}: expected one of {', '.join(self.names)}, or null; "
                    "labels=own starts with null"
                )

    @property
    def subtypes(self) -> tuple[str, ...]:
        """The labels other than the one that decides."""
        return tuple(name for name in self.names if name != self.decides)

    @property
    def averaged(self) -> tuple[str, ...]:
        """The labels over which a mean is taken: the subtypes, or the only label."""
        return self.subtypes or self.names

    @property
    def headline(self) -> str:
        """The label to show if there is room for one only."""
        return self.decides or self.names[0]

    @property
    def shown(self) -> tuple[str, ...]:
        """The labels in reading order: the one that decides comes first."""
        return tuple(dict.fromkeys((self.headline, *self.names)))

    @property
    def finding(self) -> str:
        """What the headline is about, within a sentence: with the RSNA's labels a hemorrhage."""
        return say_label(self.headline, self.names).removeprefix("any ")

    def index(self, name: str) -> int:
        """Returns the place of a label among the outputs of a network."""
        return self.names.index(name)


RSNA_LABELS = LabelSet(LABELS, LABEL_WEIGHTS, decides="any", union="any")
"""The labels, the weights and the metric of the RSNA 2019 challenge."""


def require_rsna(names: Sequence[str], what: str) -> None:
    """Refuses labels other than the six of the RSNA.

    Args:
        names: The labels that are there.
        what: What needs the six labels, as the subject of the message.

    Raises:
        UserError: Naming both.
    """
    if tuple(names) != LABELS:
        raise UserError(
            f"{what} needs the six labels of the RSNA 2019 challenge ({', '.join(LABELS)}); "
            f"found {', '.join(names)}"
        )
