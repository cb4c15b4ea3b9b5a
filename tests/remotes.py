"""Data sets at an address or in shards, beside those on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ich.data import HeadCTDataModule
from ich.remote import RemotePath
from ich.schema import InputSpec

SPEC = InputSpec(size=48, neighbors=1)


def upload(folder: Path, to: RemotePath) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".ich" not in path.parts:
            (to / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())


def make(root: object, **kwargs) -> HeadCTDataModule:
    datamodule = HeadCTDataModule(str(root), SPEC, **{"num_workers": 2} | kwargs)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def read_all(datamodule: HeadCTDataModule) -> list[dict]:
    loaders = (datamodule.train_dataloader(), datamodule.predict_dataloader())
    return [datamodule.on_before_batch_transfer(batch, 0) for loader in loaders for batch in loader]


def assert_same_batches(one: HeadCTDataModule, other: HeadCTDataModule) -> None:
    batches = list(zip(read_all(one), read_all(other), strict=True))
    assert batches
    for a, b in batches:
        assert set(a) == set(b)
        assert all(np.array_equal(a[key], b[key], equal_nan=key == "target") for key in a)
