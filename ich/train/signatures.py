"""The schema of the configuration: the signatures of its targets."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from functools import cache, partial
from typing import Any

from hydra.core.config_store import ConfigStore
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

TARGET_PATHS = {target: f"{target.__module__}.{target.__qualname__}" for target in TARGETS}

GIVEN = {
    *("input", "label_set", "augment", "lesions", "loss", "optim", "series"),
    *("callbacks", "logger", "run_dir"),
}
"""Arguments that are not settings: objects of other groups, and values that ``train`` decides."""

REPLACED = {"accelerator", "default_root_dir", "enable_checkpointing"}
"""Arguments of Lightning's Trainer that are not settings, because ``gpus`` and ``run_dir`` replace them."""


@cache  # from version 1.4 on Hydra warns where a name is given twice
def register_signatures() -> None:
    """Registers the signature of each target with Hydra as ``/signature/NAME``, with types and defaults."""
    for target in TARGETS:
        ConfigStore.instance().store(group="signature", name=target.__name__, node=_to_node(target))


def list_settings() -> dict[str, set[str]]:
    """Lists the settings of each target, by its path."""
    return {path: {field.name for field in fields(_to_node(target))} for target, path in TARGET_PATHS.items()}


def _to_node(target: Callable[..., Any]) -> Any:
    parameters = dict(inspect.signature(target).parameters)
    if target is build_trainer:
        lightning = inspect.signature(Trainer).parameters
        parameters = {k: v for k, v in lightning.items() if k not in REPLACED} | parameters
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    listed: list[tuple[str, Any, Any]] = []
    for name, parameter in parameters.items():
        if name in GIVEN or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = "???" if parameter.default is parameter.empty else parameter.default
        kind = _to_config_type(hints.get(name, Any))
        listed.append((name, kind, field(default_factory=partial(_plain, default))))
    path = field(default=TARGET_PATHS[target])
    return make_dataclass(target.__name__, [*listed, ("_target_", str, path)])


def _to_config_type(hint: Any) -> Any:
    """Returns types that the configuration can check; the constructor checks all others."""
    simple = (int, float, str, bool)
    if hint in simple:
        return hint
    if isinstance(hint, types.UnionType):
        known = [arg for arg in hint.__args__ if arg in simple]
        if len(known) == 1 and len(hint.__args__) == 2 and type(None) in hint.__args__:
            return typing.Optional[known[0]]  # noqa: UP045 - what OmegaConf understands
    return Any


def _plain(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default
