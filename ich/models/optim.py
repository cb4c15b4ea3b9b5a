"""The optimizer, its parameter groups and the learning-rate schedule."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from timm.optim import (
    create_optimizer_v2,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ich.schema import UserError

__all__ = ["OptimSpec", "build_optimizer", "build_schedule"]

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class OptimSpec:
    """How a network is optimized.

    Attributes:
        name: Name of any timm optimizer.
        lr: Largest learning rate of the head.
        weight_decay: Weight decay; biases, norms and parameters that the backbone exempts have none.
        options: Further arguments of the optimizer, such as ``betas``, ``eps``, ``momentum``, ``rho``.
        schedule: After the warm-up, ``cosine`` falls to the final rate and ``constant`` stays.
        warmup_fraction: Share of all steps over which the rate rises linearly.
        final_lr_fraction: End of the cosine, as a fraction of ``lr``.
        backbone_lr_factor: Learning rate of the backbone divided by that of the head.
        layer_decay: Factor from the learning rate of a layer of the backbone to that of the layer below; None
            for one rate. The top layer has ``lr`` times ``backbone_lr_factor``.
        freeze_epochs: Epochs at the start in which only the head learns.

    Raises:
        UserError: If a value is not allowed.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    options: Mapping[str, Any] | None = None
    schedule: str = "cosine"
    warmup_fraction: float = 0.05
    final_lr_fraction: float = 0.01
    backbone_lr_factor: float = 1.0
    layer_decay: float | None = None
    freeze_epochs: int = 0

    def __post_init__(self) -> None:
        known = [str(name) for name in list_optimizers()]
        if self.name not in known:
            near = difflib.get_close_matches(self.name.lower(), known, n=5)
            raise UserError(
                f"optim.name={self.name}: timm has no such optimizer; "
                + (f"similar names are {', '.join(near)}" if near else f"expected one of {', '.join(known)}")
            )
        if self.schedule not in SCHEDULES:
            raise UserError(f"optim.schedule={self.schedule}: expected one of {', '.join(SCHEDULES)}")
        _check("lr", self.lr, above=0)
        _check("weight_decay", self.weight_decay, least=0)
        _check("warmup_fraction", self.warmup_fraction, least=0, most=1)
        _check("final_lr_fraction", self.final_lr_fraction, least=0, most=1)
        _check("backbone_lr_factor", self.backbone_lr_factor, above=0)
        if self.layer_decay is not None:
            _check("layer_decay", self.layer_decay, above=0, most=1)
        _check("freeze_epochs", self.freeze_epochs, least=0)


def build_optimizer(spec: OptimSpec, model: nn.Module) -> Optimizer:
    """Builds the optimizer of a model that has a ``backbone``.

    Each parameter group carries ``part``: ``"backbone"``, or ``"head"`` for every other parameter.

    Raises:
        UserError: If the optimizer has no such option or cannot run here, or if the backbone does not
            separate its layers.
    """
    groups = _group_backbone(spec, model) + _group_rest(spec, model)
    try:
        optimizer: Optimizer = create_optimizer_v2(
            groups, opt=spec.name, lr=spec.lr, weight_decay=spec.weight_decay, **(spec.options or {})
        )
    except (TypeError, ValueError, AssertionError) as error:
        # timm asserts that what an optimizer needs (CUDA, apex, bitsandbytes) is there.
        raise UserError(
            f"optim.name={spec.name} cannot be built with optim.options={dict(spec.options or {})}: {error}"
        ) from error
    return optimizer


def lr_factor(step: int, total_steps: int, warmup_steps: int, schedule: str, final: float) -> float:
    """Returns the learning rate of a step as a fraction of the largest.

    It rises linearly to 1 at the last step of the warm-up, then follows half a cosine down to ``final``
    at ``total_steps`` (SGDR, Loshchilov and Hutter, ICLR 2017, without restarts), or stays at 1.

    Args:
        step: Optimizer steps taken so far.
        total_steps: Optimizer steps of the run.
        warmup_steps: Steps of the warm-up; 0 for none.
        schedule: One of ``SCHEDULES``.
        final: The fraction at the end of a cosine.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


def build_schedule(optimizer: Optimizer, spec: OptimSpec, total_steps: int, steps_per_epoch: int) -> LambdaLR:
    """Builds the schedule of an optimizer from ``build_optimizer``, to be stepped after every step.

    A frozen backbone has the learning rate 0 but keeps its gradients, because a parameter without gradient
    stops distributed training.

    Args:
        optimizer: The optimizer; its groups carry ``part``.
        spec: The same spec.
        total_steps: Optimizer steps of the run.
        steps_per_epoch: Optimizer steps of an epoch.
    """
    warmup_steps = round(spec.warmup_fraction * total_steps)

    def factor_from(start: int) -> Callable[[int], float]:
        def factor(step: int) -> float:
            if step < start:
                return 0.0
            return lr_factor(step, total_steps, warmup_steps, spec.schedule, spec.final_lr_fraction)

        return factor

    thaw = spec.freeze_epochs * steps_per_epoch
    starts = [thaw if group["part"] == "backbone" else 0 for group in optimizer.param_groups]
    return LambdaLR(optimizer, [factor_from(start) for start in starts])


def _group_backbone(spec: OptimSpec, model: nn.Module) -> list[dict[str, Any]]:
    backbone = model.get_submodule("backbone")
    exempt = _find_exempt(backbone)
    if spec.layer_decay is None:
        groups = param_groups_weight_decay(backbone, spec.weight_decay, no_weight_decay_list=exempt)
    elif hasattr(backbone, "group_matcher"):
        groups = param_groups_layer_decay(
            backbone, spec.weight_decay, no_weight_decay_list=exempt, layer_decay=spec.layer_decay
        )
    else:
        raise UserError(
            f"optim.layer_decay={spec.layer_decay}: {type(backbone).__name__} does not separate its layers; "
            "use optim.layer_decay=null, and optim.backbone_lr_factor for a lower rate"
        )
    for group in groups:
        # timm's own schedulers read lr_scale; PyTorch's do not, so it goes into the rate.
        group["lr"] = spec.lr * spec.backbone_lr_factor * group.pop("lr_scale", 1.0)
        group["part"] = "backbone"
    return list(groups)


def _group_rest(spec: OptimSpec, model: nn.Module) -> list[dict[str, Any]]:
    in_backbone = {id(p) for p in model.get_submodule("backbone").parameters()}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in in_backbone]
    decayed = [p for p in rest if p.ndim > 1]
    plain = [p for p in rest if p.ndim <= 1]
    groups = [(decayed, spec.weight_decay), (plain, 0.0)]
    return [{"params": p, "weight_decay": decay, "lr": spec.lr, "part": "head"} for p, decay in groups if p]


def _find_exempt(backbone: nn.Module) -> Collection[str]:
    """Finds the parameters that timm's model exempts from weight decay, such as position biases."""
    no_weight_decay = getattr(backbone, "no_weight_decay", None)
    return set(no_weight_decay()) if callable(no_weight_decay) else set()


def _check(
    name: str, value: float, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> None:
    if not (math.isfinite(value) and least <= value <= most and value > above):
        bounds = [f"above {above}" * (above > -math.inf), f"at least {least}" * (least > -math.inf)]
        bounds.append(f"at most {most}" * (most < math.inf))
        raise UserError(f"optim.{name}={value}: expected a number {' and '.join(filter(None, bounds))}")
