"""The phantom's archive: what it holds, that the truth about it is true, determinism, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from command import call

from ich.dicom import read_hu
from ich.phantom.archive import KINDS, TRUTH, write_archive
from ich.schema import LABELS
from ich.schema.codes import Reason, Refusal
from ich.studies import StudyFiles, find_studies
from ich.studies.series import rank_series

SIZE = 64


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("archive") / "department"
    assert call("phantom", str(out), "--archive", "--patients", str(len(KINDS)), "--size", str(SIZE)) == 0
    return out


@pytest.fixture(scope="module")
def studies(archive: Path) -> dict[str, StudyFiles]:
    found = find_studies([archive], scratch=archive, progress=False)
    codes = found.refused["code"].to_list()
    assert [code for code in codes if code != Refusal.OTHER_KIND] == [Refusal.NOT_DICOM]  # overwritten
    return {study.StudyInstanceUID: study for study in found.studies}


@pytest.fixture(scope="module")
def truth(archive: Path) -> dict[str, dict[str, Any]]:
    told = json.loads((archive / TRUTH).read_text())
    return {study["kind"]: study for study in told["studies"]}


def take_series(studies: dict[str, StudyFiles], study: dict[str, Any], uid: str) -> Any:
    files = studies[study["StudyInstanceUID"]].files
    return files[files["SeriesInstanceUID"] == uid]


def test_every_kind_is_there_and_every_study_is_found(
    studies: dict[str, StudyFiles], truth: dict[str, dict[str, Any]]
) -> None:
    assert list(truth) == list(KINDS)
    assert sorted(study["StudyInstanceUID"] for study in truth.values()) == sorted(studies)
    for study in truth.values():
        found = studies[study["StudyInstanceUID"]]
        assert found.PatientID == study["PatientID"]
        assert set(found.files["SeriesInstanceUID"]) == {s["SeriesInstanceUID"] for s in study["series"]}
        assert [s["kind"] for s in study["series"]] == list(KINDS[study["kind"]].series)
        assert [s["SeriesInstanceUID"] for s in study["series"] if not s["set_aside"]] == (
            [] if study["read"] is None else [study["read"]]
        )
        assert (study["labels"] is None) == (study["read"] is None)
    labels = [study["labels"] for study in truth.values() if study["labels"]]
    assert all(tuple(row) == LABELS and row["any"] == max(row.values()) for row in labels)
    assert {row["any"] for row in labels} == {0, 1}


def test_the_series_to_be_read_is_axial_head_ct(
    studies: dict[str, StudyFiles], truth: dict[str, dict[str, Any]]
) -> None:
    for study in truth.values():
        if study["read"] is None or not study["whole"]:
            continue
        series = take_series(studies, study, study["read"])
        (told,) = (s["files"] for s in study["series"] if s["SeriesInstanceUID"] == study["read"])
        assert len(series) == told
        assert (series["code"] == "").all()
        steps = np.diff(np.sort(series["position"]))
        assert steps.min() > 1
        assert (np.abs(series["tilt"]) < 30).all()
        middle = series.sort_values("position").iloc[len(series) // 2]
        hu = read_hu(studies[study["StudyInstanceUID"]].root / middle["path"])
        assert hu.shape == (SIZE, SIZE)
        assert 0.1 < ((hu > 0) & (hu < 100)).mean() < 0.6


def test_damage_is_what_the_truth_says(
    studies: dict[str, StudyFiles], truth: dict[str, dict[str, Any]]
) -> None:
    codes = {
        kind: [r.code for r in studies[study["StudyInstanceUID"]].remarks] for kind, study in truth.items()
    }
    assert {kind: found for kind, found in codes.items() if found} == {
        "conflicting_copy": [Reason.CONFLICTING_COPIES],
        "overwritten_slice": [Reason.STRAY_FILE],
    }
    truncated = take_series(studies, truth["truncated_slice"], truth["truncated_slice"]["read"])
    assert sorted(truncated["code"])[-2:] == ["", Refusal.TRUNCATED]
    missing = take_series(studies, truth["missing_slice"], truth["missing_slice"]["read"])
    numbers = sorted(missing["InstanceNumber"])
    assert numbers[0] == 1
    assert numbers[-1] == len(numbers) + 1
    assert [study["kind"] for study in truth.values() if not study["whole"]] == [
        "missing_slice",
        "truncated_slice",
        "conflicting_copy",
        "overwritten_slice",
    ]


def test_series_are_set_aside_by_one_of_the_codes_of_the_truth(
    studies: dict[str, StudyFiles], truth: dict[str, dict[str, Any]]
) -> None:
    for study in truth.values():
        codes = {series["SeriesInstanceUID"]: series["set_aside"] for series in study["series"]}
        ranking = rank_series(studies[study["StudyInstanceUID"]].files)
        for uid, remark in ranking.set_aside.items():
            assert remark.code in codes[uid]


def test_headers_say_what_the_series_are(
    studies: dict[str, StudyFiles], truth: dict[str, dict[str, Any]]
) -> None:
    study = truth["everything"]
    kinds = {s["kind"]: take_series(studies, study, s["SeriesInstanceUID"]).iloc[0] for s in study["series"]}
    assert kinds["scout"]["ImageType"].endswith("LOCALIZER")
    assert kinds["bone"]["ConvolutionKernel"] != kinds["soft"]["ConvolutionKernel"]
    assert kinds["contrast"]["ContrastBolusAgent"] != ""
    assert kinds["coronal"]["ImageOrientationPatient"] == "1.0\\0.0\\0.0\\0.0\\0.0\\-1.0"
    assert kinds["chest"]["BodyPartExamined"] == "CHEST"
    assert float(kinds["thin"]["SliceThickness"]) < float(kinds["soft"]["SliceThickness"])
    assert {kind: row["Modality"] for kind, row in kinds.items() if row["Modality"] != "CT"} == {
        "mr": "MR",
        "dose_report": "SR",
    }
    sparse = take_series(studies, truth["sparse"], truth["sparse"]["read"])
    assert (sparse["SOPClassUID"] + sparse["SeriesDescription"] == "").all()
    syntaxes = {
        kind: pydicom.uid.UID(
            take_series(studies, truth[kind], truth[kind]["read"])["TransferSyntaxUID"].iloc[0]
        )
        for kind in ("rle", "deflated")
    }
    assert {kind: syntax.name for kind, syntax in syntaxes.items()} == {
        "rle": "RLE Lossless",
        "deflated": "Deflated Explicit VR Little Endian",
    }


def test_the_same_seed_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_archive(again, patients=3, size=SIZE)
    files = [path for path in again.rglob("IM*") if path.is_file()]
    assert len(files) > 50
    assert all(path.read_bytes() == (archive / path.relative_to(again)).read_bytes() for path in files)
    before = (again / TRUTH).stat().st_mtime_ns
    write_archive(again, patients=3, size=SIZE)
    assert (again / TRUTH).stat().st_mtime_ns == before


def test_an_archive_is_not_written_over_a_phantom(
    phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("phantom", str(phantom), "--archive") == 2
    assert "holds a phantom with the parameters" in capsys.readouterr().err
    assert call("phantom", str(tmp_path / "new"), "--archive", "--masks") == 2
    assert "--masks cannot be used with --archive" in capsys.readouterr().err
