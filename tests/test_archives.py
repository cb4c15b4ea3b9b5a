"""Archives of every kind beside and in the place of slices: read within bounds, and never passed over."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_studies import describe, list_codes, list_refused

from ich.schema.codes import LOST, InputRefusal, Reason, Refusal
from ich.studies import find_studies, unpacking


def tar_folder(folder: Path, out: Path, mode: str, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(out, mode, format=form) as archive:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
    return out


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("study.tar", "w"),
        ("study.tar.gz", "w:gz"),
        ("STUDY.TGZ", "w:gz"),
        ("study.tar.bz2", "w:bz2"),
        ("study.gz", "w:gz"),  # by its content
        ("study.zip.tar", "w"),
    ],
)
def test_a_tar_archive_is_read_as_the_folder_is(
    department: Path,
    scratch: Path,
    tmp_path: Path,
    name: str,
    mode: str,
) -> None:
    expected = describe(find_studies([department], scratch=scratch))
    (inbox := tmp_path / "inbox").mkdir()
    archive = tar_folder(department, inbox / name, mode)
    for inputs in ([inbox], [archive], [inbox, department]):
        found = find_studies(inputs, scratch=scratch)
        assert describe(found) == expected
        assert found.refused.empty
    archive.rename(inbox / "export")
    assert describe(find_studies([inbox / "export"], scratch=scratch)) == expected


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_links_within_a_tar_archive(
    department: Path,
    scratch: Path,
    tmp_path: Path,
    form: int,
) -> None:
    expected = describe(find_studies([department], scratch=scratch))
    first = min(department.iterdir())
    length = 40 if form == tarfile.USTAR_FORMAT else 120
    deep = department / ("d" * length) / ("e" * length)
    deep.parent.mkdir()
    first.rename(deep)
    os.link(min(deep.iterdir()), deep / "linked")  # stands for a member that is there
    archive = tar_folder(department, tmp_path / "study.tar", "w", form)
    found = find_studies([archive], scratch=scratch)
    assert describe(found) == expected
    assert found.refused.empty


def compress_slices(folder: Path, numbers: slice, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    for path in sorted(folder.iterdir())[numbers]:
        (folder / f"{path.name}{suffix}").write_bytes(compress(path.read_bytes()))
        path.unlink()


@pytest.mark.parametrize("numbers", [slice(None), slice(2, 3)])
@pytest.mark.parametrize(
    ("suffix", "compress"), [(".dcm.gz", gzip.compress), (".gz", gzip.compress), (".dcm.bz2", bz2.compress)]
)
def test_slices_that_were_compressed_one_by_one_are_read(
    department: Path,
    scratch: Path,
    numbers: slice,
    suffix: str,
    compress: Callable[[bytes], bytes],
) -> None:
    expected = describe(find_studies([department], scratch=scratch))
    compress_slices(min(department.iterdir()), numbers, suffix, compress)
    found = find_studies([department], scratch=scratch)
    assert describe(found) == expected
    assert found.refused.empty


DAMAGES = {
    "cut": (lambda content: content[:-30], InputRefusal.BAD_MEMBER),
    "emptied": (lambda content: b"", Refusal.ARCHIVE),
    "another compression": (lambda content: b"\xfd7zXZ\0" + content, Refusal.ARCHIVE),
    "no slice": (lambda content: gzip.compress(bytes(4000)), Refusal.NOT_DICOM),
    "checksum": (lambda content: content[:-6] + b"\1\2" + content[-4:], InputRefusal.BAD_MEMBER),
    "a header and no more": (lambda content: content[:5], InputRefusal.BAD_ARCHIVE),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_compressed_slice_that_cannot_be_read_is_held_against_its_study(
    department: Path,
    scratch: Path,
    damage: str,
) -> None:
    change, code = DAMAGES[damage]
    folder = min(department.iterdir())
    path = sorted(folder.iterdir())[2]
    path.with_name("IM3.dcm.gz").write_bytes(change(gzip.compress(path.read_bytes())))
    path.unlink()
    found = find_studies([department], scratch=scratch)
    assert list_refused(found) == [("IM3.dcm.gz", code)]
    assert [list_codes(study) for study in found.studies][:2] == [(Reason.STRAY_FILE,), ()]


def test_names_and_links_in_a_tar_archive_lead_nowhere(
    department: Path,
    scratch: Path,
    tmp_path: Path,
) -> None:
    paths = sorted(min(department.iterdir()).iterdir())[:4]
    names = ["../../escaped", "/absolute", "a/../../b", "\x1b[31mred"]
    out = tmp_path / "hostile.tar"
    with tarfile.open(out, "w") as archive:
        for path, name in zip(paths, names, strict=True):
            info = tarfile.TarInfo(name)
            info.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(info, file)
        for name, kind in (
            ("symbolic", tarfile.SYMTYPE),
            ("hard", tarfile.LNKTYPE),
            ("device", tarfile.CHRTYPE),
            ("pipe", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(scratch)}
    found = find_studies([out], scratch=scratch)
    (study,) = found.studies
    assert len(study.files) == 4
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(scratch)} == before
    unpacked = [path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file()]
    assert all(path.parts[1].isdigit() and path.name.isdigit() and len(path.parts) == 3 for path in unpacked)
    assert all(path.stat().st_mode & 0o077 == 0 for path in scratch.iterdir())
    assert list_refused(found) == [
        (name, InputRefusal.LINK) for name in ("device", "hard", "pipe", "symbolic")
    ]


def write_zeros(out: Path, sizes: list[int], mode: str) -> Path:
    with tarfile.open(out, mode) as archive:  # type: ignore[call-overload]
        for number, size in enumerate(sizes):
            info = tarfile.TarInfo(str(number))
            info.size = size
            archive.addfile(info, io.BytesIO(bytes(size)))
    return out


def test_bombs_are_given_up_and_nothing_of_them_is_left(
    scratch: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bomb = write_zeros(tmp_path / "bomb.tgz", [3 << 20, 3 << 20], "w:gz")
    single = tmp_path / "bomb.dcm.gz"
    single.write_bytes(gzip.compress(bytes(6 << 20)))

    def refuse() -> set[tuple[str, str]]:
        found = find_studies([bomb, single], scratch=scratch)
        assert len(found.studies) == 0
        return set(list_refused(found))

    monkeypatch.setattr(unpacking, "FREE_RATIO", 4 << 20)
    assert refuse() == {(path.name, InputRefusal.ARCHIVE_TOO_LARGE) for path in (bomb, single)}
    assert list(scratch.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 1)
    assert ("bomb.tgz", InputRefusal.ARCHIVE_TOO_LARGE) in refuse()
    monkeypatch.undo()
    shutil.rmtree(scratch)
    scratch.mkdir()
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1 << 20)
    assert {code for _, code in refuse()} == {InputRefusal.MEMBER_TOO_LARGE}
    assert not [path for path in scratch.rglob("*") if path.is_file() and path.stat().st_size]
    monkeypatch.undo()
    usage = shutil.disk_usage(scratch)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    assert refuse() == {(path.name, InputRefusal.ARCHIVE_TOO_LARGE) for path in (bomb, single)}


def test_a_sparse_member_is_refused(scratch: Path, tmp_path: Path) -> None:
    out = write_zeros(tmp_path / "sparse.tar", [512], "w")
    content = bytearray(out.read_bytes())
    content[156:157] = b"S"  # GNU's type of a sparse file, that takes up one block of 1 TiB
    content[257:265] = b"ustar  \0"
    content[386:398], content[398:410], content[483:495] = (
        b"%011o\0" % 0,
        b"%011o\0" % 512,
        b"%011o\0" % (1 << 32),
    )
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    out.write_bytes(content)
    assert list_refused(find_studies([out], scratch=scratch)) == [("0", InputRefusal.BAD_MEMBER)]


CUTS: dict[str, Callable[[bytes, int], bytes]] = {
    "within a file": lambda content, header: content[: header + 700],
    "before a header": lambda content, header: content[:header],
    "a header is damaged": lambda content, header: content[:header] + b"\1" + content[header + 1 :],
    "a second archive": lambda content, header: content + b"more" * 128,
}


@pytest.mark.parametrize("cut", CUTS)
def test_an_archive_that_ends_early_or_continues_is_named(
    department: Path,
    scratch: Path,
    tmp_path: Path,
    cut: str,
) -> None:
    out = tar_folder(min(department.iterdir()), tmp_path / "study.tar", "w", tarfile.USTAR_FORMAT)
    with tarfile.open(out) as archive:
        header = archive.getmembers()[4].offset
        count = len(archive.getmembers())
    out.write_bytes(CUTS[cut](out.read_bytes(), header))
    found = find_studies([out], scratch=scratch)
    assert InputRefusal.BAD_ARCHIVE in set(found.refused["code"])
    (study,) = found.studies
    assert len(study.files) == (count if cut == "a second archive" else 4)


def write_others(folder: Path, source: Path) -> None:
    """Files that are passed over by their names in other programs, some of which hold slices."""
    slices = sorted(source.iterdir())
    for name, path in zip((".hidden", "note.txt", "a.zip", "b.gz", ".d/IM"), slices, strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(path, folder / name)  # slices, whatever they are called
    for name in ("list.csv", ".DS_Store", "viewer.exe", "__MACOSX/._IM1"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(300))
    for name in ("more.7z", "more.rar", "more.tar.xz", "more.iso", "empty.zip"):
        (folder / name).write_bytes(b"Rar!\x1a\7" if name == "more.rar" else b"")
    (folder / "scan.nii.gz").write_bytes(gzip.compress(bytes(400)))
    with zipfile.ZipFile(folder / "nameless", "w") as archive:
        archive.writestr("IM", b"x")


EXPECTED = {
    "list.csv": Refusal.OTHER_KIND,
    ".DS_Store": Refusal.OTHER_KIND,
    "viewer.exe": Refusal.OTHER_KIND,
    "._IM1": Refusal.OTHER_KIND,
    "more.7z": Refusal.ARCHIVE,
    "more.rar": Refusal.ARCHIVE,
    "more.tar.xz": Refusal.ARCHIVE,
    "more.iso": Refusal.ARCHIVE,
    "empty.zip": InputRefusal.BAD_ARCHIVE,
    "scan.nii.gz": Refusal.VOLUME,
    "nameless": Refusal.ARCHIVE,
}


@pytest.mark.parametrize("form", ["folder", "files", "zip", "tar"])
def test_nothing_is_passed_over_by_its_name(
    department: Path,
    scratch: Path,
    tmp_path: Path,
    form: str,
) -> None:
    folder = min(department.iterdir())
    (inbox := tmp_path / "inbox").mkdir()
    write_others(inbox, folder)
    expected = dict(EXPECTED)
    inputs = [inbox]
    if form == "files":
        inputs = [path for path in inbox.rglob("*") if path.is_file()]
        expected["nameless/IM"] = Refusal.NOT_DICOM  # named itself, it is unpacked
        del expected["nameless"]
    elif form != "folder":
        inputs = [tmp_path / f"inbox.{form}"]
        if form == "tar":
            tar_folder(inbox, inputs[0], "w")
        else:
            with zipfile.ZipFile(inputs[0], "w") as archive:
                for path in inbox.rglob("*"):
                    archive.write(path, path.relative_to(inbox).as_posix())
        nested = (Refusal.ARCHIVE, InputRefusal.BAD_ARCHIVE)
        expected |= {
            name: InputRefusal.NESTED_ARCHIVE
            for name, code in EXPECTED.items()
            if code in nested and name != "nameless"
        }
    found = find_studies(inputs, scratch=scratch)
    assert sum(len(study.files) for study in found.studies) == 5
    assert dict(list_refused(found)) == {name.rpartition("/")[2]: code for name, code in expected.items()}
    assert {code for code in expected.values() if code in LOST} >= {Refusal.VOLUME}


def test_a_folder_that_cannot_be_looked_into_may_hold_studies() -> None:
    assert Refusal.UNREADABLE in LOST
    assert Refusal.OTHER_KIND not in LOST
    assert set(InputRefusal) <= LOST
