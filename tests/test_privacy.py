"""Where patients and folders may be named, and where not: everything that identifies bears a mark."""

from __future__ import annotations

import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet
import pydicom
import pytest
from command import call
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

import ich.index
from ich.data import HeadCTDataModule
from ich.index import build_index
from ich.index.pseudonyms import KEY
from ich.schema import LABELS, InputSpec, UserError
from ich.tables import make_predictions

TEXT, DATE, TIME, UID, NUMBER = "ZQMARK", "19120304", "031415.926535", "1.2.826.0.1.5550123", "73.1928"
MARKS = (TEXT, DATE, TIME, UID, NUMBER)
BY_VR = {
    "DA": DATE,
    "TM": TIME,
    "DT": DATE + TIME,
    "UI": UID,
    "DS": NUMBER,
    "AS": "093Y",
    "PN": f"{TEXT}^{TEXT}",
}

# Of PS3.15 table E.1-1 what the modules of a CT image may hold (PS3.3 A.3).
IDENTIFYING = (
    "AccessionNumber AcquisitionComments AcquisitionDate AcquisitionDateTime "
    "AcquisitionDeviceProcessingDescription AcquisitionProtocolDescription AcquisitionTime "
    "AdditionalPatientHistory AdmissionID AdmittingDate AdmittingDiagnosesDescription AdmittingTime "
    "Allergies BranchOfService CommentsOnThePerformedProcedureStep ConcatenationUID "
    "ConfidentialityConstraintOnPatientDataDescription ContentCreatorName ContentDate ContentTime "
    "ContrastBolusAgent ContributionDescription CountryOfResidence CurrentPatientLocation "
    "DerivationDescription DetectorID DeviceDescription DeviceSerialNumber DeviceUID EthnicGroup "
    "FrameComments FrameOfReferenceUID GantryID ImageComments IrradiationEventUID IssuerOfAdmissionID "
    "IssuerOfPatientID IssuerOfServiceEpisodeID InstanceCreationDate InstanceCreationTime "
    "InstanceCreatorUID InstitutionAddress InstitutionName InstitutionalDepartmentName "
    "LastMenstrualDate MedicalAlerts MedicalRecordLocator MilitaryRank NameOfPhysiciansReadingStudy "
    "Occupation OperatorsName OtherPatientNames PatientAddress PatientAge PatientBirthDate "
    "PatientBirthName PatientBirthTime PatientComments PatientID PatientInstitutionResidence "
    "PatientMotherBirthName PatientName PatientReligiousPreference PatientSize PatientState "
    "PatientTelephoneNumbers PatientWeight PerformedProcedureStepDescription PerformedProcedureStepID "
    "PerformedProcedureStepStartDate PerformedProcedureStepStartTime PerformingPhysicianName "
    "PhysiciansOfRecord PositionReferenceIndicator ProtocolName ReasonForStudy "
    "ReferringPhysicianAddress ReferringPhysicianName ReferringPhysicianTelephoneNumbers "
    "RegionOfResidence RequestedProcedureDescription RequestingPhysician RequestingService SeriesDate "
    "SeriesDescription SeriesInstanceUID SeriesTime ServiceEpisodeDescription ServiceEpisodeID "
    "SpecialNeeds StationName StudyComments StudyDate StudyDescription StudyID StudyInstanceUID "
    "StudyTime SynchronizationFrameOfReferenceUID TimezoneOffsetFromUTC VisitComments "
)
SEQUENCES = (
    "OtherPatientIDsSequence ReferencedStudySequence ReferencedPatientSequence "
    "RequestAttributesSequence ReferringPhysicianIdentificationSequence "
    "PhysiciansOfRecordIdentificationSequence SourceImageSequence OperatorIdentificationSequence "
    "ReferencedPerformedProcedureStepSequence "
)

RESULTS = r"\d{4}\.json|(studies|series|slices)\.csv|done\.jsonl|(report|key_image_\d+)\.dcm"
ALLOWED = re.compile(
    rf"(index|hashes|headers)\.parquet|refused\.csv|split\.csv|predictions_(val|test)\.csv|{RESULTS}"
)
TINY = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=1", "data.num_workers=0"]


