"""Files, folders, archives and media to studies."""

from __future__ import annotations

import gc
import os
import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from ich.schema import UserError
from ich.schema.codes import InputRefusal, Reason, Refusal
from ich.studies import Found, StudyFiles, find_studies, keeping, reading, unpacking
from ich.studies.reading import FILE_DTYPES
from ich.tables import HEADER_DTYPES


def zip_folder(folder: Path, out: Path) -> Path:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return out


def describe(found: Found) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [
        (study.StudyInstanceUID, study.PatientID, study.fingerprint, list_codes(study))
        for study in found.studies
    ]


def list_codes(study: StudyFiles) -> tuple[str, ...]:
    return tuple(remark.code for remark in study.remarks)


def list_refused(found: Found) -> list[tuple[str, str]]:
    return [(Path(path).name, code) for path, code in found.refused[["path", "code"]].to_numpy()]


def test_a_folder_is_split_into_its_studies(department: Path, scratch: Path) -> None:
    found = find_studies([department], scratch=scratch)
    folders = sorted(department.iterdir())
    assert [study.StudyInstanceUID for study in found.studies] == [folder.name for folder in folders]
    assert found.refused.empty
    for study, folder in zip(found.studies, folders, strict=True):
        files = study.files
        assert {name: str(dtype) for name, dtype in files.dtypes.items()} == FILE_DTYPES
        assert study.remarks == ()
        assert study.root == folder
        assert sorted(files["path"]) == sorted(path.name for path in folder.iterdir())
        assert (files["code"] == "").all()
        assert (files["Modality"] == "CT").all()
        assert set(files["PatientID"]) == {study.PatientID}
        assert files["SOPInstanceUID"].is_monotonic_increasing


def test_the_way_of_the_files_makes_no_difference(department: Path, scratch: Path, tmp_path: Path) -> None:
    expected = describe(find_studies([department], scratch=scratch))
    archive = zip_folder(department, tmp_path / "all.zip")
    folders = sorted(department.iterdir(), reverse=True)
    shuffled = tmp_path / "shuffled"
    shuffled.mkdir()
    for number, path in enumerate(sorted(department.rglob("IM*"), reverse=True)):
        os.utime(shutil.copy(path, shuffled / f"{number}.dcm"), (number, number))
    for inputs in (
        [archive],
        folders,
        [path for folder in folders for path in folder.iterdir()],
        [department, archive, folders[0]],  # copies of the same content count once
        [shuffled],
    ):
        found = find_studies(inputs, scratch=scratch)
        assert describe(found) == expected
        assert found.refused.empty


def test_slices_of_the_rsna_layout_are_studies(phantom: Path, scratch: Path) -> None:
    found = find_studies([phantom], scratch=scratch)
    files = pd.concat([study.files for study in found.studies])
    assert len(files) == len(list((phantom / "stage_2_train").iterdir()))
    assert set(list_refused(found)) == {
        ("phantom.json", Refusal.OTHER_KIND),
        ("stage_2_train.csv", Refusal.OTHER_KIND),
    }
    assert all(study.remarks == () and study.StudyInstanceUID.startswith("ID_") for study in found.studies)


