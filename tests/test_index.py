from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ich.dicom import list_headers
from ich.dicom.header import Header
from ich.index import build_index, cache, files, find_labels, folders, locate_index, read_labels
from ich.index.joining import join_labels
from ich.schema import LABELS, SUBTYPES, UserError
from ich.schema.codes import Refusal
from ich.tables import INDEX_DTYPES


def write_slice(path: Path, *, name: str, patient: str = "p", z: float = 0.0, **elements: Any) -> Path:
    """Writes an 8 by 8 CT slice with pydicom, at z mm; UIDs follow from the names."""
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[name])
    dataset.PatientID = patient
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", patient])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", patient])
    dataset.Modality = "CT"
    dataset.ImagePositionPatient = [-2.0, -2.0, z]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.WindowCenter, dataset.WindowWidth = 40, 80
    dataset.PixelData = np.full((8, 8), 1060, dtype=np.uint16).tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def overwrite_unnoticed(path: Path, content: Path) -> None:
    """Gives a file the bytes of another of the same size, and the time of change that it had."""
    before = path.stat()
    assert content.stat().st_size == before.st_size
    shutil.copyfile(content, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def touch(path: Path) -> None:
    changed = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(changed, changed))


def write_csv(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_tree_of_any_layout_is_read_in_order_of_position(tmp_path: Path) -> None:
    files = {
        "b/deep/er/IM0001": {"name": "1", "patient": "b", "z": 30.0},
        "b/IM0002.dcm": {"name": "2", "patient": "b", "z": -5.0},
        "b/1.2.840": {"name": "3", "patient": "b", "z": 12.5, "InstanceNumber": 7},
        "zz.IMA": {"name": "4", "patient": "a"},
    }
    written = {path: write_slice(tmp_path / path, **elements) for path, elements in files.items()}
    table, refused = build_index(tmp_path)
    assert table["path"].tolist() == ["zz.IMA", "b/IM0002.dcm", "b/1.2.840", "b/deep/er/IM0001"]
    assert {column: str(dtype) for column, dtype in table.dtypes.items()} == INDEX_DTYPES
    assert refused.empty
    for row in table.itertuples():
        dataset = pydicom.dcmread(written[row.path])
        for keyword in ("SOPInstanceUID", "PatientID", "StudyInstanceUID", "Rows", "RescaleIntercept"):
            assert getattr(row, keyword) == dataset[keyword].value
        assert row.position == dataset.ImagePositionPatient[2]
        assert (row.row_spacing, row.column_spacing) == tuple(dataset.PixelSpacing)
        assert (row.file_size, row.mtime_ns) == (
            written[row.path].stat().st_size,
            written[row.path].stat().st_mtime_ns,
        )
    assert table["InstanceNumber"].tolist()[2] == 7


def test_what_cannot_be_read_and_what_is_something_else_is_listed(tmp_path: Path) -> None:
    whole = write_slice(tmp_path / "good.dcm", name="1")
    write_slice(tmp_path / "really.txt", name="3", z=1.0)
    write_slice(tmp_path / ".hidden" / "1.dcm", name="4")
    (tmp_path / "cut.dcm").write_bytes(whole.read_bytes()[:-60])
    (tmp_path / "README").write_text("no DICOM")
    write_slice(tmp_path / "mr.dcm", name="2", Modality="MR")
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere.dcm")
    (tmp_path / "again").symlink_to(tmp_path)  # a loop
    for other in ("labels.csv", "mask.NPZ", "more.tar.gz", "head.nii.gz", ".ich/x.dcm", ".hidden.dcm"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(b"x")
    for _ in range(2):  # as read, and as kept
        table, refused = build_index(tmp_path)
        assert table["path"].tolist() == ["good.dcm", "really.txt"]
        assert dict(zip(refused["path"], refused["code"], strict=True)) == {
            ".hidden": "other_kind",
            ".hidden.dcm": "other_kind",
            "README": "not_dicom",
            "cut.dcm": "truncated",
            "gone.dcm": "unreadable",
            "head.nii.gz": "volume",
            "labels.csv": "other_kind",
            "mask.NPZ": "other_kind",
            "more.tar.gz": "archive",
            "mr.dcm": "not_ct",
        }
        assert refused["detail"].str.len().gt(0).all()


def test_only_files_that_changed_are_read_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("1", "2", "3"):
        write_slice(root / f"{name}.dcm", name=name, z=float(name))
    first = build_index(root).table
    other = write_slice(tmp_path / "other.dcm", name="1", z=9.0)
    overwrite_unnoticed(root / "1.dcm", other)
    pd.testing.assert_frame_equal(build_index(root).table, first)
    touch(root / "1.dcm")
    (root / "2.dcm").unlink()
    write_slice(root / "4.dcm", name="4", z=4.0)
    second = build_index(root).table
    assert second["path"].tolist() == ["3.dcm", "4.dcm", "1.dcm"]
    assert second["position"].tolist() == [3.0, 4.0, 9.0]
    pd.testing.assert_frame_equal(build_index(root).table, second)


def test_refused_files_are_remembered_until_they_change(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_slice(root / "1.dcm", name="1")
    good = write_slice(tmp_path / "2.dcm", name="2")
    (root / "2.dcm").write_bytes(b"?" * good.stat().st_size)
    assert build_index(root).refused["path"].tolist() == ["2.dcm"]
    overwrite_unnoticed(root / "2.dcm", good)
    assert build_index(root).refused["path"].tolist() == ["2.dcm"]
    touch(root / "2.dcm")
    table, refused = build_index(root)
    assert (len(table), len(refused)) == (2, 0)


def test_a_file_that_lacked_a_codec_is_tried_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_slice(root / "1.dcm", name="1")
    good = write_slice(tmp_path / "2.dcm", name="2")
    syntax = ExplicitVRLittleEndian.encode() + b"\0"
    (root / "2.dcm").write_bytes(good.read_bytes().replace(syntax, b"1.2.840.10008.1.2.9\0"))
    assert build_index(root).refused["code"].tolist() == ["unsupported_syntax"]
    overwrite_unnoticed(root / "2.dcm", good)
    assert sorted(build_index(root).table["path"]) == ["1.dcm", "2.dcm"]


def test_the_second_file_of_a_slice_is_refused_while_the_first_is_there(tmp_path: Path) -> None:
    for path in ("b.dcm", "a.dcm", "copy/a.dcm"):
        write_slice(tmp_path / path, name="same")
    table, refused = build_index(tmp_path)
    assert table["path"].tolist() == ["a.dcm"]
    assert refused["path"].tolist() == ["b.dcm", "copy/a.dcm"]
    assert refused["code"].tolist() == [Refusal.DUPLICATE_UID] * 2
    assert refused["detail"].str.contains("a.dcm", regex=False).all()
    (tmp_path / "a.dcm").unlink()
    table, refused = build_index(tmp_path)
    assert table["path"].tolist() == ["b.dcm"]
    assert refused["path"].tolist() == ["copy/a.dcm"]
    write_slice(tmp_path / "a.dcm", name="same")
    table, refused = build_index(tmp_path)
    assert table["path"].tolist() == ["a.dcm"]
    assert refused["path"].tolist() == ["b.dcm", "copy/a.dcm"]


@pytest.mark.races
def test_processes_read_what_one_reads(tmp_path: Path) -> None:
    for number in range(3):
        write_slice(tmp_path / f"{number}.dcm", name=str(number), z=-float(number))
    (tmp_path / "bad.dcm").write_bytes(b"")
    several = build_index(tmp_path, index_dir=tmp_path / "kept", workers=2)
    shutil.rmtree(tmp_path / "kept")
    one = build_index(tmp_path, index_dir=tmp_path / "kept", workers=1)
    pd.testing.assert_frame_equal(several.table, one.table)
    pd.testing.assert_frame_equal(several.refused, one.refused)


@pytest.fixture
def ten_files(tmp_path: Path) -> Path:
    """Ten files that are read two at a time, in the order of their names: one is empty, one a duplicate."""
    root = tmp_path / "root"
    for number in range(10):
        write_slice(root / f"{number}.dcm", name=str(number % 9), z=-float(number))
    (root / "1.dcm").write_bytes(b"")
    return root


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers this process reads, as it reads them."""
    names: list[str] = []

    def read(path: str, *known: Any) -> list[Header]:
        names.append(Path(path).name)
        return list_headers(path, *known)

    monkeypatch.setattr(files, "list_headers", read)
    return names


def interrupt_after(chunks: int, root: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes a folder two files at a time, until somebody presses Ctrl-C."""
    left = [None] * chunks
    count = files.Progress.advance

    def advance(*arguments: Any) -> None:
        count(*arguments)
        left.pop()
        if not left:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "_CHUNK", 2)
        patch.setattr(cache, "_INTERVAL", np.inf)  # however long processes take to start
        patch.setattr(files.Progress, "advance", advance)
        with pytest.raises(KeyboardInterrupt):
            build_index(root, workers=workers)


@pytest.mark.races
@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_read_before_an_interruption_is_not_read_again(
    ten_files: Path, opened: list[str], workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interrupt_after(2, ten_files, workers, monkeypatch)
    by_others = [] if workers == 1 else ["0.dcm", "1.dcm", "2.dcm", "3.dcm"]
    interrupt_after(1, ten_files, 1, monkeypatch)
    parts = [path for path in (ten_files / ".ich").rglob("*") if path.is_dir()]
    assert len(parts) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in (ten_files / ".ich", *parts)} == {0o700}
    kept = [path for part in parts for path in part.iterdir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    index = build_index(ten_files, workers=1)
    assert [*by_others, *opened] == [f"{number}.dcm" for number in range(10)]
    assert sorted(path.name for path in (ten_files / ".ich").iterdir()) == ["index.parquet", "refused.csv"]
    whole = build_index(ten_files, index_dir=tmp_path / "other", workers=1)
    assert whole.refused["path"].tolist() == ["1.dcm", "9.dcm"]
    for found, expected in zip(index, whole, strict=True):
        pd.testing.assert_frame_equal(found, expected)


KILLED = """
import os, signal, sys
from pathlib import Path
from ich.index import build_index, cache, files

list_headers = files.list_headers

def read(path, *known):
    if path.endswith("5.dcm"):
        os.kill(os.getpid(), signal.SIGKILL)
    return list_headers(path, *known)

files.list_headers, files._CHUNK, cache._INTERVAL = read, 2, 0.0
build_index(Path(sys.argv[1]), workers=1)
"""


def leave(root: Path) -> None:
    """Nothing happens between the death of a process and the next one."""


def break_a_part(root: Path) -> None:
    part = next(path for path in root.glob(".ich/*/index.parquet") if "3.dcm" in list_paths(path))
    part.write_bytes(part.read_bytes()[:-20])


def list_paths(table: Path) -> list[str]:
    return pd.read_parquet(table)["path"].tolist()


def change_a_file(root: Path) -> None:
    touch(root / "3.dcm")


def remove_a_file(root: Path) -> None:
    (root / "3.dcm").unlink()


@pytest.mark.races
@pytest.mark.parametrize(
    ("happens", "again"),
    [(leave, []), (break_a_part, ["2.dcm", "3.dcm"]), (change_a_file, ["3.dcm"]), (remove_a_file, [])],
)
def test_what_was_read_before_the_process_was_killed_is_not_read_again(
    ten_files: Path, opened: list[str], tmp_path: Path, happens: Callable[[Path], None], again: list[str]
) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(ten_files)], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    happens(ten_files)
    index = build_index(ten_files, workers=1)
    assert opened == [*again, *(f"{number}.dcm" for number in range(4, 10))]
    whole = build_index(ten_files, index_dir=tmp_path / "other", workers=1)
    for found, expected in zip(index, whole, strict=True):
        pd.testing.assert_frame_equal(found, expected)


def test_only_the_owner_can_read_the_index(tmp_path: Path) -> None:
    write_slice(tmp_path / "1.dcm", name="1")
    build_index(tmp_path)
    assert stat.S_IMODE((tmp_path / ".ich").stat().st_mode) == 0o700
    kept = sorted((tmp_path / ".ich").iterdir())
    assert [path.name for path in kept] == ["index.parquet", "refused.csv"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in kept] == [0o600, 0o600]


def test_folders_that_have_not_changed_can_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "SETTLED", 0)  # the folders below are as young as this test
    root = tmp_path / "root"
    for name in ("a/1", "a/2", "b/3"):
        write_slice(root / f"{name}.dcm", name=name, z=float(name[-1]))
    (root / "notes.txt").write_text("no DICOM")
    first = build_index(root, trust_folders=True)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the files are listed")

    with monkeypatch.context() as patch:
        patch.setattr(folders, "list_files", refuse)
        again = build_index(root, trust_folders=True)
        pd.testing.assert_frame_equal(again.table, first.table)
        pd.testing.assert_frame_equal(again.refused, first.refused)
        touch(root / "a" / "1.dcm")  # in place, which no folder shows
        pd.testing.assert_frame_equal(build_index(root, trust_folders=True).table, first.table)
    assert build_index(root).table["mtime_ns"].max() > first.table["mtime_ns"].max()
    write_slice(root / "a" / "4.dcm", name="4", z=4.0)
    assert len(build_index(root, trust_folders=True).table) == 4
    (root / "b" / "3.dcm").rename(root / "a" / "3.dcm")
    (root / "b").rmdir()
    assert "a/3.dcm" in build_index(root, trust_folders=True).table["path"].tolist()
    (root / ".ich" / folders.FOLDERS).write_bytes(b"damaged")
    assert len(build_index(root, trust_folders=True).table) == 4
    hidden = build_index(root, trust_folders=True, pseudonyms=True).table
    assert "p" not in hidden["PatientID"].tolist()


def test_young_folders_and_those_of_an_address_are_not_trusted(tmp_path: Path) -> None:
    write_slice(tmp_path / "1.dcm", name="1")
    build_index(tmp_path, trust_folders=True)
    assert not (tmp_path / ".ich" / folders.FOLDERS).exists()
    with pytest.raises(UserError, match="folders at an address have no times"):
        build_index("memory://set", trust_folders=True)


@pytest.mark.parametrize("name", ["index.parquet", "refused.csv"])
def test_a_broken_or_foreign_index_is_rebuilt(tmp_path: Path, name: str) -> None:
    write_slice(tmp_path / "1.dcm", name="1")
    (tmp_path / "2.dcm").write_bytes(b"no DICOM")
    first = build_index(tmp_path)
    kept = tmp_path / ".ich" / name
    for content in (b"", b"\x00\xff" * 99, kept.read_bytes()[:-9]):
        kept.write_bytes(content)
        again = build_index(tmp_path)
        pd.testing.assert_frame_equal(again.table, first.table)
        pd.testing.assert_frame_equal(again.refused, first.refused)
    # Another version's: the same columns without the mark of this one.
    first.table.assign(position=99.0).to_parquet(tmp_path / ".ich" / "index.parquet")
    pd.testing.assert_frame_equal(build_index(tmp_path).table, first.table)


def test_an_index_in_the_order_of_the_last_version_is_put_in_order(tmp_path: Path) -> None:
    for name in "abc":
        write_slice(tmp_path / f"{name}.dcm", name=name)
    first = build_index(tmp_path)
    kept = tmp_path / ".ich" / "index.parquet"
    old = pd.read_parquet(kept).iloc[::-1].reset_index(drop=True)
    old.attrs["version"] = 8
    old.to_parquet(kept, index=False)
    (tmp_path / "a.dcm").write_bytes(b"")  # it is not read again: neither its size nor its time tells
    os.truncate(tmp_path / "a.dcm", int(old.loc[old["path"] == "a.dcm", "file_size"].iloc[0]))
    os.utime(tmp_path / "a.dcm", ns=(0, int(old.loc[old["path"] == "a.dcm", "mtime_ns"].iloc[0])))
    pd.testing.assert_frame_equal(build_index(tmp_path).table, first.table)


def test_a_root_that_cannot_be_written_to_is_indexed_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    roots = [tmp_path / "a", tmp_path / "b"]
    for root in roots:
        write_slice(root / "1.dcm", name=root.name)
        (root / ".ich").touch()  # no folder can be made here, not even by the superuser
        assert build_index(root).table["path"].tolist() == ["1.dcm"]
        assert (locate_index(root) / "index.parquet").is_file()
    assert locate_index(roots[0]) != locate_index(roots[1])
    assert {locate_index(root).parent for root in roots} == {tmp_path / "cache" / "ich"}


def test_an_index_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    write_slice(tmp_path / "root" / "1.dcm", name="1")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written.*data\.index_dir"):
        build_index(tmp_path / "root", index_dir=tmp_path / "file")


def test_a_root_without_slices_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=.*nowhere does not exist"):
        build_index(tmp_path / "nowhere")
    write_csv(tmp_path / "labels.csv", "ID,Label")
    with pytest.raises(UserError, match="is not a folder"):
        build_index(tmp_path / "labels.csv")
    with pytest.raises(
        UserError, match=r"holds no DICOM file; expected for instance .*stage_2_train/ID_\*\.dcm"
    ):
        build_index(tmp_path)
    (tmp_path / "1.dcm").write_bytes(b"")
    write_slice(tmp_path / "2.dcm", name="2", Modality="MR")
    write_slice(tmp_path / "3.dcm", name="3", Modality="MR")
    with pytest.raises(UserError, match=r"not_ct 2, empty 1; for example, 1\.dcm: "):
        build_index(tmp_path)
    assert not (tmp_path / ".ich").exists()


def test_the_long_form_is_pivoted_as_a_dictionary_would(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    subtypes = rng.integers(0, 2, (40, 5))
    rows = [
        f"ID_a_{slice_:02d}_{label},{value}"
        for slice_, values in enumerate(np.column_stack([subtypes, subtypes.max(axis=1)]))
        for label, value in zip(LABELS, values, strict=True)
    ]
    rows += rows[6:18]  # as the RSNA's file repeats some
    path = write_csv(tmp_path / "x.csv", "ID,Label", *(rows[i] for i in rng.permutation(len(rows))))
    labels = read_labels(path)
    assert (labels.index.name, list(labels.columns)) == ("SOPInstanceUID", list(LABELS))
    assert (labels.dtypes == np.float32).all()
    with path.open(newline="") as file:
        expected = {row["ID"]: float(row["Label"]) for row in csv.DictReader(file)}
    assert labels.size == len(expected)
    assert {f"{uid}_{label}": labels.loc[uid, label] for uid in labels.index for label in labels} == expected


def test_texts_name_folders_and_files_as_paths_do(ten_files: Path) -> None:
    labels = ten_files.parent / "labels.csv"
    labels.write_text("SOPInstanceUID,any\n1,1\n")
    found = build_index(str(ten_files), index_dir=str(ten_files.parent / "kept"))
    pd.testing.assert_frame_equal(found.table, build_index(ten_files).table)
    pd.testing.assert_frame_equal(read_labels(str(labels)), read_labels(labels))


def test_labels_that_are_not_given_stay_unknown(tmp_path: Path) -> None:
    long = read_labels(write_csv(tmp_path / "l.csv", "ID,Label", "s_any,0", "s_subdural,", "t_epidural,1"))
    np.testing.assert_array_equal(long.loc["s"], [np.nan] * 5 + [0])
    np.testing.assert_array_equal(long.loc["t"], [1] + [np.nan] * 5)
    wide = read_labels(write_csv(tmp_path / "w.csv", "note,ID,subdural,any", "x,s,0,1", ",t,1.0,", ",u, ,0"))
    assert wide.index.tolist() == ["s", "t", "u"]
    np.testing.assert_array_equal(wide["subdural"], [0, 1, np.nan])
    np.testing.assert_array_equal(wide["any"], [1, np.nan, 0])
    assert wide[list(SUBTYPES[:4])].isna().all(axis=None)


def test_any_follows_from_five_subtypes_and_not_from_fewer(tmp_path: Path) -> None:
    header = ",".join(("SOPInstanceUID", *SUBTYPES))
    path = write_csv(tmp_path / "w.csv", header, "s,0,0,0,0,0", "t,0,1,0,0,0", "u,0,0,0,0,", "v,,,,1,")
    np.testing.assert_array_equal(read_labels(path)["any"], [0, 1, np.nan, 1])
    # From one subtype only positives of any would follow, which train it to say yes.
    path = write_csv(tmp_path / "w.csv", "SOPInstanceUID,epidural", "s,0", "t,1")
    assert read_labels(path)["any"].isna().all()


def test_texts_are_the_same_by_either_parser(tmp_path: Path) -> None:
    for last in ("NA,1", "NA", '"NA",1', "   \nNA,1"):
        labels = read_labels(write_csv(tmp_path / "x.csv", "ID,any", "007,1", "1.20,0", last))
        assert labels.index.tolist() == ["007", "1.20", "NA"]
        np.testing.assert_array_equal(labels["any"], [1, 0, np.nan if last == "NA" else 1])


WIDE = ",".join(("SOPInstanceUID", *LABELS))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["ID,Label", "s_any,1", "t_any,0", "s_any,0"],
            "two values for one label, for 1 of its slices: s;",
        ),
        (["ID,Label", "s_any,1", "s_any,"], "two values for one label, .*: s;"),
        (
            ["ID,Label", *(f"s{i}_any,{j}" for i in range(7) for j in (0, 1))],
            "for 7 of its slices: s0, s1, s2, s3, s4;",
        ),
        ([WIDE, "s,0,0,0,0,0,0", "s,0,0,0,0,1,1"], "two values for one label, .*: s;"),
        ([WIDE, "s,0,0,0,0,1,0"], "not the largest of the other labels, .*: s;"),
        ([WIDE, "s,0,0,0,0,0,1"], "not the largest of the other labels, .*: s;"),
        (
            ["ID,Label", "s_any,0", "s_subdual,1"],
            "'s_subdual': 'subdual' is not a label; nearest is subdural",
        ),
        (["ID,Label", "s,0"], "the ID 's': "),
        (["ID,Label", "_any,0"], "labels without an? ID"),
        (["ID,Subdurall", "s,0"], "has the columns 'ID', 'Subdurall'; expected ID and Label, or"),
        (["ID,any,Subdurall", "s,0,1"], "the column 'Subdurall': .* nearest is subdural"),
        (["ID,any,Any", "s,0,1"], "2 columns for any: 'any', 'Any'"),
        (
            ["ID,Label", "s_any,0", "s_subdural,2"],
            "the label '2' for subdural of s: expected 0, 1, true, false or nothing",
        ),
        (["ID,Label", "s_any,0.5"], "the label '0.5'"),
        (["ID,any", "s,yes"], "the label 'yes' for any of s"),
        (["ID,any", "s,NaN"], "the label 'NaN'"),
        (["ID;Label", "s_any;0;1"], "row 2 holds more than 2 values, one of them '1'"),
        (["ID,Label"], "holds no label"),
        (["a,b", '"', "1,2,3,4", ","], "x.csv"),
        (["SOPInstanceUID,any,note", "a,1,x", 'b,0,"cut off', "c,1,y"], "x.csv cannot be read as CSV"),
        (["ID,Label", "a_any,1", '"b_any","'], "x.csv cannot be read as CSV"),
    ],
)
def test_labels_that_are_wrong_are_an_error_that_names_them(
    tmp_path: Path, rows: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_labels(write_csv(tmp_path / "x.csv", *rows))


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n\x00\xff\xfe", bytes(range(256)) * 9, None])
def test_a_label_file_that_is_not_csv_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_labels(path)


def test_the_label_file_is_found_where_it_is_the_only_one(tmp_path: Path) -> None:
    write_csv(tmp_path / "notes.csv", "a,b")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match=r"no label file; name the one with data\.labels=FILE"):
        find_labels(tmp_path)
    write_csv(tmp_path / "mine.csv", "SOPInstanceUID,any", "s,1")
    assert find_labels(tmp_path) == tmp_path / "mine.csv"
    write_csv(tmp_path / "sample_submission.csv", "ID,Label", "s_any,0.5")
    with pytest.raises(UserError, match=r"several label files \(mine.csv, sample_submission.csv\)"):
        find_labels(tmp_path)
    write_csv(tmp_path / "stage_2_train.csv", "ID,Label", "s_any,1")
    assert find_labels(tmp_path) == tmp_path / "stage_2_train.csv"