def mark(ds: Dataset, number: int) -> None:
    """Puts marks into every identifying attribute; what belonged together still does."""
    names = {k: str(ds[k].value) for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")}
    for keyword in IDENTIFYING.split():
        vr = dictionary_VR(tag_for_keyword(keyword))
        if vr != "SQ":
            setattr(ds, keyword, BY_VR.get(vr, TEXT))
    for keyword in SEQUENCES.split():
        item = Dataset()
        item.ReferencedSOPInstanceUID, item.PatientID, item.PersonName = UID, TEXT, TEXT
        setattr(ds, keyword, [item])
    ds.private_block(0x0011, TEXT, create=True).add_new(1, "LO", TEXT)
    ds.PatientID = f"{TEXT}-{names['PatientID']}"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        setattr(ds, keyword, f"{UID}.{sum(map(ord, names[keyword]))}.{int(names[keyword][-4:], 36)}")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{UID}.{number}"


@pytest.fixture(scope="module")
def marked(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set whose folders, files and headers bear marks, in the current folder of a user."""
    root = tmp_path_factory.mktemp("user") / f"{TEXT} clinic"
    labels = pd.read_csv(phantom / "stage_2_train.csv")
    uids: dict[str, str] = {}
    with pydicom.config.disable_value_validation():
        for number, path in enumerate(sorted((phantom / "stage_2_train").iterdir())):
            ds = pydicom.dcmread(path)
            mark(ds, number)
            uids[path.stem] = str(ds.SOPInstanceUID)
            folder = root / str(ds.PatientID) / f"{TEXT} head"
            folder.mkdir(parents=True, exist_ok=True)
            ds.save_as(folder / f"{TEXT}{number}.dcm")
    old = labels["ID"].str.rpartition("_")
    labels["ID"] = old[0].map(uids) + "_" + old[2]
    labels.to_csv(root / "stage_2_train.csv", index=False)
    (root / f"{TEXT}.dcm").write_bytes(b"no DICOM")
    return root


def settings(root: Path) -> list[str]:
    places = [f"data.root='{root}'", "data.index_dir=index"]
    return ["data=rsna", *places, "data.limit_slices=150", "data.val_fraction=0.3", "input.size=32", *TINY]


def decode(path: Path) -> Iterator[bytes]:
    """Yields what a file holds: its name, its bytes, and what is packed in it."""
    yield path.name.encode()
    yield path.read_bytes()
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        yield table.to_pandas().to_csv().encode()
        yield repr(table.schema.metadata).encode()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())


def find_marks(path: Path, but: str = "") -> set[str]:
    """Finds marks in a file, in any of the ways that text is written in, except within ``but``."""
    found = set()
    for content in decode(path):
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            rest = content.replace(but.encode(encoding), b"") if but else content
            found |= {mark for mark in MARKS if mark.encode(encoding) in rest}
    return found


def list_files(folder: Path, root: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and root not in path.parents]


class Used(NamedTuple):
    """The folder of a user who has called every command on the marked data set, of which some failed."""

    folder: Path
    errors: list[str]  # that the terminal showed


@pytest.fixture(scope="module")
def inbox(marked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the marked slices, in which no contrast agent is named: such studies are read."""
    root = tmp_path_factory.mktemp("inbox") / f"{TEXT} inbox"
    for folder in [path for path in sorted(marked.iterdir()) if path.is_dir()][:1]:
        shutil.copytree(folder, root / folder.name)
    for path in root.rglob("*.dcm"):
        with pydicom.config.disable_value_validation():
            ds = pydicom.dcmread(path)
            ds.ContrastBolusAgent, ds.BodyPartExamined = "", "HEAD"
            ds.save_as(path)
    return root


@pytest.fixture(scope="module")
def used(marked: Path, inbox: Path, damage) -> Used:
    here, errors = marked.parent, list[str]()
    data = settings(marked)
    terminal = logging.Handler(logging.ERROR)
    terminal.emit = lambda record: errors.append(record.getMessage())  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert call("index", str(marked), "--index-dir", "index") == 0
        assert call("explore", str(marked), "--index-dir", "index", "--out", "looked") == 0
        assert call("train", *data, "run_dir=run", "data.cache=cache") == 0
        assert call("bundle", "run", "model.zip") == 0
        written = ("--write", "page", "sr", "sc")
        assert call("predict", "model.zip", str(inbox), "--out", "predicted", *written) == 0
        assert call("predict", "model.zip", str(marked), "--out", "predicted_none", *written) == 3
        split = pd.read_csv("run/split.csv", dtype=str)
        number = split.loc[split["part"] == "val", "SOPInstanceUID"].iloc[0].rpartition(".")[2]
        (path,) = marked.rglob(f"{TEXT}{number}.dcm")
        damage(path)
        logging.getLogger("ich").addHandler(terminal)
        assert call("train", *data, "run_dir=late", "data.cache=cache") == 2
        assert call("train", *data, "run_dir=failed") == 2
        assert call("train", *data, "run_dir=failed2", "data.cache=cache2") == 2
        assert call("train", *data, "run_dir=tolerant", "data.cache=cache2", "data.tolerate=9") == 0
        logging.getLogger("ich").removeHandler(terminal)
    return Used(here, errors)


@pytest.mark.trains
def test_no_file_names_a_patient_but_those_that_have_to(used: Used, marked: Path) -> None:
    files = list_files(used.folder, marked)
    kinds = {path.suffix for path in files}
    assert {".ckpt", ".log", ".yaml", ".json", ".csv", ".png", ".html", ".zip", ".npy", ".parquet"} <= kinds
    assert any(path.name.startswith("events.out.tfevents") for path in files)
    faults = {}
    for path in files:
        # A run's own configuration has the root, as the user wrote it, and nothing below.
        found = find_marks(path, but=str(marked) if path.name == "config.yaml" else "")
        if found and not ALLOWED.fullmatch(path.name):
            faults[str(path.relative_to(used.folder))] = found
    assert not faults


@pytest.mark.trains
def test_marks_are_found_where_they_are(used: Used) -> None:
    for name in ("index/index.parquet", "index/refused.csv", "run/split.csv", "run/predictions_test.csv"):
        assert TEXT in find_marks(used.folder / name)
    assert TEXT in find_marks(used.folder / "run/config.yaml")
    assert TEXT in find_marks(used.folder / "predicted/studies.csv")
    assert pd.read_csv(used.folder / "predicted/studies.csv")["outcome"].notna().all()


def test_a_log_names_the_row_and_the_terminal_the_file(used: Used, marked: Path, monkeypatch) -> None:
    logs = [(used.folder / run / "run.log").read_text() for run in ("failed", "failed2")]
    rows = {int(re.findall(r"ERROR row (\d+): corrupt$", log, re.MULTILINE)[0]) for log in logs}
    monkeypatch.chdir(used.folder)
    spec = InputSpec(size=64)
    data = HeadCTDataModule(str(marked), spec, index_dir="index", limit_slices=150, val_fraction=0.3)
    data.setup()
    (path,) = data.table["path"].iloc[list(rows)]
    assert len(used.errors) == 3
    assert all(path in error for error in used.errors)


def test_only_the_owner_can_read_the_files_of_a_run_and_of_a_cache(used: Used) -> None:
    for folder in ("run", "failed", "tolerant", "cache", "cache2", "index", "looked", "predicted"):
        for path in (used.folder / folder, *(used.folder / folder).rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, path


def test_pseudonyms_split_by_patient_and_name_nobody(marked: Path, tmp_path: Path) -> None:
    plain = build_index(marked, index_dir=tmp_path / "plain").table
    hidden = build_index(marked, index_dir=tmp_path / "hidden", pseudonyms=True).table
    pairs = plain.merge(hidden, on="SOPInstanceUID")[["PatientID_x", "PatientID_y"]].drop_duplicates()
    assert len(pairs) == plain["PatientID"].nunique() == hidden["PatientID"].nunique()
    assert hidden["PatientID"].str.fullmatch("[0-9a-f]{32}").all()
    assert (tmp_path / "hidden" / KEY).stat().st_mode & 0o777 == 0o600
    other = build_index(marked, index_dir=tmp_path / "other", pseudonyms=True).table
    assert not set(other["PatientID"]) & set(hidden["PatientID"])  # the key is drawn anew
    data = HeadCTDataModule(str(marked), InputSpec(size=64), index_dir=str(tmp_path / "hidden"))
    data.setup()
    assert not data.labeled[["PatientID", "part"]].drop_duplicates()["PatientID"].duplicated().any()
    test = data.part("test")
    predictions = make_predictions(test, "test", np.full((len(test), len(LABELS)), 0.5))
    assert set(predictions["PatientID"]) <= set(hidden["PatientID"])


def test_an_index_takes_pseudonyms_when_asked_and_keeps_them(
    marked: Path, tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "index"
    assert call("index", str(marked), "--index-dir", str(folder)) == 0
    assert call("index", str(marked), "--index-dir", str(folder), "--pseudonyms") == 0
    first = pd.read_parquet(folder / "index.parquet")
    assert first["PatientID"].str.fullmatch("[0-9a-f]{32}").all()
    (marked / f"{TEXT}.dcm").write_bytes(b"no DICOM, again")
    assert call("index", str(marked), "--index-dir", str(folder)) == 0
    assert pd.read_parquet(folder / "index.parquet").equals(first)
    (folder / KEY).unlink()
    with pytest.raises(UserError, match="their key is missing"):
        build_index(marked, index_dir=folder)
    (folder / KEY).write_bytes(b"short")
    with pytest.raises(UserError, match=r"has 5 bytes, not 32"):
        build_index(marked, index_dir=folder)


def test_what_an_interrupted_index_leaves_has_pseudonyms(marked: Path, tmp_path: Path, monkeypatch) -> None:
    read_headers = ich.index.read_headers

    def stopped(*args: object) -> Iterator[object]:
        yield next(iter(read_headers(*args)))
        raise KeyboardInterrupt

    monkeypatch.setattr(ich.index, "read_headers", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_index(marked, index_dir=tmp_path, pseudonyms=True)
    (left,) = tmp_path.glob("unfinished-*/index.parquet")
    assert pd.read_parquet(left)["PatientID"].str.fullmatch("[0-9a-f]{32}").all()
    monkeypatch.undo()
    whole = build_index(marked, index_dir=tmp_path)
    assert whole.table["PatientID"].str.fullmatch("[0-9a-f]{32}").all()
    assert {path.name for path in tmp_path.iterdir()} == {"index.parquet", "refused.csv", KEY}


def test_a_patient_without_a_name_gets_no_pseudonym(phantom: Path, tmp_path: Path) -> None:
    source = next((phantom / "stage_2_train").iterdir())
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(source)
        ds.PatientID = ""
        shutil.copytree(phantom, tmp_path / "data", ignore=lambda *_: ["masks"])
        ds.save_as(tmp_path / "data" / "stage_2_train" / source.name)
    table = build_index(tmp_path / "data", pseudonyms=True).table
    assert (table["PatientID"] == "").sum() == 1
