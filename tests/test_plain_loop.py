"""The loader without Lightning's Trainer, and the errors of a Trainer that does not know the data module."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch

from ich.data import HeadCTDataModule, to_images
from ich.image.augment import Augment
from ich.image.window import Window
from ich.models import SliceClassifier
from ich.schema import InputSpec, ReadError, UserError

SPEC = InputSpec(size=32)


def make(root: Path, **given: Any) -> HeadCTDataModule:
    data = HeadCTDataModule(str(root), SPEC, **{"num_workers": 0, "batch_size": 8, **given})
    data.prepare_data()
    data.setup()
    return data


class Own(pl.LightningModule):
    """Somebody's, which keeps the first images that it is given."""

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return batch["image"].clone()  # type: ignore[no-any-return]


def make_trainer() -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", logger=False, **quiet)


def test_the_example_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parent.parent / "examples" / "plain_loop.py"
    with mock.patch.object(sys, "argv", [str(path), str(tmp_path), "7", "64", "1"]):
        runpy.run_path(str(path), run_name="__main__")
    assert "epoch 1: validation loss 0." in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_images_are_those_that_a_trainer_gives(phantom: Path) -> None:
    data = make(phantom)
    given = make_trainer().predict(Own(), datamodule=data)
    assert given is not None
    data = make(phantom)
    for raw, expected in zip(data.predict_dataloader(), given, strict=True):
        hu = raw["hu"].clone()
        batch = to_images(raw, data)
        assert set(batch) == {"image", "target", "row"}
        assert batch["image"].dtype == batch["target"].dtype == torch.float32
        assert batch["row"].dtype == torch.int64
        assert torch.equal(batch["image"], expected)
        assert torch.equal(batch["image"], Window(SPEC)(hu))
    assert data.read == len(data.part("val")) + len(data.part("test"))


def test_changes_that_are_left_to_the_device_are_made(phantom: Path) -> None:
    changes = {"flip": 0.5, "shift_hu": 5.0, "mixup": 0.5}
    on_cpu, on_device = (
        to_images(next(iter(data.train_dataloader())), data)
        for data in (make(phantom, augment=Augment(**changes, on_device=where)) for where in (False, True))
    )
    torch.testing.assert_close(on_device["target"], on_cpu["target"])
    torch.testing.assert_close(on_device["image"], on_cpu["image"], atol=0.2, rtol=0)
    assert ((on_device["target"] > 0) & (on_device["target"] < 1)).any()


def test_epochs_differ_where_they_are_counted(phantom: Path) -> None:
    data = make(phantom)
    orders = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        orders.append(next(iter(data.train_dataloader()))["row"].tolist())
    assert orders[0] == orders[2] != orders[1]


def test_unreadable_slices_are_counted_and_end_a_loop(
    phantom: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    root = Path(shutil.copytree(phantom, tmp_path / "set"))
    damaged = sorted((root / "stage_2_train").iterdir())[0]
    damage(damaged)
    data = make(root, tolerate=1, val_fraction=0.3)
    batches = _read_all(data)
    assert len(data.unread) == 1
    seen = data.table["path"].iloc[torch.cat([batch["row"] for batch in batches]).numpy()]
    assert len(seen) > 300
    assert not seen.str.endswith(damaged.name).any()
    data = make(root, val_fraction=0.3)
    with pytest.raises(ReadError):
        _read_all(data)


def _read_all(data: HeadCTDataModule) -> list[Any]:
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    return [to_images(raw, data) for loader in loaders for raw in loader]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    "model", [Own(), SliceClassifier("test_resnet", input=SPEC, pretrained=False)], ids=["own", "ours"]
)
def test_a_trainer_without_the_data_module_says_what_to_do(phantom: Path, model: pl.LightningModule) -> None:
    data = make(phantom)
    with pytest.raises(
        UserError, match=r"give the Trainer datamodule=data .* ich\.data\.to_images\(batch, data\)"
    ):
        make_trainer().predict(model, dataloaders=data.predict_dataloader())
    with pytest.raises(KeyError, match="images"):
        next(iter(data.val_dataloader()))["images"]
