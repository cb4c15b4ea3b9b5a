"""``ich predict`` and ``Predictor``, from files of DICOM to results, with networks of random weights."""

from __future__ import annotations

import errno
import html
import json
import os
import random
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from command import call

from ich.calibration import Decision, NotFitted, OperatingPoint
from ich.calibration.files import write_calibration
from ich.calibration.ood import OodDistance
from ich.data import HeadCTDataModule
from ich.dicom import read_hu
from ich.model_files.bundle import write_bundle
from ich.model_files.metadata import OodReference
from ich.models import SliceClassifier
from ich.outputs.records import read_json
from ich.phantom import write_phantom
from ich.predict import Predictor
from ich.predict.folder import ResultFolder
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.codes import Reason
from ich.schema.results import Outcome
from ich.studies import find_studies
from ich.tables import WEIGHTS_COLUMN, read_predictions
from ich.train.scores import predict_parts

SPEC = InputSpec(size=64)


def make_decision(threshold: float | None, pooling: str = "max") -> Decision:
    missing = dict.fromkeys(LABELS, NotFitted("too few cases"))
    point = None if threshold is None else OperatingPoint(threshold, "sensitivity>=0.95", 1.0, 0.5)
    return Decision(pooling, missing, missing | ({"any": point} if point else {}))


