"""``data.cache``: resized slices in one file."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from processes import run_program

import ich.data.cache
from ich.data import HeadCTDataModule
from ich.data.slices import SliceReader
from ich.image.augment import Augment
from ich.phantom import write_phantom
from ich.schema import InputSpec, ReadError, UserError
from ich.schema.codes import Refusal

SPEC = InputSpec(size=48, neighbors=1)


@pytest.fixture
def root(phantom: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantom, tmp_path / "phantom"))


def make(root: Path, cache: Path | None, spec: InputSpec = SPEC, **kwargs) -> HeadCTDataModule:
    augment = Augment(flip=0.5, rotate=20, noise_hu=5)
    datamodule = HeadCTDataModule(
        str(root), spec, **{"cache": cache and str(cache), "augment": augment, "num_workers": 2} | kwargs
    )
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def read_all(datamodule: HeadCTDataModule) -> list[dict]:
    loaders = (datamodule.train_dataloader(), datamodule.predict_dataloader())
    return [datamodule.on_before_batch_transfer(batch, 0) for loader in loaders for batch in loader]


def assert_same_batches(one: HeadCTDataModule, other: HeadCTDataModule) -> None:
    for a, b in zip(read_all(one), read_all(other), strict=True):
        assert set(a) == set(b)
        assert all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in a)


def count_reads(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """Rows that are read from DICOM files from now on; at one of them, and after it, the user presses Ctrl-C.

    It is a row and not a number of rows, as threads read several batches at once.
    """
    rows: list[int] = []
    read = SliceReader.read

    def counted(self: SliceReader, row: int, out: np.ndarray) -> None:
        if stop_at is not None and row >= stop_at:
            raise KeyboardInterrupt
        rows.append(row)
        read(self, row, out)

    monkeypatch.setattr(SliceReader, "read", counted)
    return rows


@pytest.mark.races
def test_batches_are_those_of_the_files_to_the_bit(root: Path, tmp_path: Path) -> None:
    cached = make(root, tmp_path / "cache")
    assert_same_batches(cached, make(root, None))
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {"hu.npy", "slices.parquet", "cache.json", ".lock"}
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_it_is_an_array_that_numpy_reads(root: Path, tmp_path: Path) -> None:
    cached = make(root, tmp_path / "cache", InputSpec(size=64))
    hu = np.load(tmp_path / "cache" / "hu.npy", mmap_mode="r")
    assert (hu.shape, hu.dtype) == ((len(cached.table), 64, 64), np.int16)


def test_files_are_not_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = count_reads(monkeypatch)
    table = make(root, tmp_path / "cache").table
    assert sorted(rows) == list(range(len(table)))
    rows.clear()
    read_all(make(root, tmp_path / "cache"))
    assert rows == []


def test_a_sample_is_read_from_the_cache_of_all(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "cache")
    sample = {"limit_slices": 120}
    assert_same_batches(make(root, tmp_path / "cache", **sample), make(root, None, **sample))


@pytest.mark.races
def test_a_stopped_build_continues(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ich.data.cache, "_INTERVAL", 0.0)
    with monkeypatch.context() as patch:
        count_reads(patch, stop_at=150)
        with pytest.raises(KeyboardInterrupt):
            make(root, tmp_path / "cache")
    rows = count_reads(monkeypatch)
    cached = make(root, tmp_path / "cache")
    assert sorted(rows) == list(range(128, len(cached.table)))  # two whole batches were written
    monkeypatch.undo()
    assert_same_batches(cached, make(root, None))


def test_slices_that_cannot_be_read_stay_so(root: Path, tmp_path: Path, damage) -> None:
    path = root / make(root, None).part("val")["path"].iloc[0]
    damage(path)
    with pytest.raises(ReadError) as from_file:
        read_all(make(root, None))
    with pytest.raises(ReadError) as from_cache:
        read_all(make(root, tmp_path / "cache"))
    assert (from_cache.value.code, from_cache.value.path) == (from_file.value.code, from_file.value.path)
    assert_same_batches(make(root, tmp_path / "cache", tolerate=9), make(root, None, tolerate=9))


def change_file(root: Path, cache: Path) -> None:
    next(root.rglob("*.dcm")).touch()


def add_file(root: Path, cache: Path) -> None:
    first = sorted(root.rglob("*.dcm"))[0]
    content = first.read_bytes()
    first.unlink()
    shutil.rmtree(cache)
    make(root, cache)
    first.write_bytes(content)


def cut_pixels(root: Path, cache: Path) -> None:
    os.truncate(cache / "hu.npy", (cache / "hu.npy").stat().st_size - 64)


def retype_pixels(root: Path, cache: Path) -> None:
    np.save(cache / "hu.npy", np.load(cache / "hu.npy").astype(np.float32))


def reshape_pixels(root: Path, cache: Path) -> None:
    hu = np.load(cache / "hu.npy")
    np.save(cache / "hu.npy", np.concatenate([hu, hu[:1]]))


def spoil_state(root: Path, cache: Path) -> None:
    (cache / "cache.json").write_text("{")


def change_state(root: Path, cache: Path) -> None:
    state = json.loads((cache / "cache.json").read_text())
    (cache / "cache.json").write_text(json.dumps(state | {"done": "all"}))


def age_state(root: Path, cache: Path) -> None:
    (cache / "cache.json").write_text('{"version": 0, "layout": []}')


def empty_slices(root: Path, cache: Path) -> None:
    pd.read_parquet(cache / "slices.parquet").iloc[:0].to_parquet(cache / "slices.parquet")


def rename_columns(root: Path, cache: Path) -> None:
    pd.DataFrame({"thesis": [1]}).to_parquet(cache / "slices.parquet")


def occupy(root: Path, cache: Path) -> None:
    shutil.rmtree(cache)
    cache.mkdir()
    (cache / "hu.npy").write_text("of somebody else")


def replace_by_file(root: Path, cache: Path) -> None:
    shutil.rmtree(cache)
    cache.touch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_file, "does not hold the current state of 1 of .* slices, .*dcm: files have changed"),
        (add_file, "does not hold the current state of 1 of .* slices, .* files were added since"),
        (cut_pixels, "hu.npy is missing or cut off"),
        (retype_pixels, "hu.npy holds float32"),
        (reshape_pixels, "hu.npy holds int16 of shape"),
        (spoil_state, "is damaged"),
        (change_state, "is damaged .*done 'all'"),
        (age_state, "belongs to another version"),
        (empty_slices, "is damaged"),
        (rename_columns, "is damaged"),
        (occupy, "holds files that are not a cache"),
        (replace_by_file, "cannot be used: "),
    ],
)
def test_a_cache_that_does_not_fit_is_refused(root: Path, tmp_path: Path, change, message: str) -> None:
    make(root, tmp_path / "cache")
    change(root, tmp_path / "cache")
    with pytest.raises(UserError, match=message):
        make(root, tmp_path / "cache").train_dataloader()


def test_a_cache_of_other_data_is_refused_and_not_to_be_removed(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_phantom(other, patients=4, seed=9, size=64)
    make(root, tmp_path / "cache")
    with pytest.raises(UserError, match=r"belongs to another data set; name another folder$"):
        make(other, tmp_path / "cache")


@pytest.mark.races
def test_an_error_of_the_disk_stops_the_build_and_is_not_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = SliceReader.read

    def fail(self: SliceReader, row: int, out: np.ndarray) -> None:
        if row == 70:
            raise ReadError(Refusal.CORRUPT, root / "y.dcm", "in the same batch")
        if row == 100:
            raise ReadError(Refusal.UNREADABLE, root / "x.dcm", "Input/output error")
        read(self, row, out)

    with monkeypatch.context() as patch:
        patch.setattr(SliceReader, "read", fail)
        with pytest.raises(ReadError, match="Input/output error"):
            make(root, tmp_path / "cache")
    assert_same_batches(make(root, tmp_path / "cache"), make(root, None))


@pytest.mark.races
def test_runs_that_start_together_share_one_build(root: Path, tmp_path: Path) -> None:
    make(root, None)
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: make(root, tmp_path / "cache"), range(3)))
    assert_same_batches(made[0], make(root, None))


@pytest.mark.races
def test_a_killed_build_continues(root: Path, tmp_path: Path) -> None:
    make(root, None)
    script = (
        "import os, ich.data.cache as cache; from ich.data import HeadCTDataModule; "
        "from ich.schema import InputSpec; cache._INTERVAL = 0.0; write = cache._write_manifest; "
        "cache._write_manifest = lambda f, m: (write(f, m), m.done > 100 and os.kill(os.getpid(), 9)); "
        f"spec, folder = InputSpec(size=48, neighbors=1), {str(tmp_path / 'cache')!r}; "
        f"HeadCTDataModule({str(root)!r}, spec, cache=folder, num_workers=0).prepare_data()"
    )
    assert run_program(script).returncode == -9
    assert 100 < json.loads((tmp_path / "cache" / "cache.json").read_text())["done"] < 200
    assert_same_batches(make(root, tmp_path / "cache"), make(root, None))


def test_it_is_made_whatever_was_called_before(root: Path, tmp_path: Path) -> None:
    datamodule = HeadCTDataModule(str(root), SPEC, cache=str(tmp_path / "cache"), num_workers=0)
    make(root, None)
    datamodule.setup()
    datamodule.prepare_data()
    assert len(list(datamodule.predict_dataloader())) > 0


def test_a_cache_of_another_size_is_refused(root: Path, tmp_path: Path) -> None:
    make(root, tmp_path / "cache")
    with pytest.raises(UserError, match=r"holds slices of 48 px and input.size=64"):
        make(root, tmp_path / "cache", InputSpec(size=64))


def test_a_disk_that_is_too_small_is_named(root: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(UserError, match=r"needs 0\.0 GB for .* slices of 48 px, and 0\.0 GB are free"):
        make(root, tmp_path / "cache")