def test_a_file_that_is_not_a_slice_stays_with_its_study(department: Path, scratch: Path) -> None:
    folder, *_ = sorted(department.iterdir())
    first, second, *_ = sorted(folder.iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    ds = pydicom.dcmread(second)
    ds.Modality = "MR"
    ds.save_as(second)
    study, *_ = find_studies([department], scratch=scratch).studies
    files = study.files.set_index("path")
    assert study.remarks == ()
    assert files.loc[first.name, "code"] == Refusal.TRUNCATED
    assert files.loc[first.name, "InstanceNumber"] == 1
    assert files.loc[second.name, "code"] == Refusal.NOT_CT
    assert files.loc[second.name, "Modality"] == "MR"
    assert (files.drop(index=[first.name, second.name])["code"] == "").all()
    assert files.loc[first.name, "pixel_offset"] == -1
    assert {name: str(files[name].dtype) for name in list(HEADER_DTYPES)[1:]} == {
        name: dtype for name, dtype in HEADER_DTYPES.items() if name != "path"
    }


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", Refusal.EMPTY),
        (bytes(5000), Refusal.NOT_DICOM),
        (bytes(128) + b"DICM" + bytes(40), Refusal.NOT_DICOM),
    ],
)
def test_a_damaged_file_is_held_against_the_studies_of_its_folder(
    department: Path, scratch: Path, content: bytes, code: str
) -> None:
    folder, *_ = sorted(department.iterdir())
    (folder / "IM0003").write_bytes(content)
    found = find_studies([department], scratch=scratch)
    assert [list_codes(study) for study in found.studies] == [
        (Reason.STRAY_FILE,),
        *[()] * (len(found.studies) - 1),
    ]
    assert list_refused(found) == [("IM0003", code)]
    detail = found.studies[0].remarks[0].detail
    assert detail.endswith(": 1")
    assert "IM0003" not in detail


def test_what_lies_on_a_medium_beside_slices_is_not_held_against_them(
    department: Path, scratch: Path
) -> None:
    folder, *_ = sorted(department.iterdir())
    for name in ("viewer.exe", "AUTORUN.INF", "Thumbs.db", "notes.txt", ".DS_Store"):
        (folder / name).write_bytes(bytes(200))
    (folder / "README").write_text("Grüße aus der Klinik\n" * 400)
    found = find_studies([department], scratch=scratch)
    assert not any(study.remarks for study in found.studies)
    others = [(name, Refusal.OTHER_KIND) for name in (".DS_Store", "AUTORUN.INF")]
    others += [("README", Refusal.NOT_DICOM)]
    others += [(name, Refusal.OTHER_KIND) for name in ("Thumbs.db", "notes.txt", "viewer.exe")]
    assert list_refused(found) == others
    named = find_studies(list(folder.iterdir()), scratch=scratch)  # as a shell's * does
    assert not any(study.remarks for study in named.studies)
    assert list_refused(named) == others
    (folder / "error.dcm").write_text("404 Not Found")  # what a download left in a slice's place
    assert list_codes(find_studies([department], scratch=scratch).studies[0]) == (Reason.STRAY_FILE,)


def test_a_slice_that_lost_its_series_is_held_against_its_study(
    department: Path, scratch: Path, tmp_path: Path
) -> None:
    folder, *_ = sorted(department.iterdir())
    path = next(folder.iterdir())
    ds = pydicom.dcmread(path)
    del ds.SeriesInstanceUID
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    ds.save_as(elsewhere / "IM1")
    path.unlink()
    found = find_studies([department, elsewhere], scratch=scratch)
    assert list_codes(found.studies[0]) == (Reason.STRAY_FILE,)
    assert list_refused(found) == [("IM1", Refusal.NO_UID)]


def test_other_contents_under_one_uid_are_reported(department: Path, scratch: Path) -> None:
    folder, *_ = sorted(department.iterdir())
    path = min(folder.iterdir())
    ds = pydicom.dcmread(path)
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(folder / "other")
    for name in ("other", "before", "zz"):  # whatever it is called
        (folder / "other").rename(folder / name)
        found = find_studies([department], scratch=scratch)
        (folder / name).rename(folder / "other")
        assert list_codes(found.studies[0]) == (Reason.CONFLICTING_COPIES,)
        assert len(found.studies[0].files) == len(list(folder.iterdir())) - 1
    whole = min(describe(find_studies([department], scratch=scratch)))
    (folder / "other").write_bytes((folder / "other").read_bytes()[:-10])
    study = find_studies([department], scratch=scratch).studies[0]
    assert (study.files["code"] == "").all()  # the one that can be read stays
    assert study.fingerprint != whole[2] or study.remarks


