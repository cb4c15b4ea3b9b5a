"""``ich shard`` and ``data=shards``: slices in a few large files, on a disk or at an address."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from command import call
from processes import run_program
from remotes import SPEC, assert_same_batches, make, read_all, upload

import ich.data.sharding
from ich.data import HeadCTDataModule
from ich.data.sharding import collect_slices, write_shards
from ich.data.slices import SliceReader
from ich.dicom import read_hu
from ich.image.augment import Augment
from ich.remote import AnyPath, RemotePath, Span
from ich.schema import InputSpec, ReadError, UserError
from ich.schema.codes import Refusal
from ich.schema.labels import RSNA_LABELS

CHUNK = 300_000  # bytes, so that the phantom becomes several
TINY = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=1", "data.num_workers=0"]


@pytest.fixture(scope="session")
def shards(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom's shards, to be left as they are."""
    folder = tmp_path_factory.mktemp("shards") / "all"
    write_shards(collect_slices(phantom), folder, chunk_bytes=CHUNK, workers=2)
    return folder


def list_chunks(folder: Path) -> list[Path]:
    return sorted(folder.glob("chunk-*.bin"))


def augmented(root: AnyPath, **kwargs) -> HeadCTDataModule:
    return make(root, augment=Augment(flip=0.5, rotate=20, noise_hu=5), **kwargs)


def test_batches_are_those_of_the_files_to_the_bit(phantom: Path, shards: Path) -> None:
    there = augmented(shards, shards=True)
    assert_same_batches(there, augmented(phantom))
    assert len(list_chunks(shards)) > 5
    assert there.decoded == 0


def test_an_epoch_goes_on_as_that_of_the_files(phantom: Path, shards: Path) -> None:
    whole = [batch["row"].tolist() for batch in augmented(shards, shards=True).train_dataloader()]
    slices = [row for rows in whole for row in rows]
    assert len(set(slices)) == len(slices)
    rests = []
    for datamodule in (augmented(phantom), augmented(shards, shards=True)):
        state = {"read": 0, "decoded": 0, "epoch": 0, "drawn": 64, "planned": len(slices)}
        datamodule.load_state_dict(state)
        rests.append(list(datamodule.train_dataloader()))
    assert [batch["row"].tolist() for batch in rests[1]] == whole[2:]
    assert all(torch.equal(a["hu"], b["hu"]) for a, b in zip(*rests, strict=True))


def test_shards_at_an_address_are_the_same(phantom: Path, memory: RemotePath, shards: Path) -> None:
    write_shards(collect_slices(phantom), memory, chunk_bytes=CHUNK, workers=2)
    for path in list_chunks(shards):
        assert (memory / path.name).read_bytes() == path.read_bytes()
    assert_same_batches(augmented(memory, shards=True), augmented(phantom))
    (memory / "chunk-0-1.bin").write_bytes(b"")
    with pytest.raises(ReadError, match=rf"chunk-0-1.bin: {Refusal.UNREADABLE}: bytes .* cannot be read"):
        read_all(make(memory, shards=True))


def test_neighboring_slices_are_fetched_as_one(shards: Path, memory: RemotePath, monkeypatch) -> None:
    upload(shards, memory)
    datamodule = make(memory, shards=True, num_workers=0)
    asked: list[int] = []
    fetch = RemotePath.fetch

    def noted(self: RemotePath, spans: Sequence[Span]) -> list[bytes | None]:
        asked.append(len(spans))
        return fetch(self, spans)

    monkeypatch.setattr(RemotePath, "fetch", noted)
    rows = [batch["row"] for batch in datamodule.val_dataloader()]
    assert sum(asked) < sum(map(len, rows)) / 5
    assert len(asked) == len(rows)


def test_files_at_an_address_become_the_same_shards(
    phantom: Path, memory: RemotePath, tmp_path, shards
) -> None:
    upload(phantom, memory)
    write_shards(collect_slices(memory), tmp_path / "new", chunk_bytes=CHUNK, workers=2)
    for path in list_chunks(shards):
        assert (tmp_path / "new" / path.name).read_bytes() == path.read_bytes()


def test_shards_may_be_moved_and_cached(shards: Path, phantom: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(shards, tmp_path / "moved"))
    cached = augmented(moved, shards=True, cache=str(tmp_path / "cache"))
    shutil.rmtree(moved)
    assert_same_batches(cached, augmented(phantom))


