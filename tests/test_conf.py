from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ich.calibration.sample import MIN_CASES, MIN_PATIENTS
from ich.data import HeadCTDataModule
from ich.index.split import Shares, split_patients
from ich.phantom import sample_subtypes
from ich.schema import LABEL_WEIGHTS, SUBTYPES, UserError
from ich.schema.labels import RSNA_LABELS, LabelSet
from ich.train.command import VERSION_BASE
from ich.train.resume import resume_config
from ich.train.settings import ADDED, OF_A_RUN
from ich.train.signatures import register_signatures

CONF = Path(__file__).parent.parent / "conf"
CHOICES = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.glob("*/*.yaml"))


def compose_with(*overrides: str) -> DictConfig:
    register_signatures()
    with initialize_config_dir(str(CONF), **VERSION_BASE):
        return compose("config", overrides=["data.root=data", *overrides])


PLUGINS = {
    "sweep/ray": "hydra_plugins.hydra_ray_launcher",
    "sweep/optuna": "hydra_plugins.hydra_optuna_sweeper",
}
"""What files need that is too large for all tests, or cannot be installed beside the rest."""


@pytest.mark.parametrize("choice", CHOICES)
def test_every_file_composes_and_binds_to_its_constructor(choice: str) -> None:
    if choice in PLUGINS:
        pytest.importorskip(PLUGINS[choice])
    own = ["labels.names=[bleed]", "labels.weights=[1]"] if choice == "labels/own" else []
    cfg = compose_with(choice.replace("/", "="), *own)
    assert not OmegaConf.missing_keys(cfg)
    nodes = [
        cfg[group]
        for group in ("labels", "input", "augment", "lesions", "loss", "optim", "model", "trainer", "data")
    ]
    for node in (*nodes, *cfg.logger.values(), *cfg.callbacks.values()):
        if not node:
            continue
        plain = OmegaConf.to_container(node, resolve=True)
        assert isinstance(plain, dict)
        target = get_object(plain.pop("_target_"))
        inspect.signature(target).bind_partial(**plain)


def test_defaults_of_the_constructors_are_the_defaults_of_the_configuration() -> None:
    cfg = compose_with("data=rsna")
    for name, parameter in inspect.signature(HeadCTDataModule).parameters.items():
        if name not in ("root", "input", "label_set", "augment", "lesions", "series", "seed"):
            assert cfg.data[name] == parameter.default, name
    assert cfg.model.pretrained is True


def test_the_labels_of_the_rsna_are_the_default() -> None:
    labels = OmegaConf.to_container(compose_with().labels)
    assert isinstance(labels, dict)
    assert LabelSet(**{name: value for name, value in labels.items() if name != "_target_"}) == RSNA_LABELS
    assert compose_with().loss.label_weights == list(LABEL_WEIGHTS)
    own = compose_with("labels=own", "labels.names=[a,b]", "labels.weights=[1,2]")
    assert own.loss.label_weights == [1, 2]
    assert own.labels.decides is None


def test_what_a_run_needs_is_what_the_configuration_has() -> None:
    assert set(compose_with()) == {*OF_A_RUN, *ADDED}


def test_a_run_of_another_version_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    cfg = OmegaConf.to_container(compose_with(), resolve=True)
    assert isinstance(cfg, dict)
    older = {name: value for name, value in cfg.items() if name not in ("threads", "pretrain")}
    OmegaConf.save(older, tmp_path / "config.yaml")
    with pytest.raises(UserError, match=r"lacks threads, pretrain: another version of ich than this one \("):
        resume_config(tmp_path, [])
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    assert resume_config(tmp_path, []).ckpt_path == str(tmp_path)


def test_only_the_small_default_network_computes_on_one_thread() -> None:
    assert compose_with().threads == 1
    assert compose_with("model=resnet50").threads is None


def test_a_run_for_debugging_skips_the_pretraining_of_an_experiment() -> None:
    for debug in ("fast", "overfit"):
        cfg = compose_with("experiment=ct_ich", f"debug={debug}")
        assert cfg.pretrain is None
        assert cfg.run_dir.startswith("runs/debug/")


def test_phantom_starts_from_random_weights_with_any_model() -> None:
    assert compose_with("model=resnet50").model.pretrained is False
    assert compose_with("model=resnet50", "data=rsna").model.pretrained is True


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_run_holds_out_enough_studies_for_an_operating_point(seed: int) -> None:
    """By what is planned of each study: a hemorrhage is taken to lie in the middle of its slices."""
    data = compose_with().data
    rows = []
    for patient in range(data.phantom.patients):
        rng = np.random.default_rng([0, patient])
        later = int(patient % 4 == 3) + int(patient % 16 == 15)
        for number, turn in enumerate((patient, *rng.integers(10, size=later))):
            subtypes = sample_subtypes(rng, int(turn))
            for place in range(28):
                labels = {label: float(label in subtypes and 10 < place < 18) for label in SUBTYPES}
                labels["any"] = max(labels.values())
                rows.append({"PatientID": str(patient), "StudyInstanceUID": f"{patient}.{number}", **labels})
    table = pd.DataFrame(rows)
    shares = Shares(data.val_fraction, data.test_fraction, fold=None, folds=5, seed=seed)
    part = split_patients(table, shares)
    held_out = table[part == "val"].groupby("StudyInstanceUID")["any"].max()
    assert (held_out == 1).sum() >= MIN_CASES
    assert (held_out == 0).sum() >= MIN_CASES
    assert table.loc[part == "val", "PatientID"].nunique() >= 2 * MIN_PATIENTS