def test_several_patients_in_a_study_are_reported(department: Path, scratch: Path) -> None:
    folder, *_ = sorted(department.iterdir())
    path = min(folder.iterdir())
    ds = pydicom.dcmread(path)
    patient, ds.PatientID = ds.PatientID, "0"
    ds.save_as(path)
    study, *_ = find_studies([department], scratch=scratch).studies
    assert list_codes(study) == (Reason.MIXED_PATIENTS,)
    assert study.PatientID == patient
    assert patient not in study.remarks[0].detail


def test_a_change_changes_the_fingerprint(department: Path, scratch: Path) -> None:
    folder, *_ = sorted(department.iterdir())
    before, *others = describe(find_studies([department], scratch=scratch))
    path = min(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    after, *others_after = describe(find_studies([department], scratch=scratch))
    assert after[2] != before[2]
    assert others_after == others
    path.unlink()
    assert describe(find_studies([department], scratch=scratch))[0][2] not in (before[2], after[2])


def test_an_input_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist: give files"):
        find_studies([tmp_path / "nowhere"], scratch=tmp_path)


def test_headers_of_unchanged_files_are_kept_for_the_next_call(
    department: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SETTLED", 0)  # the files are as young as this test
    archive = zip_folder(min(department.iterdir()), department / "study.zip")
    read, kept = list[str](), scratch / "headers.parquet"
    read_file = reading._read_file

    def note(path: str) -> list[reading.Row]:
        read.append(path)
        return read_file(path)

    monkeypatch.setattr(reading, "_read_file", note)

    def find() -> Found:
        read.clear()
        return find_studies([department], scratch=scratch, kept=kept)

    def require_same(found: Found, other: Found) -> None:
        assert describe(found) == describe(other)
        for study, its_other in zip(found.studies, other.studies, strict=True):
            pd.testing.assert_frame_equal(study.files, its_other.files)

    plain = find_studies([department], scratch=scratch)
    count = len(read)
    first = find()
    assert len(read) == count
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    require_same(first, plain)
    require_same(find(), plain)
    members = len(zipfile.ZipFile(archive).namelist())
    assert len(read) == members  # which are unpacked anew
    archive.unlink()
    plain = find_studies([department], scratch=scratch)
    require_same(find(), plain)
    assert read == []
    # The size and the time of a file stay the same, and it is noticed all the same.
    changed = sorted(min(department.iterdir()).iterdir())[0]
    before, content = changed.stat(), bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert describe(find()) == describe(find_studies([department], scratch=scratch))
    assert read[0] == str(changed)
    for damaged in (b"", kept.read_bytes()[:-9]):
        kept.write_bytes(damaged)
        find()
        assert len(read) == sum(len(study.files) for study in plain.studies)


def test_studies_are_a_sequence(department: Path, scratch: Path) -> None:
    studies = find_studies([department], scratch=scratch).studies
    uids = [study.StudyInstanceUID for study in studies]
    assert [study.StudyInstanceUID for study in studies[1:]] == uids[1:]
    assert studies[-1].StudyInstanceUID == uids[-1]
    pd.testing.assert_frame_equal(studies[1:][0].files, studies[1].files)
    with pytest.raises(IndexError):
        studies[len(studies)]


def test_nothing_is_found_in_nothing(tmp_path: Path, scratch: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for inputs in ([], [empty]):
        found = find_studies(inputs, scratch=scratch)
        assert len(found.studies) == 0
        assert list(found.refused) == ["path", "code", "detail"]


# Archives.


def test_an_archive_in_a_folder_is_read(department: Path, scratch: Path, tmp_path: Path) -> None:
    expected = describe(find_studies([department], scratch=scratch))
    exports = tmp_path / "exports"
    for folder in department.iterdir():
        (exports / folder.name).mkdir(parents=True)
        zip_folder(folder, exports / folder.name / "export.ZIP")
    assert describe(find_studies([exports], scratch=scratch)) == expected


def test_names_in_an_archive_never_become_names_on_the_disk(
    department: Path, scratch: Path, tmp_path: Path
) -> None:
    slices = sorted(next(department.iterdir()).iterdir())[:5]
    names = ["../../escaped", "/absolute", "C:\\windows\\1", "a/../../b", "\x1b[31mred"]
    out = tmp_path / "hostile.zip"
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(scratch)}
    with zipfile.ZipFile(out, "w") as archive:
        for path, name in zip(slices, names, strict=True):
            archive.writestr(name, path.read_bytes())
        archive.writestr("a/\x1b[31mred", bytes(10))
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    found = find_studies([out], scratch=scratch)
    (study,) = found.studies
    assert len(study.files) == 5
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(scratch)} == before | {out}
    unpacked = [path.relative_to(scratch) for path in scratch.rglob("*") if path.is_file()]
    assert all(path.parts[1].isdigit() and path.name.isdigit() and len(path.parts) == 3 for path in unpacked)
    assert all(path.stat().st_mode & 0o077 == 0 for path in scratch.iterdir())
    assert found.refused[["path", "code"]].to_numpy().tolist() == [
        [f"{out}/a/\\x1b[31mred", Refusal.NOT_DICOM],
        [f"{out}/link", InputRefusal.LINK],
    ]


def test_members_of_one_name_are_all_read(department: Path, scratch: Path, tmp_path: Path) -> None:
    slices = sorted(next(department.iterdir()).iterdir())[:3]
    with zipfile.ZipFile(tmp_path / "same.zip", "w") as archive:
        for path in slices:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                archive.write(path, "IM")
    (study,) = find_studies([tmp_path / "same.zip"], scratch=scratch).studies
    assert len(study.files) == len(slices)


def test_members_that_cannot_be_unpacked_are_refused(department: Path, scratch: Path, tmp_path: Path) -> None:
    folder = next(department.iterdir())
    out = zip_folder(folder, tmp_path / "export.zip")
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("series/inner.zip", b"PK\3\4")
        archive.writestr("series/lzma", bytes(1000), zipfile.ZIP_LZMA)
        archive.writestr("series/broken", b"unlike any slice" * 10)
        archive.writestr("series/secret", b"a secret")
    content = bytearray(out.read_bytes())
    content[content.index(b"unlike any slice")] ^= 1
    central = content.rindex(b"PK\1\2")  # of the last member
    content[central + 8] |= 1  # it takes a password
    out.write_bytes(content)
    found = find_studies([out], scratch=scratch)
    assert list_refused(found) == [
        ("broken", InputRefusal.BAD_MEMBER),
        ("inner.zip", InputRefusal.NESTED_ARCHIVE),
        ("lzma", InputRefusal.UNSUPPORTED_COMPRESSION),
        ("secret", InputRefusal.ENCRYPTED),
    ]
    assert [list_codes(study) for study in found.studies] == [()]  # they lay in another folder


def test_a_slice_that_cannot_be_unpacked_is_held_against_its_study(
    department: Path, scratch: Path, tmp_path: Path
) -> None:
    out = tmp_path / "export.zip"
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(next(department.iterdir()).iterdir()):
            archive.write(path, f"CT/{path.name}")
    content = bytearray(out.read_bytes())
    content[len(content) // 2] ^= 1
    out.write_bytes(content)
    found = find_studies([out], scratch=scratch)
    assert [list_codes(study) for study in found.studies] == [(Reason.STRAY_FILE,)]
    assert found.refused["code"].to_list() == [InputRefusal.BAD_MEMBER]


def test_bombs_are_refused_before_they_are_unpacked(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bomb.zip"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1", bytes(1 << 20))
        archive.writestr("2", bytes(1 << 20))
    assert list_refused(find_studies([out], scratch=scratch)) == [
        ("1", Refusal.NOT_DICOM),
        ("2", Refusal.NOT_DICOM),
    ]
    shutil.rmtree(scratch)
    scratch.mkdir()
    monkeypatch.setattr(unpacking, "FREE_RATIO", 1 << 20)
    assert list_refused(find_studies([out], scratch=scratch)) == [
        ("bomb.zip", InputRefusal.ARCHIVE_TOO_LARGE)
    ]
    monkeypatch.undo()
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 1)
    assert list_refused(find_studies([out], scratch=scratch)) == [
        ("bomb.zip", InputRefusal.ARCHIVE_TOO_LARGE)
    ]
    monkeypatch.undo()
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1000)
    assert {code for _, code in list_refused(find_studies([out], scratch=scratch))} == {
        InputRefusal.MEMBER_TOO_LARGE
    }
    usage = shutil.disk_usage(scratch)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    found = find_studies([out], scratch=scratch)
    assert "1048576 are free" in found.refused.loc[0, "detail"]
    assert list(scratch.rglob("1")) == []