def test_smaller_slices_are_for_one_input_size(phantom: Path, shards: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    write_shards(collect_slices(phantom, size=SPEC.size), small)
    assert_same_batches(augmented(small, shards=True), augmented(phantom))
    assert sum(path.stat().st_size for path in list_chunks(small)) < 10_000_000
    datamodule = HeadCTDataModule(str(small), InputSpec(size=64), shards=True)
    datamodule.setup()
    with pytest.raises(UserError, match=f"shards of {SPEC.size} px and input.size=64"):
        datamodule.train_dataloader()


@pytest.mark.trains
def test_a_training_ends_in_the_same_figures(phantom: Path, shards: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, root in (("rsna", phantom), ("shards", shards)):
        data = [f"data={name}", f"data.root={root}", "input.size=32", f"run_dir={name}", "logger=csv"]
        assert call("train", *data, *TINY) == 0
    figures = [json.loads(Path(name, "metrics.json").read_text()) for name in ("rsna", "shards")]
    assert figures[0]["val"] == figures[1]["val"]
    for table in ("predictions_val.csv", "predictions_test.csv", "split.csv"):
        assert Path("rsna", table).read_bytes() == Path("shards", table).read_bytes()


def stop_at(monkeypatch: pytest.MonkeyPatch, row: int) -> list[int]:
    """Notes the rows that are read from now on; at one of them the user presses Ctrl-C."""
    rows: list[int] = []
    read = SliceReader.read_whole

    def noted(self: SliceReader, each: int) -> np.ndarray:
        if each == row:
            raise KeyboardInterrupt
        rows.append(each)
        return read(self, each)

    monkeypatch.setattr(SliceReader, "read_whole", noted)
    return rows


def test_it_goes_on_after_an_interruption(phantom: Path, shards: Path, tmp_path: Path, monkeypatch) -> None:
    slices, out = collect_slices(phantom), tmp_path / "out"
    with monkeypatch.context() as patch:
        rows = stop_at(patch, row=len(slices.table) // 2)
        with pytest.raises(KeyboardInterrupt):
            write_shards(slices, out, chunk_bytes=CHUNK, workers=1)
    whole = list_chunks(out)
    assert 0 < len(whole) < len(list_chunks(shards))
    with pytest.raises(UserError, match="does not hold all shards yet: call the same ich shard again"):
        make(out, shards=True)
    whole[1].write_bytes(whole[1].read_bytes()[:-1])  # as a copy that was cut off
    rows = stop_at(monkeypatch, row=-1)
    written = write_shards(slices, out, chunk_bytes=CHUNK, workers=2)
    assert sum(not shard.is_new for shard in written) == len(whole) - 1
    assert len(rows) == sum(len(shard.offset) for shard in written if shard.is_new)
    for path in list_chunks(shards):
        assert (out / path.name).read_bytes() == path.read_bytes()
    rows.clear()
    write_shards(slices, out, chunk_bytes=CHUNK)
    assert rows == []


def test_a_slice_that_cannot_be_read_is_counted(
    phantom: Path, tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = Path(shutil.copytree(phantom, tmp_path / "root")), tmp_path / "out"
    table = collect_slices(root).table
    damage(root / table["path"][3])
    assert call("shard", str(root), str(out), "--chunk-mb", "2") == 0
    assert f"{len(table) - 1} slices" in (said := capsys.readouterr().out)
    assert f"{Refusal.CORRUPT} 1: cannot be read, and left out" in said
    here, there = make(root, tolerate=1), make(out, shards=True, tolerate=1)
    assert_same_batches_but_errors(here, there)
    assert [error.code for error in there.unread.values()] == [Refusal.CORRUPT]
    with pytest.raises(ReadError, match="it could not be read when the shards were written"):
        read_all(make(out, shards=True))


def assert_same_batches_but_errors(here: HeadCTDataModule, there: HeadCTDataModule) -> None:
    for a, b in zip(read_all(here), read_all(there), strict=True):
        assert torch.equal(a["row"], b["row"])
        assert torch.equal(a["hu"], b["hu"])


def test_the_command_writes_what_litdata_names(phantom: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert call("shard", str(phantom / ".ich" / "index.parquet"), str(out), "--workers", "1") == 0
    said = capsys.readouterr().out
    assert f"train with: ich train data=shards data.root={out}" in said
    chunks = json.loads((out / "index.json").read_bytes())["chunks"]
    assert {path.name for path in out.iterdir()} == {
        *(chunk["filename"] for chunk in chunks),
        *("shards.json", "index.parquet", "labels.csv", "index.json"),
    }
    assert out.stat().st_mode & 0o777 == 0o700
    assert call("shard", str(phantom), str(out), "--workers", "1") == 0
    assert f"{len(chunks)} files were there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "-1"], "--size -1: expected 0 or more"),
        (["--chunk-mb", "0"], "--chunk-mb 0: expected 1 or more"),
        (["--labels", "none.csv"], "none.csv does not exist"),
    ],
)
def test_wrong_arguments_are_explained(phantom: Path, tmp_path: Path, words, message, capsys) -> None:
    assert call("shard", str(phantom), str(tmp_path / "out"), *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_destination_is_refused(phantom: Path, shards: Path, tmp_path: Path) -> None:
    slices = collect_slices(phantom)
    with pytest.raises(UserError, match=r"other slices or settings \(they differ in size\)"):
        write_shards(slices._replace(size=32), shards, chunk_bytes=CHUNK)
    changed = slices.table.assign(any=1 - slices.table["any"])
    with pytest.raises(UserError, match="they differ in digest"):
        write_shards(slices._replace(table=changed), shards, chunk_bytes=CHUNK)
    (tmp_path / "photo.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds files that are not shards, such as photo.png"):
        write_shards(slices, tmp_path)


def test_a_full_disk_is_refused_before(phantom: Path, tmp_path: Path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(ich.data.sharding.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"0.0 GB are free; make room"):
        write_shards(collect_slices(phantom), tmp_path / "out")


def test_what_shards_cannot_do_is_refused(phantom: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no shards; write them with ich shard"):
        make(phantom, shards=True)
    with pytest.raises(UserError, match=r"data.check_pixels=true with shards"):
        make(shards, shards=True, check_pixels=True)
    with pytest.raises(UserError, match=r"write them again with ich shard --pseudonyms"):
        make(shards, shards=True, pseudonyms=True)
    other = Path(shutil.copytree(shards, tmp_path / "other"))
    state = json.loads((other / "shards.json").read_bytes())
    (other / "shards.json").write_text(json.dumps(state | {"version": 0}))
    with pytest.raises(UserError, match=r"of another version of ich"):
        make(other, shards=True)


def test_pseudonyms_go_into_shards(phantom: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(phantom, tmp_path / "root"))
    out = tmp_path / "out"
    assert call("shard", str(root), str(out), "--pseudonyms") == 0
    patients = make(out, shards=True, pseudonyms=True).table["PatientID"]
    assert not {*patients} & {*collect_slices(phantom).table["PatientID"]}


def test_without_labels_shards_have_none(phantom: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(phantom, tmp_path / "root"))
    (root / "stage_2_train.csv").rename(tmp_path / "labels.csv")
    write_shards(collect_slices(root), tmp_path / "out")
    assert not (tmp_path / "out" / "labels.csv").exists()
    with pytest.raises(UserError, match=r"no label file; name the one with data.labels"):
        make(tmp_path / "out", shards=True)
    make(tmp_path / "out", shards=True, labels=str(tmp_path / "labels.csv"))


def test_a_chunk_that_is_gone_is_named(shards: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(shards, tmp_path / "broken"))
    list_chunks(broken)[0].unlink()
    with pytest.raises(ReadError, match=rf"chunk-0-0.bin: {Refusal.UNREADABLE}: .*: No such"):
        read_all(make(broken, shards=True))


_LITDATA = """
import json, sys
import numpy as np
from litdata import StreamingDataset
found = StreamingDataset(sys.argv[1])
items = [found[i] for i in range(0, len(found), 40)]
np.savez(
    sys.argv[2],
    count=len(found),
    hu=items[2]["hu"],
    target=np.stack([item["target"] for item in items]),
    row=[item["row"] for item in items],
    uid=[item["uid"] for item in items],
)
"""


def test_litdata_reads_them(phantom: Path, shards: Path, tmp_path: Path) -> None:
    pytest.importorskip("litdata", reason="only a development environment may have it")
    done = run_program(_LITDATA, str(shards), str(tmp_path / "out.npz"))
    assert done.returncode == 0, done.stderr
    table = collect_slices(phantom).table
    with np.load(tmp_path / "out.npz") as found:
        assert found["count"] == len(table)
        assert found["row"].tolist() == list(range(0, len(table), 40))
        assert found["uid"].tolist() == table["SOPInstanceUID"][::40].tolist()
        np.testing.assert_array_equal(found["target"], table[list(RSNA_LABELS.names)][::40])
        np.testing.assert_array_equal(found["hu"], read_hu(phantom / table["path"][80]))
