"""``ich evaluate`` from its arguments to its files."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pypdf
import pytest
from command import call
from pptx import Presentation
from predictions import make_table

from ich.calibration.files import read_calibration
from ich.evaluation_report import write_evaluation
from ich.index import build_index, find_labels, read_labels
from ich.index.joining import join_labels
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier
from ich.schema import DISCLAIMER, LABELS, SUBTYPES, InputSpec
from ich.tables import PROB_COLUMNS, TARGET_COLUMNS, UIDS, make_predictions, write_table

MARK = "ZQMARK"
FAST = ("--replicates", "30")
FILES = {"report.html", "metrics.json", "model_card.md", "claim.md"}


def mark(table: pd.DataFrame) -> pd.DataFrame:
    """Puts a mark into every UID and PatientID."""
    columns = [column for column in table if column.endswith(("UID", "ID"))]
    return table.assign(**{column: f"{MARK}-" + table[column] for column in columns})[
        [*UIDS, "part", *PROB_COLUMNS, *TARGET_COLUMNS]
    ]


def keep(table: pd.DataFrame, *subtypes: str) -> pd.DataFrame:
    """A table whose other subtypes are all negative: there is less to draw."""
    left_out = [f"target_{label}" for label in SUBTYPES if label not in subtypes]
    return table.assign(**dict.fromkeys(left_out, 0.0))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a run leaves it, without a model."""
    folder = tmp_path_factory.mktemp("user") / f"{MARK} clinic" / "run"
    folder.mkdir(parents=True)
    for part, seed in (("test", 0), ("val", 1)):
        table = keep(make_table(patients=40, seed=seed, part=part), "subdural")
        write_table(mark(table), folder / f"predictions_{part}.csv")
    (folder / "config.yaml").write_text(
        f"model: {{backbone: resnet18}}\ndata: {{root: '/data/{MARK}', split: patient}}\n"
    )
    return folder


@pytest.fixture(scope="module")
def evaluated(run_dir: Path) -> Path:
    """All that can be had of predictions alone, in a process that ends in an error where it took torch."""
    program = "import sys; from ich.cli import main; main(); assert 'torch' not in sys.modules"
    wanted = ("--pdf", "--slides", "--write-calibration", str(run_dir / "calibration.json"))
    arguments = ("evaluate", str(run_dir / "predictions_test.csv"), *FAST, *wanted)
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    return run_dir / "evaluation"


def decode(path: Path) -> str:
    if path.suffix == ".pdf":
        return " ".join(page.extract_text() for page in pypdf.PdfReader(path).pages)
    if path.suffix == ".pptx":
        shapes = (shape for slide in Presentation(str(path)).slides for shape in slide.shapes)
        return " ".join(shape.text_frame.text for shape in shapes if shape.has_text_frame)
    return path.read_bytes().decode("utf-8", errors="replace")


def test_only_the_owner_can_read_the_files(evaluated: Path, run_dir: Path) -> None:
    names = {path.name for path in evaluated.iterdir()}
    assert FILES | {"report.pdf", "slides.pptx", "slice_roc.png", "study_roc.png", "timelines.png"} <= names
    for path in [evaluated, run_dir / "calibration.json", *evaluated.iterdir()]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    for name in (*FILES, "report.pdf", "slides.pptx"):
        assert DISCLAIMER in decode(evaluated / name)