def test_a_damaged_archive_is_refused(scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4" + bytes(100))
    (tmp_path / "export").write_bytes(b"PK\3\4" + bytes(200))
    found = find_studies([tmp_path / "cut.zip", tmp_path / "export"], scratch=scratch)
    assert list_refused(found) == [
        ("cut.zip", InputRefusal.BAD_ARCHIVE),
        ("export", InputRefusal.BAD_ARCHIVE),
    ]


# Media.


@pytest.fixture(scope="session")
def written(conformant: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A medium with a DICOMDIR, as pydicom writes it, to be left as it is."""
    out = tmp_path_factory.mktemp("data") / "medium"
    files = FileSet()
    for path in (conformant / "stage_2_train").iterdir():
        ds = pydicom.dcmread(path)
        files.add(ds)
    files.write(out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pydicom leaves its temporary folder to this
        del files
        gc.collect()
    return out


@pytest.fixture
def medium(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "medium")


def list_images(medium: Path) -> list[Path]:
    return sorted(path for path in medium.rglob("IM*") if path.is_file())


def test_a_dicomdir_names_its_files(medium: Path, scratch: Path, tmp_path: Path) -> None:
    expected = describe(find_studies([medium], scratch=scratch))
    assert len(expected) > 4
    assert all(codes == () for *_, codes in expected)
    extra = medium / "EXTRA"
    extra.mkdir()
    ds = pydicom.dcmread(list_images(medium)[0])
    ds.StudyInstanceUID = "1.2.3"
    ds.save_as(extra / "IM")
    assert describe(find_studies([medium / "DICOMDIR"], scratch=scratch)) == expected
    assert len(find_studies([medium], scratch=scratch).studies) == len(expected) + 1
    archive = zip_folder(medium, tmp_path / "medium.zip")
    shutil.rmtree(extra)
    lower = tmp_path / "lower"  # as a system shows a disc
    for path in [*list_images(medium), medium / "DICOMDIR"]:
        target = lower / f"{path.relative_to(medium).as_posix().lower()};1"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert describe(find_studies([lower / "dicomdir;1"], scratch=scratch)) == expected
    assert describe(find_studies([lower], scratch=scratch)) == expected
    assert len(find_studies([archive], scratch=scratch).studies) == len(expected) + 1


@pytest.mark.parametrize("form", ["file", "folder", "zip"])
def test_a_file_that_a_dicomdir_names_and_is_not_there_is_missing(
    medium: Path, scratch: Path, tmp_path: Path, form: str
) -> None:
    path = list_images(medium)[3]
    uid = str(pydicom.dcmread(path).StudyInstanceUID)
    path.unlink()
    source = {"file": medium / "DICOMDIR", "folder": medium, "zip": tmp_path / "medium.zip"}[form]
    zip_folder(medium, tmp_path / "medium.zip")
    found = find_studies([source], scratch=scratch)
    assert {study.StudyInstanceUID: list_codes(study) for study in found.studies if study.remarks} == {
        uid: (Reason.MISSING_FILE,)
    }
    assert found.refused.empty


def test_a_file_that_was_renamed_is_not_missing(medium: Path, scratch: Path) -> None:
    expected = describe(find_studies([medium], scratch=scratch))
    for number, path in enumerate(list_images(medium)):
        path.rename(medium / f"{number}.dcm")
    assert describe(find_studies([medium], scratch=scratch)) == expected


def test_a_study_that_is_not_there_at_all_is_refused(medium: Path, scratch: Path) -> None:
    images = list_images(medium)
    uid = pydicom.dcmread(images[0]).StudyInstanceUID
    gone = [path for path in images if pydicom.dcmread(path).StudyInstanceUID == uid]
    for path in gone:
        path.unlink()
    found = find_studies([medium / "DICOMDIR"], scratch=scratch)
    assert uid not in {study.StudyInstanceUID for study in found.studies}
    assert set(found.refused["code"]) == {InputRefusal.MISSING_FILE}
    assert len(found.refused) == len(gone)


def test_a_damaged_file_belongs_to_the_study_that_the_dicomdir_says(medium: Path, scratch: Path) -> None:
    path = list_images(medium)[0]
    uid = str(pydicom.dcmread(path).StudyInstanceUID)
    path.write_bytes(b"")
    found = find_studies([medium / "DICOMDIR"], scratch=scratch)
    assert {study.StudyInstanceUID for study in found.studies if study.remarks} == {uid}


def change_record(medium: Path, change: Callable[[Dataset], None]) -> None:
    ds = pydicom.dcmread(medium / "DICOMDIR")
    record = next(r for r in ds.DirectoryRecordSequence if r.DirectoryRecordType == "IMAGE")
    with pydicom.config.disable_value_validation():
        change(record)
        ds.save_as(medium / "DICOMDIR")


def test_files_outside_a_medium_are_refused(medium: Path, scratch: Path, tmp_path: Path) -> None:
    path = list_images(medium)[0]
    name = path.relative_to(medium).as_posix().split("/")
    size = len("\\".join(name))
    outside = tmp_path / ("x" * (size - 3))
    shutil.copy(path, outside)

    def lead_outside(record: Dataset) -> None:
        assert list(record.ReferencedFileID) == name
        record.ReferencedFileID = ["..", outside.name]  # as long, so that offsets stay

    change_record(medium, lead_outside)
    found = find_studies([medium / "DICOMDIR"], scratch=scratch)
    assert list_refused(found) == [("DICOMDIR", InputRefusal.OUTSIDE_MEDIUM)]
    assert sorted(code for study in found.studies for code in list_codes(study)) == [Reason.MISSING_FILE]


@pytest.mark.parametrize("damage", ["cut", "circle", "chain", "text", "slice"])
def test_a_damaged_dicomdir_is_refused(medium: Path, scratch: Path, damage: str) -> None:
    dicomdir = medium / "DICOMDIR"
    if damage == "cut":
        dicomdir.write_bytes(dicomdir.read_bytes()[:-3000])
    elif damage == "circle":
        first = pydicom.dcmread(dicomdir).DirectoryRecordSequence[0].seq_item_tell
        change_record(medium, lambda record: setattr(record, "OffsetOfTheNextDirectoryRecord", first))
    elif damage == "chain":
        change_record(medium, lambda record: setattr(record, "OffsetOfTheNextDirectoryRecord", 0))
    elif damage == "text":
        dicomdir.write_text("no DICOM")
    else:
        shutil.copy(list_images(medium)[0], dicomdir)
    assert list_refused(find_studies([dicomdir], scratch=scratch)) == [
        ("DICOMDIR", InputRefusal.BAD_DICOMDIR)
    ]
    found = find_studies([medium], scratch=scratch)  # of a folder all files are read
    assert list_refused(found) == [("DICOMDIR", InputRefusal.BAD_DICOMDIR)]
    assert len(found.studies) > 4