def test_joining_keeps_the_index_and_counts_what_has_no_counterpart(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": list("wxyz"), "SOPInstanceUID": ["d", "b", "a", "c"]}, index=[3, 1, 4, 2])
    path = write_csv(tmp_path / "x.csv", "ID,any,subdural", "a,1,1", "b,,", "d,0,0", "e,1,0", "f,1,1")
    joined, counts = join_labels(table, read_labels(path))
    pd.testing.assert_frame_equal(joined[["path", "SOPInstanceUID"]], table)
    np.testing.assert_array_equal(joined["any"], [0, np.nan, 1, np.nan])
    np.testing.assert_array_equal(joined["subdural"], [0, np.nan, 1, np.nan])
    assert (joined[list(LABELS)].dtypes == np.float32).all()
    assert counts == (4, 3, 2, 2)  # b's are empty and c's missing; e and f have no file


def test_labels_of_other_slices_are_an_error_with_one_of_each(tmp_path: Path) -> None:
    table = pd.DataFrame({"path": ["x.dcm"], "SOPInstanceUID": ["1.2.3"]})
    with pytest.raises(
        UserError,
        match=r"no slice has a label: .* names ID_a, but not 1\.2\.3.*data\.labels=FILE, --labels FILE",
    ):
        join_labels(table, read_labels(write_csv(tmp_path / "x.csv", "ID,Label", "ID_a_any,1")))