def test_a_notebook_writes_what_the_command_writes(evaluated: Path, run_dir: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    written = write_evaluation(str(run_dir), tmp_path / "out", replicates=30, tell=lines.append)
    assert written.folder == tmp_path / "out"
    assert written.data is not None
    assert written.data.evaluation.patients == 40
    assert lines == ["calibration and operating points: from predictions_val.csv beside predictions_test.csv"]
    names = {path.name for path in evaluated.iterdir()} - {"report.pdf", "slides.pptx"}
    assert {path.name for path in written.folder.iterdir()} == names
    for name in names:
        assert (written.folder / name).read_bytes() == (evaluated / name).read_bytes(), name


def test_the_command_and_the_function_take_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", "--help") == 0
    shown = set(re.findall(r"--([a-z-]+)", capsys.readouterr().out)) - {"help"}
    taken = {name.replace("_", "-") for name in inspect.signature(write_evaluation).parameters}
    assert taken - {"predictions", "tell", "trusted"} == shown - {"trust"}


def test_figures_are_a_stable_schema(evaluated: Path) -> None:
    figures = json.loads((evaluated / "metrics.json").read_text())
    assert figures["schema"] == "ich evaluation 1"
    assert list(figures["levels"]) == ["slice", "study", "patient"]
    auroc = figures["levels"]["study"]["labels"]["any"]["auroc"]
    assert auroc["low"] < auroc["value"] < auroc["high"]
    assert figures["levels"]["slice"]["labels"]["any"]["operating_point"]["rule"] == "sensitivity>=0.95"
    report = decode(evaluated / "report.html")
    assert f"{auroc['value']:.3f} ({auroc['low']:.3f}-{auroc['high']:.3f})" in report


def test_nothing_names_a_patient_or_a_folder(evaluated: Path, run_dir: Path) -> None:
    for path in [run_dir / "calibration.json", *evaluated.iterdir()]:
        assert MARK not in decode(path), path
        assert MARK not in path.name


def test_calibration_is_what_the_report_uses(evaluated: Path, run_dir: Path) -> None:
    decisions = read_calibration(run_dir / "calibration.json")
    figures = json.loads((evaluated / "metrics.json").read_text())["levels"]
    assert decisions.keys() == {"slice", "study"}
    for level, decision in decisions.items():
        point = decision.operating_points["any"]
        assert point is not None
        assert figures[level]["labels"]["any"]["operating_point"]["threshold"] == point.threshold


def test_validation_part_is_named_or_found(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, out = run_dir / "predictions_test.csv", tmp_path / "out"
    assert call("evaluate", str(predictions), *FAST, "--out", str(out)) == 0
    assert "from predictions_val.csv beside predictions_test.csv" in capsys.readouterr().out
    keep(pd.read_csv(predictions)).to_csv(tmp_path / "other.csv", index=False)
    val = ("--val", str(run_dir / "predictions_val.csv"))
    assert call("evaluate", str(tmp_path / "other.csv"), *FAST, *val, "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "beside" not in printed
    assert re.search(r"the test set: \d+ slices of 40 patients", printed)
    assert str(out) in printed
    assert "Operating points by study: not available" not in decode(out / "report.html")


def test_models_are_compared_and_averaged(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = keep(pd.read_csv(run_dir / "predictions_test.csv"))
    first = tmp_path / "predictions_test.csv"
    shutil.copy(run_dir / "config.yaml", tmp_path)
    write_table(table, first)
    for label in LABELS:
        table[f"prob_{label}"] = 1 - table[f"prob_{label}"]
    write_table(table, tmp_path / "worse.csv")
    arguments = [str(first), str(tmp_path / "worse.csv"), *FAST]
    assert call("evaluate", *arguments, "--ensemble", "--out", str(tmp_path / "out")) == 0
    assert f"B: {tmp_path / 'worse.csv'}" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    (pair,) = figures["comparison"]["pairs"]
    assert (pair["a"], pair["b"]) == ("A (resnet18)", "B")
    assert pair["labels"]["any"]["auroc"]["low"] > 0
    assert figures["levels"]["slice"]["labels"]["any"]["auroc"]["value"] == pytest.approx(0.5)
    assert "the mean of 2 models" in decode(tmp_path / "out" / "report.html")


@pytest.fixture(scope="module")
def judged(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions without targets on the phantom, made of its labels and chance."""
    index = build_index(phantom).table
    table, _ = join_labels(index, read_labels(find_labels(phantom)))
    rng = np.random.default_rng(0)
    probs = np.clip(0.5 * table[list(LABELS)].to_numpy() + 0.5 * rng.random((len(table), 6)), 0, 1)
    table[list(LABELS)] = np.nan
    path = tmp_path_factory.mktemp("judged") / "predictions.csv"
    write_table(make_predictions(table, "test", probs), path)
    return path


@pytest.fixture(scope="module")
def illustrated(phantom: Path, judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the index, the pixels and a checkpoint add, in ``out``, and a submission."""
    folder = tmp_path_factory.mktemp("illustrated")
    labels = read_labels(find_labels(phantom)).reset_index()
    labels["subdural"] = labels["any"]  # and no other subtype: there is less to draw
    labels[[label for label in SUBTYPES if label != "subdural"]] = 0
    labels["side"] = np.where(np.arange(len(labels)) % 2, "left", "right")
    labels.to_csv(folder / "labels.csv", index=False)
    model = SliceClassifier("test_resnet", input=InputSpec(size=64, neighbors=1), pretrained=False).net
    write_bundle(model.metadata, model.state_dict(), folder / "model.zip")
    given = ("--labels", str(folder / "labels.csv"), "--root", str(phantom), *write_sample(judged, folder))
    wanted = ("--checkpoint", str(folder / "model.zip"), "--by", "encoding", "side", "BitsStored")
    assert call("evaluate", str(judged), *given, *wanted, *FAST, "--out", str(folder / "out")) == 0
    return folder / "out"


def list_answers(table: pd.DataFrame) -> list[str]:
    """The lines that a submission has."""
    return [f"{uid}_{label}" for uid in table["SOPInstanceUID"] for label in LABELS]


def write_sample(judged: Path, folder: Path) -> tuple[str, str]:
    """A sample submission, as it is given to the command."""
    sample = pd.DataFrame({"ID": list_answers(pd.read_csv(judged)), "Label": 0})
    sample.to_csv(folder / "sample.csv", index=False)
    return "--submission", str(folder / "sample.csv")


def test_index_and_pixels_add_subgroups_and_galleries(illustrated: Path, judged: Path) -> None:
    rows = json.loads((illustrated / "metrics.json").read_text())["subgroups"]
    assert list(dict.fromkeys(row["column"] for row in rows)) == ["encoding", "side", "BitsStored"]
    assert {row["group"] for row in rows if row["column"] == "side"} == {"left", "right"}
    listed = pd.read_csv(illustrated / "galleries.csv")
    assert set(listed["gallery"]) == {"false negatives", "false positives"}
    table = pd.read_csv(judged)
    assert (table["SOPInstanceUID"].iloc[listed["row"]].to_numpy() == listed["SOPInstanceUID"]).all()
    for _, slices in listed.groupby("gallery"):
        assert slices["StudyInstanceUID"].is_unique
    missed = listed[listed["gallery"] == "false negatives"]
    assert table["prob_any"].iloc[missed["row"]].is_monotonic_increasing
    names = {path.name for path in illustrated.iterdir()}
    assert {"false_negatives_1.png", "false_positives_1.png", "subgroups_any.png"} <= names
    report = decode(illustrated / "report.html")
    assert "Operating points by study: not available" in report
    assert not [uid for uid in table["SOPInstanceUID"] if uid in report]
    assert not [name for name in table["PatientID"].unique() if name in report]


def test_checkpoint_adds_heat_maps(illustrated: Path) -> None:
    assert "Lines mark a quarter (dotted)" in decode(illustrated / "report.html")
    assert "HiResCAM heat maps" in decode(illustrated / "claim.md")


def test_submission_is_written(
    illustrated: Path, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(judged)
    written = pd.read_csv(illustrated / "submission.csv")
    assert written["ID"].tolist() == list_answers(table)
    assert np.allclose(written["Label"], table[[f"prob_{label}" for label in LABELS]].to_numpy().ravel())
    sample = write_sample(judged, tmp_path)
    assert call("evaluate", str(judged), *sample, "--out", str(tmp_path / "blind")) == 0
    assert "nothing to evaluate" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "blind").iterdir()] == ["submission.csv"]


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert call("evaluate", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error ")
    assert len(printed.err.strip().splitlines()) == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(prob_any=1.5), "outside [0, 1]"),
        (lambda table: table.assign(prob_any=np.nan), "missing or outside [0, 1]"),
        (lambda table: table.iloc[:0], "nothing to evaluate"),
        (lambda table: pd.concat([table, table]), "more than once"),
        (lambda table: table.drop(columns="prob_subdural"), "lacks the columns prob_subdural"),
        (lambda table: table.drop(columns=[c for c in table if c.startswith("target")]), "--labels"),
        (lambda table: table.assign(target_any=0.5), "targets other than 0, 1"),
        (lambda table: table.assign(target_any="no"), "holds 'no' in target_any: expected 0, 1 or nothing"),
        (lambda table: table.assign(prob_any="0,5"), "holds '0,5' in prob_any: expected a number"),
    ],
)
def test_bad_tables_are_one_message(change, message, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "table.csv"
    change(mark(make_table(patients=8))).to_csv(path, index=False)
    assert message in refuse(capsys, str(path), *FAST, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_semicolons_between_columns_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table.csv"
    mark(make_table(patients=8)).to_csv(path, index=False, sep=";")
    assert "; it has SOPInstanceUID;SeriesInstanceUID;" in refuse(capsys, str(path), *FAST)


def test_a_wrong_rule_is_refused_without_a_validation_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.csv"
    mark(make_table(patients=8)).to_csv(path, index=False)
    out = ["--out", str(tmp_path / "out")]
    assert "rule=sensitivity>=95" in refuse(capsys, str(path), *FAST, "--rule", "sensitivity>=95", *out)


def test_bad_arguments_are_one_message(
    run_dir: Path, phantom: Path, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = str(run_dir / "predictions_test.csv")
    (tmp_path / "none.csv").write_bytes(b"\x00\xff no table")
    (tmp_path / "none.ckpt").write_bytes(b"not a checkpoint")
    labels = str(find_labels(phantom))
    for arguments, message in [
        ([str(tmp_path / "missing.csv")], "missing.csv"),
        ([str(tmp_path / "none.csv")], "none.csv"),
        ([predictions, "--labels", labels], "no slice has a label"),
        ([predictions, "--index", str(tmp_path / "none.csv")], "is not an index"),
        ([predictions, "--by", "side"], "no such column"),
        ([predictions, "--by", "PatientID"], "identifies patients or files"),
        ([predictions, "--rule", "luck>=1"], "rule=luck"),
        ([predictions, "--replicates", "0"], "replicates=0"),
        ([predictions, "--ensemble"], "two or more"),
        ([predictions, predictions.replace("_test", "_val")], "slices"),
        ([predictions, "--val", predictions], "tested"),
        ([predictions, "--checkpoint", str(tmp_path / "none.ckpt")], "none.ckpt"),
        ([predictions, "--root", str(tmp_path)], "no DICOM file"),
        ([str(judged)], "has no targets"),
    ]:
        assert message in refuse(capsys, *arguments, "--out", str(tmp_path / "out")), arguments
    assert not (tmp_path / "out").exists()


def test_the_folder_of_a_run_gives_its_predictions(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ["--submission", str(tmp_path / "none.csv")]  # refused, but only after the tables are read
    out = ["--out", str(tmp_path / "out")]
    assert "none.csv" in refuse(capsys, str(run_dir), *sample, *out)
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    assert f"{predicted} holds none of predictions_test.csv, predictions_oof.csv, slices.csv" in refuse(
        capsys, str(predicted), *sample, *out
    )
    shutil.copy(run_dir / "predictions_test.csv", predicted / "slices.csv")
    assert "none.csv" in refuse(capsys, str(predicted), *sample, *out)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", "--help") == 0
    printed = capsys.readouterr().out
    assert "ich evaluate runs/mine/predictions_test.csv --root" in printed
    assert DISCLAIMER in printed
