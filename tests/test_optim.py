from __future__ import annotations

import io
import math
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from ich.models.optim import OptimSpec, build_optimizer, build_schedule, lr_factor
from ich.schema import UserError


class Network(nn.Module):
    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def build_network(name: str = "test_resnet") -> Network:
    backbone = timm.create_model(name, pretrained=False, num_classes=0)
    return Network(backbone, backbone.num_features)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_every_parameter_is_in_one_group_and_only_weights_decay(name: str, layer_decay: float | None) -> None:
    model = build_network(name)
    optimizer = build_optimizer(OptimSpec(weight_decay=0.1, layer_decay=layer_decay), model)
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(group_of)
    for parameter_name, parameter in model.named_parameters():
        group = group_of[id(parameter)]
        exempt = parameter.ndim <= 1 or parameter_name in ("backbone.pos_embed", "backbone.cls_token")
        assert group["weight_decay"] == (0.0 if exempt else 0.1), parameter_name
        assert group["part"] == parameter_name.split(".")[0]


def test_the_backbone_has_its_own_rate_and_frozen_parameters_none() -> None:
    model = build_network()
    model.backbone.conv1[0].weight.requires_grad_(False)
    optimizer = build_optimizer(OptimSpec(lr=0.01, backbone_lr_factor=0.1), model)
    rates = {group["part"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"backbone": pytest.approx(0.001), "head": 0.01}
    held = sum(len(group["params"]) for group in optimizer.param_groups)
    assert held == len(list(model.parameters())) - 1


def test_layer_decay_falls_towards_the_input() -> None:
    model = build_network("test_vit")
    optimizer = build_optimizer(OptimSpec(lr=1.0, layer_decay=0.5, backbone_lr_factor=0.2), model)
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    blocks = [rate_of[id(block.attn.qkv.weight)] for block in model.backbone.blocks]
    assert all(upper == pytest.approx(2 * lower) for lower, upper in pairwise(blocks))
    assert rate_of[id(model.backbone.patch_embed.proj.weight)] == pytest.approx(blocks[0] / 2)
    assert max(rate_of[id(p)] for p in model.backbone.parameters()) == pytest.approx(0.2)
    assert rate_of[id(model.head.weight)] == 1.0


def test_layer_decay_of_a_backbone_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"layer_decay=0.7: Linear"):
        build_optimizer(OptimSpec(layer_decay=0.7), Network(nn.Linear(4, 4), 4))


def test_options_reach_the_optimizer_and_unknown_ones_are_refused() -> None:
    model = Network(nn.Linear(4, 4), 4)
    adadelta = build_optimizer(OptimSpec(name="adadelta", options={"rho": 0.95, "eps": 1e-7}), model)
    assert isinstance(adadelta, torch.optim.Adadelta)
    assert all((group["rho"], group["eps"]) == (0.95, 1e-7) for group in adadelta.param_groups)
    for options in ({"rho": 0.95}, {"betas": (2, 3)}, {"lr": 1.0}):
        with pytest.raises(UserError, match=r"optim.name=adamw .*optim.options="):
            build_optimizer(OptimSpec(name="adamw", options=options), model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "AdamWW"}, "similar names are adamw"),
        ({"name": "?"}, "expected one of .*adamw"),
        ({"lr": -1e-3}, "optim.lr=-0.001: expected a number above 0"),
        ({"lr": math.nan}, "optim.lr=nan"),
        ({"weight_decay": -1}, "optim.weight_decay=-1: expected a number at least 0"),
        ({"schedule": "step"}, "expected one of cosine, constant"),
        ({"warmup_fraction": 1.5}, "at least 0 and at most 1"),
        ({"layer_decay": 0}, "optim.layer_decay=0: expected a number above 0"),
        ({"freeze_epochs": -1}, "optim.freeze_epochs=-1"),
    ],
)
def test_a_bad_value_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimSpec(**values)


def test_lr_factor_by_hand() -> None:
    cosine = [lr_factor(step, 14, 4, "cosine", 0.2) for step in range(16)]
    assert cosine[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert cosine[9] == pytest.approx(0.6)  # halfway from 1 to 0.2
    assert cosine[14] == cosine[15] == pytest.approx(0.2)
    assert cosine[4:15] == sorted(cosine[4:15], reverse=True)
    assert [lr_factor(step, 4, 2, "constant", 0.2) for step in range(5)] == [0.5, 1, 1, 1, 1]
    assert lr_factor(0, 0, 0, "cosine", 0.0) == 1.0


def train(model: Network, optimizer: torch.optim.Optimizer, schedule: object, steps: int) -> list[bool]:
    """Trains and returns, for each step, whether the backbone moved; the head always does."""
    moved = []
    for _ in range(steps):
        before = [model.backbone.weight.clone(), model.head.weight.clone()]
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        moved.append(not torch.equal(model.backbone.weight, before[0]))
        assert not torch.equal(model.head.weight, before[1])
    return moved


@pytest.mark.trains
def test_the_backbone_rests_while_frozen() -> None:
    torch.manual_seed(0)
    model = Network(nn.Linear(4, 4), 4)
    spec = OptimSpec(
        lr=0.01, backbone_lr_factor=0.1, freeze_epochs=2, warmup_fraction=0.1, final_lr_fraction=0.1
    )
    optimizer = build_optimizer(spec, model)
    schedule = build_schedule(optimizer, spec, total_steps=20, steps_per_epoch=3)
    assert train(model, optimizer, schedule, 20) == [False] * 6 + [True] * 14
    rates = {group["part"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"backbone": pytest.approx(1e-4), "head": pytest.approx(1e-3)}


@pytest.mark.trains
def test_a_schedule_continues_where_it_stopped() -> None:
    spec = OptimSpec(freeze_epochs=1)

    def build() -> tuple[Network, torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        torch.manual_seed(0)
        model = Network(nn.Linear(4, 4), 4)
        optimizer = build_optimizer(spec, model)
        return model, optimizer, build_schedule(optimizer, spec, total_steps=20, steps_per_epoch=5)

    whole, first, second = build(), build(), build()
    train(*whole, 20)
    train(*first, 8)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*second, 12)
    torch.testing.assert_close(second[0].state_dict(), whole[0].state_dict())
