"""Training without labels: pairs of views, which slices are used, and the training that starts from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import call

from ich.data import HeadCTDataModule
from ich.image.augment import Augment
from ich.index import read_labels
from ich.models import load_slice_net
from ich.models.self_supervised import SelfSupervised, ViewLoss
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.labels import RSNA_LABELS

TINY = [
    *(
        "data=rsna",
        "input.size=32",
        "logger=csv",
        "trainer.gpus=0",
        "trainer.max_epochs=1",
        "data.num_workers=0",
    ),
    *("model.backbone=test_resnet", "model.pretrained=false"),
]


@pytest.fixture(scope="module")
def few_labels(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of the phantom without those of two patients, and without every third slice of the others."""
    module = HeadCTDataModule(str(phantom), InputSpec(size=32))
    module.prepare_data()
    module.setup()
    patients = module.table.set_index("SOPInstanceUID")["PatientID"]
    without = sorted(patients.unique())[:2]
    labels = read_labels(phantom / "stage_2_train.csv", RSNA_LABELS)
    kept = ~patients.reindex(labels.index).isin(without) & (np.arange(len(labels)) % 3 > 0)
    path = tmp_path_factory.mktemp("labels") / "few.csv"
    labels[kept.to_numpy()].to_csv(path, index_label="SOPInstanceUID")
    return path


def make_data(phantom: Path, labels: Path, **settings: object) -> HeadCTDataModule:
    augment = Augment(flip=0.5, rotate=20, noise_hu=10)
    given = {"batch_size": 8, "num_workers": 2, "augment": augment} | settings
    module = HeadCTDataModule(str(phantom), InputSpec(size=32), labels=str(labels), **given)
    module.prepare_data()
    module.setup()
    return module


def test_a_batch_has_two_views_of_each_slice(phantom: Path, few_labels: Path) -> None:
    module = make_data(phantom, few_labels, views=2)
    for loader, part in ((module.train_dataloader(), "train"), (module.val_dataloader(), "val")):
        seen = []
        for batch in loader:
            assert torch.equal(batch["row"][0::2], batch["row"][1::2])
            assert (batch["hu"][0::2] != batch["hu"][1::2]).flatten(1).any(dim=1).all()
            seen += batch["row"][0::2].tolist()
        rows = np.flatnonzero(module.table["part"] == part)
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(rows)
        assert len(seen) >= len(rows) - 4 * (part == "train")  # the last batch may be left out
    with pytest.raises(UserError, match=r"data\.views=0: expected 1 or more"):
        make_data(phantom, few_labels, views=0)


def test_unlabeled_slices_of_held_out_patients_are_not_trained_on(phantom: Path, few_labels: Path) -> None:
    plain, more = make_data(phantom, few_labels), make_data(phantom, few_labels, unlabeled=True)
    held_out = plain.table[plain.table["part"].isin(["val", "test"])]
    for part in ("val", "test"):
        assert set(more.part(part)["SOPInstanceUID"]) == set(plain.part(part)["SOPInstanceUID"])
    added = more.part("train").loc[lambda table: table[list(LABELS)].isna().all(axis=1)]
    assert len(added) == len(more.part("train")) - len(plain.part("train"))
    assert not set(added["PatientID"]) & set(held_out["PatientID"])
    new = set(added["PatientID"]) - set(plain.part("train")["PatientID"])
    assert len(new) == 2  # those without any label
    left = more.table[more.table["part"] == "unlabeled"]
    assert set(left["PatientID"]) <= set(held_out["PatientID"])


def test_lightly_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightly.loss", None)
    with pytest.raises(UserError, match=r"needs lightly, which is not installed: pip install 'ich\[ssl\]'"):
        SelfSupervised("test_resnet", input=InputSpec(size=32), pretrained=False)


def test_the_loss_is_low_for_views_that_agree_and_slices_that_differ() -> None:
    torch.manual_seed(0)
    loss = ViewLoss(16)
    loss.projector = torch.nn.Identity()
    differ = torch.nn.functional.one_hot(torch.arange(16)).float() * 4
    agree = loss(differ.repeat_interleave(2, dim=0))
    assert agree < loss(torch.cat([differ, differ.flip(0)]))  # of other slices
    assert agree < loss(torch.ones(32, 16))  # collapsed


@pytest.mark.trains
def test_a_run_starts_from_a_backbone_that_was_trained_without_labels(
    phantom: Path, few_labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """The training itself goes next to no way, so that the backbone of the pretraining is still seen."""
    monkeypatch.chdir(tmp_path)
    data = [*TINY, f"data.root={phantom}", f"data.labels={few_labels}"]
    first = ["pretrain=self_supervised", "pretrain.trainer.max_epochs=2", "pretrain.data.batch_size=32"]
    assert call("train", *data, *first, "optim.lr=1e-9", "pretrain.optim.lr=1e-3", "run_dir=run") == 0
    report = json.loads(Path("run/pretrain/metrics.json").read_text())
    metrics = pd.read_csv("run/pretrain/metrics.csv")
    assert report["val_loss"] == metrics["val_loss"].min()
    before = SelfSupervised("test_resnet", input=InputSpec(size=32), pretrained=False).net
    backbones = [load_slice_net(f"{run}/checkpoints/best.ckpt").backbone for run in ("run/pretrain", "run")]
    for name, value in backbones[0].named_parameters():
        assert torch.allclose(value, backbones[1].get_parameter(name), rtol=0, atol=1e-5)
        assert not torch.allclose(value, before.backbone.get_parameter(name), rtol=0, atol=1e-5)
    assert "random, then pretrained without labels on slices" in Path("run/model_card.md").read_text()
    split, own = (pd.read_csv(f"{run}/split.csv") for run in ("run", "run/pretrain"))
    held_out = split.loc[split["part"] != "train", "PatientID"]
    assert not own.loc[own["part"] == "train", "PatientID"].isin(held_out).any()
    assert len(own) > len(split)
    # With another seed, patients that the run holds out would be trained on.
    assert call("train", *data, *first, "run_dir=other", "+pretrain.data.seed=1") == 2
    assert "pretrain would train on" in caplog.text
    assert not Path("other").exists()


@pytest.mark.trains
def test_a_training_without_labels_resumes_exactly(
    phantom: Path, few_labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["model._target_=ich.models.self_supervised.SelfSupervised", "data.views=2", "data.batch_size=32"]
    own.append("data.limit_slices=120")
    data = [*TINY, f"data.root={phantom}", f"data.labels={few_labels}", *own, "optim.schedule=constant"]
    assert call("train", *data, "trainer.max_epochs=2", "run_dir=whole") == 0
    assert call("train", *data, "run_dir=parted") == 0
    assert call("train", "ckpt_path=parted", "trainer.max_epochs=2") == 0
    assert call("train", *data, "data.views=1", "run_dir=single") == 2
    assert "compares two views of each slice in a batch" in caplog.text
    whole, parted = (
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "parted")
    )
    assert whole.keys() == parted.keys()
    assert all(torch.equal(value, parted[name]) for name, value in whole.items())
