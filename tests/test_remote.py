"""Data at an address, such as ``s3://bucket/folder``; tests without a server use ``memory://``."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pytest
from pydicom.uid import RLELossless
from remotes import assert_same_batches, make, upload
from slices import make_slice, to_bytes

from ich.dicom import list_headers, read_geometry, read_hu, read_pixels
from ich.dicom.attributes import read_attributes
from ich.index import build_index, locate_index
from ich.remote import RemotePath, Span, is_address, parse_path
from ich.schema import ReadError, UserError
from ich.schema.codes import Refusal


def note_requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int | None, int | None]]:
    """The parts of files that are asked for from now on, without those of ``fetch``."""
    parts: list[tuple[str, int | None, int | None]] = []
    read_bytes = RemotePath.read_bytes

    def noted(self: RemotePath, start: int | None = None, stop: int | None = None) -> bytes:
        parts.append((self.name, start, stop))
        return read_bytes(self, start, stop)

    monkeypatch.setattr(RemotePath, "read_bytes", noted)
    return parts


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/set", True),
        ("simplecache::s3://bucket/set", True),
        ("/data/a", False),
        ("C:/x", False),
        ("a:b", False),
    ],
)
def test_an_address_has_a_protocol(text: str, address: bool) -> None:
    assert is_address(text) == address
    assert isinstance(parse_path(text), RemotePath if address else Path)
    assert str(parse_path(text)) == text


def test_index_and_batches_are_those_of_the_disk(phantom: Path, memory: RemotePath) -> None:
    upload(phantom, memory)
    here, there = make(phantom), make(memory)
    times = ["mtime_ns"]
    pd.testing.assert_frame_equal(there.table.drop(columns=times), here.table.drop(columns=times))
    assert_same_batches(there, here)
    assert there.decoded == 0


def test_headers_are_read_in_parts(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    content = to_bytes(make_slice(np.zeros((256, 256))))
    for number in range(3):
        uid = b"ID_%09d" % number
        (memory / f"{number}.dcm").write_bytes(content.replace(b"ID_000000001", uid))
    parts = note_requests(monkeypatch)
    assert len(build_index(memory).table) == 3
    assert sorted(name for name, *_ in parts) == ["0.dcm", "1.dcm", "2.dcm"]
    assert all(start == 0 and stop < len(content) / 4 for _, start, stop in parts)


def test_index_is_kept_and_only_changes_are_read(phantom: Path, memory: RemotePath, monkeypatch) -> None:
    upload(phantom, memory)
    first = build_index(memory).table
    parts = note_requests(monkeypatch)
    pd.testing.assert_frame_equal(build_index(memory).table, first)
    assert parts == []
    changed = memory / first["path"][7]
    content = changed.read_bytes()
    parts.clear()
    changed.write_bytes(content)
    build_index(memory)
    assert {name for name, *_ in parts} == {changed.name}
    assert "memory" not in str(locate_index(memory))


def test_files_of_other_kinds_and_hidden_folders_are_listed(memory: RemotePath) -> None:
    content = to_bytes(make_slice())
    for name in ("a.dcm", ".ich/b.dcm", ".trash/c.dcm"):
        (memory / name).write_bytes(content)
    (memory / "notes.csv").write_bytes(b"a,b\n")
    (memory / "cut.dcm").write_bytes(content[:300])
    (memory / "none.dcm").write_bytes(b"")
    index = build_index(memory)
    assert list(index.table["path"]) == ["a.dcm"]
    codes = dict(zip(index.refused["path"], index.refused["code"], strict=True))
    assert codes == {
        ".trash": Refusal.UNREADABLE,
        "cut.dcm": Refusal.TRUNCATED,
        "none.dcm": Refusal.EMPTY,
        "notes.csv": Refusal.OTHER_KIND,
    }


def test_compressed_slices_are_read_whole(memory: RemotePath, tmp_path: Path, monkeypatch) -> None:
    ds = make_slice()
    ds.compress(RLELossless, generate_instance_uid=False)
    local = tmp_path / "a.dcm"
    local.write_bytes(to_bytes(ds))
    there = memory / "a.dcm"
    there.write_bytes(local.read_bytes())
    assert list_headers(there) == list_headers(local)
    parts = note_requests(monkeypatch)
    np.testing.assert_array_equal(read_hu(there), read_hu(local))
    assert len(parts) == 1
    assert all(np.array_equal(a, b) for a, b in zip(read_pixels(there), read_pixels(local), strict=True))
    assert read_geometry(there) == read_geometry(local)
    assert read_attributes(there) == read_attributes(local)


def test_long_headers_and_large_files_are_read_in_parts(memory: RemotePath, tmp_path: Path) -> None:
    ds = make_slice()
    ds.add_new(0x00091001, "UN", bytes(100_000))
    local = tmp_path / "a.dcm"
    local.write_bytes(to_bytes(ds))
    there = memory / "a.dcm"
    there.write_bytes(local.read_bytes())
    assert list_headers(there) == list_headers(local)
    np.testing.assert_array_equal(read_hu(there), read_hu(local))


def test_a_slice_that_is_gone_is_counted(phantom: Path, memory: RemotePath) -> None:
    upload(phantom, memory)
    datamodule = make(memory, tolerate=1)
    gone = datamodule.table["path"][datamodule.table["part"] == "train"].iloc[3]
    fsspec.filesystem("memory").rm(f"{memory.address.removeprefix('memory:/')}/{gone}")
    for batch in datamodule.train_dataloader():
        datamodule.on_before_batch_transfer(batch, 0)
    (error,) = datamodule.unread.values()
    assert (error.code, error.path) == (Refusal.UNREADABLE, f"{memory}/{gone}")
    assert "there is no such" in error.detail


def test_cache_holds_the_slices_of_an_address(phantom: Path, memory: RemotePath, tmp_path: Path) -> None:
    upload(phantom, memory)
    cached = make(memory, cache=str(tmp_path / "slices"))
    fsspec.filesystem("memory").rm(f"{memory.address.removeprefix('memory:/')}/stage_2_train", recursive=True)
    assert_same_batches(cached, make(phantom))


def test_label_files_and_splits_may_be_at_an_address(phantom: Path, memory: RemotePath) -> None:
    upload(phantom, memory)
    here = make(phantom)
    split = here.table[here.table["part"] != "unlabeled"][["SOPInstanceUID", "part"]]
    (memory / "split.txt").write_bytes(split.to_csv(index=False).encode())
    there = make(phantom, labels=f"{memory}/stage_2_train.csv", split=f"{memory}/split.txt")
    assert list(there.table["part"]) == list(here.table["part"])


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("memory://nothing/here", "holds no DICOM file"),
        ("nix://bucket/set", "fsspec knows no addresses that begin with nix://: check the spelling"),
        ("wandb://bucket/set", "the package for wandb:// is not installed: install the package of fsspec"),
    ],
)
def test_a_wrong_address_is_explained(root: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(root)


def test_a_cache_and_a_phantom_are_on_a_disk(memory: RemotePath) -> None:
    with pytest.raises(UserError, match="a cache must be a folder on a disk"):
        make("data", cache=str(memory))
    with pytest.raises(UserError, match="the phantom is written to a disk"):
        make(memory, phantom={"patients": 1})


def test_parts_that_cannot_be_read_are_none(memory: RemotePath) -> None:
    (memory / "a").write_bytes(b"012345")
    assert memory.fetch([Span("a", 2, 4), Span("b", 0, 1), Span("a", 4, 9)]) == [b"23", None, b"45"]
    with pytest.raises(ReadError, match=f"b: {Refusal.UNREADABLE}: there is no such"):
        read_hu(memory / "b")
