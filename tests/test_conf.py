from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ich.data import HeadCTDataModule
from ich.train.signatures import register_signatures

CONF = Path(__file__).parent.parent / "conf"
CHOICES = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.glob("*/*.yaml"))


def compose_with(*overrides: str) -> DictConfig:
    register_signatures()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=["data.root=data", *overrides])


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_composes_and_binds_to_its_constructor(choice: str) -> None:
    cfg = compose_with(choice.replace("/", "="))
    assert not OmegaConf.missing_keys(cfg)
    nodes = [cfg[group] for group in ("input", "augment", "loss", "optim", "model", "trainer", "data")]
    for node in (*nodes, *cfg.logger.values()):
        if not node:
            continue
        plain = OmegaConf.to_container(node, resolve=True)
        assert isinstance(plain, dict)
        target = get_object(plain.pop("_target_"))
        inspect.signature(target).bind_partial(**plain)


def test_defaults_of_the_constructors_are_the_defaults_of_the_configuration() -> None:
    cfg = compose_with("data=rsna")
    for name, parameter in inspect.signature(HeadCTDataModule).parameters.items():
        if name not in ("root", "input", "augment", "seed"):
            assert cfg.data[name] == parameter.default, name
    assert cfg.model.pretrained is True


def test_only_the_small_default_network_computes_on_one_thread() -> None:
    assert compose_with().threads == 1
    assert compose_with("model=resnet50").threads is None


def test_phantom_starts_from_random_weights_with_any_model() -> None:
    assert compose_with("model=resnet50").model.pretrained is False
    assert compose_with("model=resnet50", "data=rsna").model.pretrained is True
