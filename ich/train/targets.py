"""The targets of the configuration, and what their signatures say. Its imports take seconds."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from pytorch_lightning import Trainer

from ich.data import HeadCTDataModule
from ich.image.augment import Augment
from ich.image.lesions import Lesions
from ich.models import SliceClassifier
from ich.models.losses import FocalLoss, SoftmaxCrossEntropy, WeightedBCE
from ich.models.optim import OptimSpec
from ich.models.series import SeriesSpec
from ich.schema import InputSpec
from ich.schema.labels import LabelSet
from ich.train.signatures import REPLACED
from ich.train.trainer import build_trainer

TARGETS: tuple[Callable[..., Any], ...] = (
    LabelSet,
    HeadCTDataModule,
    InputSpec,
    Augment,
    Lesions,
    SliceClassifier,
    WeightedBCE,
    FocalLoss,
    SoftmaxCrossEntropy,
    OptimSpec,
    SeriesSpec,
    build_trainer,
)
"""Classes and functions of the configuration. A signature is the schema, and the only home of each
default."""

GIVEN = {
    *("input", "label_set", "augment", "lesions", "loss", "optim", "series"),
    *("callbacks", "logger", "run_dir"),
}
"""Arguments that are not settings: objects of other groups, and values that ``train`` decides."""


def describe_targets() -> dict[str, list[list[Any]]]:
    """Returns the settings of each target, by its path: name, kind as ``KINDS`` has it, and default."""
    return {f"{target.__module__}.{target.__qualname__}": _describe(target) for target in TARGETS}


def _describe(target: Callable[..., Any]) -> list[list[Any]]:
    parameters = dict(inspect.signature(target).parameters)
    if target is build_trainer:
        lightning = inspect.signature(Trainer).parameters
        parameters = {k: v for k, v in lightning.items() if k not in REPLACED} | parameters
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    return [
        [name, _name_kind(hints.get(name)), "???" if given.default is given.empty else given.default]
        for name, given in parameters.items()
        if name not in GIVEN and given.kind not in (given.VAR_POSITIONAL, given.VAR_KEYWORD)
    ]


def _name_kind(hint: Any) -> str:
    """Names types that the configuration can check; the constructor checks all others."""
    simple = (int, float, str, bool)
    if hint in simple:
        return str(hint.__name__)
    if isinstance(hint, types.UnionType):
        known = [arg for arg in hint.__args__ if arg in simple]
        if len(known) == 1 and len(hint.__args__) == 2 and type(None) in hint.__args__:
            return f"{known[0].__name__} | None"
    return "Any"