def write_model(
    path: Path,
    threshold: float | None = 0.5,
    *,
    limit: float | None = 1e6,
    seed: int = 0,
    spec: InputSpec = SPEC,
) -> Path:
    """A bundle of a network of random weights, with an operating point and a reference as asked for."""
    torch.manual_seed(seed)
    model = SliceClassifier("test_resnet", input=spec, pretrained=False).net.eval()
    torch.nn.init.normal_(model.head[1].weight, std=1.0)
    decision, ood = make_decision(threshold), None
    if limit is not None:
        features = model.head[1].in_features
        model.ood = OodDistance(
            torch.zeros(features),
            torch.ones(features),
            torch.eye(features)[:1],
            torch.ones(1),
            torch.ones(()),
            torch.tensor(limit),
        )
        ood = OodReference(studies=8, patients=8)
    model.metadata = replace(model.metadata, decisions={"slice": decision, "study": decision}, ood=ood)
    write_bundle(model.metadata, model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conformant studies, each in a folder of its own."""
    root = tmp_path_factory.mktemp("inbox")
    write_phantom(root / "flat", patients=3, seed=4, size=96, conformant=True)
    for path in sorted((root / "flat" / "stage_2_train").iterdir()):
        study = pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID
        folder = root / "studies" / study[-6:]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(path, folder / path.name)
    return root / "studies"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, studies: Path) -> Path:
    """A model to which some of the studies are positive and some negative."""
    folder = tmp_path_factory.mktemp("model")
    found = Predictor.load(write_model(folder / "first.zip")).predict(studies)
    probs = sorted(result.labels["any"].prob for result in found)
    return write_model(folder / "model.zip", (probs[1] + probs[2]) / 2)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory, model: Path, studies: Path) -> Path:
    out = tmp_path_factory.mktemp("out") / "predicted"
    assert call("predict", str(model), str(studies), "--out", str(out), "--write", "page", "sr", "sc") == 0
    return out


def read_results(out: Path) -> dict[str, dict[str, object]]:
    """What stands in the JSON files, by study, without the number and the times."""
    found = [json.loads(path.read_text()) for path in sorted((out / "results").iterdir())]
    return {
        result["StudyInstanceUID"]: {k: v for k, v in result.items() if k not in ("number", "timing")}
        for result in found
    }


def predict_one(model: Path, folder: Path):
    (result,) = Predictor.load(model).predict(folder)
    return result


@pytest.fixture
def negative(tmp_path: Path, predicted: Path, studies: Path) -> Path:
    """A copy of a study that is NEGATIVE when whole."""
    table = pd.read_csv(predicted / "studies.csv")
    uid = table.loc[table["outcome"] == "NEGATIVE", "StudyInstanceUID"].iloc[0]
    shutil.copytree(studies / uid[-6:], tmp_path / "study")
    return tmp_path / "study"


def list_slices(folder: Path) -> list[Path]:
    """In order of position."""
    return sorted(
        folder.iterdir(), key=lambda p: float(pydicom.dcmread(p, stop_before_pixels=True).SliceLocation)
    )


def test_every_study_has_its_result_in_tables_json_pages_and_dicom(predicted: Path, studies: Path) -> None:
    table = pd.read_csv(predicted / "studies.csv", keep_default_na=False)
    assert set(table["outcome"]) == {"POSITIVE", "NEGATIVE"}
    assert (table["reasons"] == "").all()
    assert len(table) == len(list(studies.iterdir()))
    for row in table.itertuples():
        number = f"{row.number:04d}"
        result = read_json(predicted / "results" / f"{number}.json")
        assert result.outcome == row.outcome
        assert (predicted / "pages" / f"{number}.html").stat().st_size > 10_000
        report = pydicom.dcmread(predicted / "dicom" / number / "report.dcm")
        assert report.StudyInstanceUID == row.StudyInstanceUID
        keys = list((predicted / "dicom" / number).glob("key_image_*.dcm"))
        assert len(keys) == len(result.key_slices)
        assert bool(keys) == (row.outcome == "POSITIVE")
    for path in predicted.rglob("*"):
        assert not path.stat().st_mode & 0o077, path


@pytest.mark.trains
def test_probabilities_are_those_of_training_and_evaluation(
    model: Path, predicted: Path, studies: Path
) -> None:
    """The data module reads, resizes and windows on another way."""
    labels = "".join(f"{p.stem}_{label},0\n" for p in studies.rglob("*.dcm") for label in LABELS)
    csv = predicted.parent / "labels.csv"
    csv.write_text("ID,Label\n" + labels)
    data = HeadCTDataModule(
        str(studies), SPEC, labels=str(csv), num_workers=0, index_dir=str(predicted.parent / "index")
    )
    data.setup()
    from ich.models import load_slice_net

    tables = predict_parts(load_slice_net(model), data, gpus=0)
    expected = pd.concat(tables.values()).set_index("SOPInstanceUID")
    found = pd.read_csv(predicted / "slices.csv").set_index("SOPInstanceUID").loc[expected.index]
    columns = [f"prob_{label}" for label in LABELS]
    assert len(expected) > 10
    assert np.abs(found[columns].to_numpy() - expected[columns].to_numpy()).max() < 1e-5
    assert (found[WEIGHTS_COLUMN] == expected[WEIGHTS_COLUMN]).all()


@pytest.mark.trains
def test_names_order_and_place_of_files_change_nothing(
    model: Path, predicted: Path, studies: Path, tmp_path: Path
) -> None:
    files = list(studies.rglob("*.dcm"))
    random.Random(1).shuffle(files)
    with zipfile.ZipFile(tmp_path / "inbox.zip", "w") as archive:
        for number, path in enumerate(files):
            archive.write(path, f"{number % 3}/{number:05d}")
    out = tmp_path / "out"
    assert call("predict", str(model), str(tmp_path / "inbox.zip"), "--out", str(out)) == 0
    assert read_results(out) == read_results(predicted)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_what_is_done_is_not_done_twice(
    model: Path,
    studies: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ich.studies.keeping.SETTLED", 0)  # the files may be as young as this test
    out, first = tmp_path / "out", sorted(studies.iterdir())[:2]
    assert call("predict", str(model), *map(str, first), "--out", str(out)) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (out / "results").iterdir()}
    capsys.readouterr()
    # A process that is killed may leave half a line.
    with (out / "done.jsonl").open("a") as file:
        file.write('{"number": 3, "stu')
    assert call("predict", str(model), str(studies), "--out", str(out)) == 0
    count = len(list(studies.iterdir()))
    assert f"{count} studies in {out}, 2 of them from an earlier call" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    numbers = sorted(int(path.stem) for path in (out / "results").iterdir())
    assert numbers == list(range(1, count + 1))
    assert len(pd.read_csv(out / "studies.csv")) == count
    # More is asked for: then it is done again, under its number. Headers are not read again.
    monkeypatch.delattr("ich.studies.reading.list_headers")
    assert call("predict", str(model), str(first[0]), "--out", str(out), "--write", "page") == 0
    assert sorted(path.name for path in (out / "pages").iterdir()) == ["0001.html", "index.html"]
    assert sorted(int(path.stem) for path in (out / "results").iterdir()) == numbers


def test_a_folder_holds_results_of_one_way_only(
    model: Path, studies: Path, predicted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_model(tmp_path / "other.zip", 0.3, seed=5)
    assert call("predict", str(other), str(studies), "--out", str(predicted)) == 2
    assert "of other settings (they differ in decisions, weights)" in capsys.readouterr().err
    assert call("predict", str(model), str(studies), "--out", str(predicted / "results")) == 2
    assert "is not empty and holds no results" in capsys.readouterr().err


def test_nothing_of_what_was_before_stays_beside_a_new_result(
    model: Path, studies: Path, predicted: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(predicted / "studies.csv")
    uid = table.loc[table["outcome"] == "POSITIVE", "StudyInstanceUID"].iloc[0]
    study, out = shutil.copytree(studies / uid[-6:], tmp_path / "study"), tmp_path / "out"
    command = ("predict", str(model), str(study), "--out", str(out), "--write")
    assert call(*command, "page", "sc") == 0
    assert call(*command, "sr") == 0  # more is asked for: what was written stays
    assert len(list((out / "dicom" / "0001").iterdir())) > 2
    assert call(*command, "page", "sc", "sr") == 0
    assert len((out / "done.jsonl").read_text().splitlines()) == 2
    slices = list_slices(study)  # other files: no CT any more
    change(slices, range(len(slices)), lambda ds: setattr(ds, "Modality", "MR"))
    assert call(*command, "sr") == 3
    assert not list((out / "pages").iterdir())
    assert not (out / "dicom").exists()
    # A process that was killed left outputs of a study that has another number now, and an archive.
    (out / "pages" / "0002.html").write_text("of another")
    (out / ".unpacked-1").mkdir()
    other = min(path for path in studies.iterdir() if path.name != uid[-6:])
    assert call("predict", str(model), str(other), "--out", str(out)) == 3
    assert not list((out / "pages").iterdir())
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.races
def test_a_folder_is_written_to_by_one_process_and_not_read(
    model: Path, studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = shutil.copytree(next(studies.iterdir()), tmp_path / "in" / "study")
    command = ("predict", str(model), str(study), "--out", str(tmp_path / "out"))
    with ResultFolder(tmp_path / "out", Predictor.load(model).describe()):
        assert call(*command) == 2
    assert "another process is writing to" in capsys.readouterr().err
    assert call(*command) == 0
    with (tmp_path / "out" / "done.jsonl").open("a") as file:
        file.write('{"number": 1}\n')
    assert call(*command) == 2
    assert "line 2 is damaged; remove it" in capsys.readouterr().err
    (tmp_path / "out" / "settings.json").write_text("[]")
    assert call(*command) == 2
    assert "holds no results" in capsys.readouterr().err
    assert call(*command[:2], str(tmp_path / "in"), "--out", str(study / "out")) == 2
    assert f"lies inside the input {tmp_path / 'in'}" in capsys.readouterr().err


def test_a_full_disk_is_one_message_and_what_is_done_is_kept(
    model: Path, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    command = ("predict", str(model), str(min(studies.iterdir())), "--out", str(tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr("ich.predict.run.write_tables", fail)
        assert call(*command) == 2
    assert f"cannot write to --out {tmp_path / 'out'}: No space left on device" in capsys.readouterr().err
    assert call(*command) == 0
    assert "of them from an earlier call" in capsys.readouterr().out


def test_a_file_that_changes_while_it_is_read_is_an_unread_slice(model: Path, negative: Path) -> None:
    (found,) = find_studies([negative], scratch=negative, progress=False).studies
    first, second, *_ = list_slices(negative)
    first.touch()
    second.unlink()
    result = Predictor.load(model).predict_study(found)
    assert result.outcome is Outcome.INDETERMINATE
    assert [(each.code, each.detail) for each in result.reasons] == [
        (Reason.UNREAD_SLICE, "2 files that may be slices of a head: unreadable 2")
    ]


def test_inputs_that_may_hold_studies_but_cannot_be_read_are_not_a_success(
    model: Path, tmp_path: Path
) -> None:
    content = model.read_bytes()
    (tmp_path / "in").mkdir()
    assert call("predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "out")) == 3
    (tmp_path / "in" / "damaged.zip").write_bytes(content.replace(b"PK\1\2", b"none"))
    assert call("predict", str(model), str(tmp_path / "in"), "--out", str(tmp_path / "out")) == 3
    assert list(pd.read_csv(tmp_path / "out" / "refused.csv")["code"]) == ["bad_archive"]


def test_models_may_come_last(model: Path, negative: Path, tmp_path: Path) -> None:
    assert call("predict", str(negative), str(model), "--out", str(tmp_path / "out")) == 0
    assert len(read_results(tmp_path / "out")) == 1


def test_an_archive_beside_a_study_is_read_or_leads_to_exit_code_3(
    model: Path, negative: Path, studies: Path, tmp_path: Path
) -> None:
    folder = os.fsdecode("Köln".encode("latin-1"))
    (inbox := tmp_path / "in" / folder).mkdir(parents=True)
    shutil.copytree(negative, inbox / "A")
    (inbox / "A" / "notes.txt").write_text("of no matter")
    uid = pydicom.dcmread(list_slices(negative)[0], stop_before_pixels=True).StudyInstanceUID
    other = min(path for path in studies.iterdir() if path.name != uid[-6:])
    with tarfile.open(inbox / "study.tar.gz", "w:gz") as archive:
        archive.add(other, folder)
    all_outputs = ("--write", "page", "sr", "sc")
    for number, (name, code, wanted) in enumerate(
        (("viewer.exe", 0, all_outputs), ("more.7z", 3, ()), ("scan.nii", 3, ()))
    ):
        (inbox / name).write_bytes(bytes(300))
        out = tmp_path / f"out{number}"
        assert call("predict", str(model), str(tmp_path / "in"), *wanted, "--out", str(out)) == code
        listed = pd.read_csv(out / "refused.csv").set_index("path")["code"]
        assert listed.filter(like=name).size == 1
        assert listed.index.str.startswith(f"{tmp_path}/in/K\\xf6ln/").all()
        assert len(read_results(out)) == 2
        assert pd.read_csv(out / "refused_outputs.csv").empty
        (inbox / name).unlink()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{studies}"], "is not a model"),
        (["{damaged}", "{studies}"], "is not a model, or it is damaged"),
        (["{model}"], "nothing to read"),
        (["{model}", "nowhere"], "nowhere does not exist"),
        (["{model}", "{studies}", "--tta", "twirl"], "tta=twirl: expected some of flip, scale, reverse"),
        (["{model}", "{studies}", "--threads", "0"], "threads=0"),
        (["{model}", "{studies}", "--mode", "777"], "--mode 777: give three digits such as 640"),
    ],
)
def test_wrong_usage_is_one_message(
    model: Path, studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments, message
) -> None:
    damaged = tmp_path / "damaged.zip"
    content = model.read_bytes()
    damaged.write_bytes(content.replace(b"PK\1\2", b"none"))
    given = [each.format(model=model, studies=studies, damaged=damaged) for each in arguments]
    assert call("predict", *given, "--out", str(tmp_path / "out")) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def truncate(files: list[Path]) -> None:
    content = files[4].read_bytes()
    files[4].write_bytes(content[: len(content) // 2])


def empty(files: list[Path]) -> None:
    files[-1].write_bytes(b"")


def overwrite(files: list[Path]) -> None:
    files[0].write_bytes(bytes(2000) + files[0].read_bytes()[2000:])


def remove(files: list[Path]) -> None:
    files[6].unlink()


def change(files: list[Path], numbers: Iterator[int], edit: Callable[[pydicom.Dataset], None]) -> None:
    for number in numbers:
        ds = pydicom.dcmread(files[number])
        edit(ds)
        ds.save_as(files[number])


def shift(files: list[Path]) -> None:
    change(files, range(len(files)), lambda ds: setattr(ds, "RescaleIntercept", ds.RescaleIntercept + 150))


def raise_one(files: list[Path]) -> None:
    change(files, [5], lambda ds: setattr(ds, "RescaleIntercept", ds.RescaleIntercept + 1000))


def move(files: list[Path]) -> None:
    def edit(ds: pydicom.Dataset) -> None:
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], ds.ImagePositionPatient[2] + 400]

    change(files, [5], edit)


def rename(files: list[Path]) -> None:
    change(files, [3], lambda ds: setattr(ds, "PatientID", "SOMEBODY"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, Reason.UNREAD_SLICE),
        (empty, Reason.STRAY_FILE),
        (overwrite, Reason.STRAY_FILE),
        (remove, Reason.GAP),
        (shift, Reason.IMPLAUSIBLE_HU),
        (raise_one, Reason.IMPLAUSIBLE_SLICE),
        (move, Reason.GAP),
        (rename, Reason.MIXED_PATIENTS),
    ],
)
def test_a_damaged_study_is_never_negative(model: Path, negative: Path, damage, reason) -> None:
    damage(list_slices(negative))
    result = predict_one(model, negative)
    assert result.outcome is Outcome.INDETERMINATE
    assert reason in [each.code for each in result.reasons]


def test_pixels_that_cannot_be_decoded_are_an_unread_slice(model: Path, negative: Path, damage) -> None:
    damage(list_slices(negative)[4])
    result = predict_one(model, negative)
    assert result.outcome is Outcome.INDETERMINATE
    assert "corrupt 1" in next(each.detail for each in result.reasons if each.code == Reason.UNREAD_SLICE)
    assert len(result.slices) == len(list(negative.iterdir())) - 1


def turn(files: list[Path]) -> None:
    """Turns the pixels by a quarter, and leaves the geometry as it was."""
    for path in files:
        ds = pydicom.dcmread(path)
        ds.PixelData = np.ascontiguousarray(np.rot90(ds.pixel_array)).tobytes()
        ds.save_as(path)


def turn_over(files: list[Path]) -> None:
    """Puts the pixels of the last slice in the place of those of the first, and so on."""
    pixels = [pydicom.dcmread(path).PixelData for path in files]
    for path, other in zip(files, reversed(pixels), strict=True):
        ds = pydicom.dcmread(path)
        ds.PixelData = other
        ds.save_as(path)


@pytest.mark.parametrize("edit", [turn, turn_over])
def test_a_turned_head_is_never_negative_and_stays_positive(
    negative: Path, tmp_path: Path, edit: Callable[[list[Path]], None]
) -> None:
    edit(list_slices(negative))
    for threshold, outcome in ((0.999999, Outcome.INDETERMINATE), (1e-6, Outcome.POSITIVE)):
        result = predict_one(write_model(tmp_path / f"{outcome}.zip", threshold), negative)
        assert result.outcome is outcome
        assert Reason.TURNED in {each.code for each in result.reasons}


def lose_most(files: list[Path]) -> None:
    for path in files[3:]:
        path.unlink()


def cut_most(files: list[Path]) -> None:
    for path in files[3:]:
        path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("damage", "kernel", "reasons"),
    [
        (lose_most, "BONE", {Reason.ONLY_BONE_KERNEL}),
        (cut_most, "BONE", {Reason.ONLY_BONE_KERNEL, Reason.UNREAD_SLICE}),
        (cut_most, "SOFT", {Reason.UNREAD_SLICE}),
        (lose_most, "SOFT", set()),  # another whole series for soft tissue
    ],
)
def test_another_series_does_not_hide_that_the_better_one_is_damaged(
    model: Path, negative: Path, damage, kernel, reasons
) -> None:
    (negative / "soft").mkdir()
    for path in negative.glob("*.dcm"):
        ds = pydicom.dcmread(path)
        ds.ConvolutionKernel = "SOFT"
        ds.SeriesInstanceUID += ".1"
        ds.SOPInstanceUID += ".1"
        ds.save_as(negative / "soft" / path.name)
    for path in negative.glob("*.dcm"):
        change([path], [0], lambda ds: setattr(ds, "ConvolutionKernel", kernel))
    damage(list_slices(negative / "soft"))
    result = predict_one(model, negative)
    assert {each.code for each in result.reasons} == reasons
    assert result.outcome is (Outcome.INDETERMINATE if reasons else Outcome.NEGATIVE)


@pytest.mark.parametrize(
    ("threshold", "limit", "reason"),
    [
        (None, 1e6, Reason.NO_DECISION),
        (0.999999, None, Reason.NO_REFERENCE),
        (0.999999, 1e-3, Reason.UNLIKE_TRAINING),
    ],
)
def test_a_model_that_cannot_be_believed_says_negative_of_nothing(
    studies: Path, tmp_path: Path, threshold, limit, reason
) -> None:
    model = write_model(tmp_path / "model.zip", threshold, limit=limit)
    for result in Predictor.load(model).predict(studies):
        assert result.outcome is Outcome.INDETERMINATE
        assert [each.code for each in result.reasons] == [reason]


def test_sparse_headers_get_a_result_and_no_dicom_objects(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantom(tmp_path / "sparse", patients=2, seed=2, size=64)
    out = tmp_path / "out"
    assert (
        call("predict", str(model), str(tmp_path / "sparse"), "--out", str(out), "--write", "sr", "page") == 0
    )
    assert pd.read_csv(out / "studies.csv")["outcome"].notna().all()
    refused = pd.read_csv(out / "refused_outputs.csv")
    assert list(refused["output"]) == ["sr", "sr"]
    assert set(refused["code"]) <= {"missing_attribute", "invalid_uid"}
    assert not (out / "dicom").exists()
    assert "2 outputs could not be written" in capsys.readouterr().out
    assert len(list((out / "pages").iterdir())) == 3


def test_what_is_not_head_ct_is_refused_with_a_code(
    model: Path, studies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    shutil.copytree(next(studies.iterdir()), study)
    change(list_slices(study), range(len(list_slices(study))), lambda ds: setattr(ds, "Modality", "MR"))
    (study / "notes.bin").write_bytes(b"\x00\xff" * 300)
    out = tmp_path / "out"
    assert call("predict", str(model), str(study), "--out", str(out)) == 3
    table = pd.read_csv(out / "studies.csv")
    assert list(table["refusal"]) == ["not_ct"]
    assert table["outcome"].isna().all()
    assert "not read, not_ct: 1" in capsys.readouterr().out
    assert read_json(out / "results" / "0001.json").slices == ()


@pytest.mark.parametrize(
    ("edit", "code", "said"),
    [
        (lambda ds: setattr(ds, "RescaleIntercept", ds.RescaleIntercept + 150), 0, "INDETERMINATE: 1"),
        (lambda ds: setattr(ds, "RescaleIntercept", ds.RescaleIntercept + 1000), 0, "INDETERMINATE: 1"),
        (lambda ds: delattr(ds, "RescaleIntercept"), 3, "not read, all_refused: 1"),
    ],
)
def test_a_study_is_read_where_it_has_an_outcome(
    model: Path,
    negative: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[pydicom.Dataset], None],
    code: int,
    said: str,
) -> None:
    slices = list_slices(negative)
    change(slices, range(len(slices)), edit)
    assert call("predict", str(model), str(negative), "--out", str(tmp_path / "out")) == code
    assert said in capsys.readouterr().out


@pytest.mark.trains
def test_an_ensemble_averages_and_a_calibration_file_replaces_what_models_carry(
    model: Path, studies: Path, tmp_path: Path
) -> None:
    other, study = (
        write_model(tmp_path / "other.zip", 0.4, seed=1, spec=InputSpec(size=96)),
        next(studies.iterdir()),
    )
    one, two = (predict_one(path, study) for path in (model, other))
    (both,) = Predictor.load(model, other).predict(study)
    for label in LABELS:
        assert both.labels[label].prob == pytest.approx((one.labels[label].prob + two.labels[label].prob) / 2)
    thresholds = [each.labels["any"].threshold for each in (one, two)]
    assert both.labels["any"].threshold == pytest.approx(np.mean(thresholds))
    for label, prob in both.slices[3].probs.items():
        assert prob == pytest.approx((one.slices[3].probs[label] + two.slices[3].probs[label]) / 2)
    decision = make_decision(0.125, pooling="mean")
    write_calibration({"study": decision}, tmp_path / "calibration.json")
    out = tmp_path / "out"
    given = (str(model), str(other), str(study), "--calibration", str(tmp_path / "calibration.json"))
    assert call("predict", *given, "--out", str(out)) == 0
    result = read_json(out / "results" / "0001.json")
    assert result.labels["any"].threshold == 0.125
    probs = np.array([each.probs["any"] for each in result.slices])
    assert result.labels["any"].prob == pytest.approx(probs.mean())
    assert set(read_predictions(out / "slices.csv")[WEIGHTS_COLUMN]) == {""}


@pytest.mark.trains
def test_flips_are_averaged(model: Path, studies: Path, tmp_path: Path) -> None:
    study = next(studies.iterdir())
    plain, (flipped,) = predict_one(model, study), Predictor.load(model, tta=["flip"]).predict(study)
    assert flipped.algorithm.tta == ("flip",)
    assert flipped.distance == plain.distance
    assert flipped.slices[0].probs != plain.slices[0].probs
    assert call("bundle", str(model), str(tmp_path / "flip.zip"), "--tta", "flip") == 0
    again, (without,) = (
        predict_one(tmp_path / "flip.zip", study),
        Predictor.load(tmp_path / "flip.zip", tta=[]).predict(study),
    )
    assert (again.algorithm.tta, again.slices) == (("flip",), flipped.slices)
    assert (without.algorithm.tta, without.slices) == ((), plain.slices)
    with pytest.raises(UserError, match="different test-time augmentations"):
        Predictor.load(model, tmp_path / "flip.zip")


@pytest.mark.trains
def test_arrays_in_memory_give_what_files_give(model: Path, studies: Path) -> None:
    study = next(studies.iterdir())
    result, predictor = predict_one(model, study), Predictor.load(model)
    slices = [read_hu(path) for path in list_slices(study)]
    scores = predictor.predict_hu(slices)
    assert scores.probs.shape == (1, len(slices), len(LABELS))
    assert (scores.probs[0] == [list(each.probs.values()) for each in result.slices]).all()
    assert scores.distance[0] == result.distance
    (found,) = find_studies([study], scratch=study, progress=False).studies
    assert predictor.predict_study(found) == result
    for wrong in ([], [np.zeros((4, 4, 3))], [np.full((64, 64), np.nan)]):
        with pytest.raises(UserError):
            predictor.predict_hu(wrong)
    for image in (np.full((64, 64), 200, np.uint8), np.full((64, 64), 0.3)):
        with pytest.raises(UserError, match=r"like an image after a window: expected HU"):
            predictor.predict_hu([image])


def test_the_headers_window_is_needed_where_the_model_takes_it(tmp_path: Path, negative: Path) -> None:
    model = write_model(tmp_path / "model.zip", spec=InputSpec(size=64, windows=("dicom",)))
    assert predict_one(model, negative).outcome is not None
    change(list_slices(negative), [2], lambda ds: delattr(ds, "WindowWidth"))
    refusal = predict_one(model, negative).refusal
    assert refusal is not None
    assert refusal.code == "no_window"
    with pytest.raises(UserError, match="window of the header"):
        Predictor.load(model).predict_hu([read_hu(next(negative.iterdir()))])


def test_the_list_of_studies_is_complete_and_positive_ones_come_first(predicted: Path) -> None:
    text = (predicted / "pages" / "index.html").read_text()
    table = pd.read_csv(predicted / "studies.csv")
    rows = re.findall(r'<tr data-number="(\d+)".*?data-outcome="([A-Z ]+)".*?</tr>', text, re.S)
    assert sorted(int(number) for number, _ in rows) == table["number"].tolist()
    outcomes = table.set_index("number")["outcome"].fillna("NOT ANALYZED")
    assert all(outcomes[int(number)] == outcome for number, outcome in rows)
    order = ["POSITIVE", "INDETERMINATE", "NOT ANALYZED", "NEGATIVE"]
    assert [outcome for _, outcome in rows] == sorted((o for _, o in rows), key=order.index)
    links = re.findall(r'href="([^"]+)"', text)
    assert links == [f"{int(number):04d}.html" for number, _ in rows]
    assert all((predicted / "pages" / link).is_file() for link in links)
    assert text.count('src="data:image/jpeg;base64,') == (outcomes != "NOT ANALYZED").sum()


def test_pages_show_attributes_that_are_asked_for(model: Path, negative: Path, tmp_path: Path) -> None:
    slices = list_slices(negative)
    change(slices, range(len(slices)), lambda ds: setattr(ds, "SeriesDescription", "Head <5 mm>"))
    header = pydicom.dcmread(slices[0], stop_before_pixels=True)
    change(slices, range(len(slices)), lambda ds: setattr(ds, "AccessionNumber", "A-17"))
    shown = ("--show", "PatientID", "AccessionNumber", "StudyDate", "SeriesDescription")
    out = tmp_path / "out"
    command = ("predict", str(model), str(negative), "--out", str(out), "--write", "page", "--mode", "640")
    assert call(*command, *shown) == 0
    assert {path.stat().st_mode & 0o777 for path in out.rglob("*")} == {0o640, 0o750}
    date = f"{header.StudyDate[:4]}-{header.StudyDate[4:6]}-{header.StudyDate[6:]}"
    for page in (out / "pages").iterdir():
        text = html.unescape(page.read_text())
        assert f"PatientID: {header.PatientID}" in text
        assert f"Study date: {date}" in text
        assert "Accession number: A-17" in text
        assert "Series description: Head <5 mm>" in text
        assert "Head <5" not in page.read_text()  # never read as markup
    result = read_json(out / "results" / "0001.json")
    assert (result.AccessionNumber, result.StudyDate) == ("A-17", header.StudyDate)


def test_a_result_says_when_it_was_made_and_no_more_of_the_header(predicted: Path) -> None:
    for path in (predicted / "results").iterdir():
        result, now = read_json(path), datetime.now(UTC)
        assert (result.AccessionNumber, result.StudyDate) == (None, None)
        assert result.timing is not None
        begun, done = (datetime.fromisoformat(at) for at in (result.timing.begun_at, result.timing.done_at))
        assert now - timedelta(days=1) < begun <= done <= now
        assert min(result.timing.reading, result.timing.network, result.timing.writing) > 0


def test_pages_name_no_patient_and_no_file(predicted: Path, studies: Path) -> None:
    first = pydicom.dcmread(next(studies.rglob("*.dcm")))
    table = pd.read_csv(predicted / "studies.csv")
    names = {
        *table["PatientID"],
        *table["StudyInstanceUID"],
        *table["SeriesInstanceUID"],
        str(first.PatientName),
    }
    for page in (predicted / "pages").iterdir():
        text = page.read_text()
        assert not [name for name in names if name in text]
        assert str(studies) not in text
