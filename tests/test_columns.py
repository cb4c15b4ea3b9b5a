"""Label files whose columns have names of their own, through the library and all commands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import call
from drawings import label_studies

from ich.data import HeadCTDataModule
from ich.index import read_labels, read_study_labels
from ich.index.labels import read_any_labels
from ich.schema import InputSpec, UserError
from ich.schema.labels import RSNA_LABELS
from ich.tables import make_predictions, read_predictions, write_table

OWN = {"SOPInstanceUID": "image", "epidural": "EDH", "any": "R1:ICH"}


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        (["image,EDH,R1:ICH", "s,0,0", "t,1,1"], OWN),
        (["Image ;edh; r1:ich;note", "s;0;0;x", "t;1;1;"], OWN),
        (["image,PatientID,EDH,R1:ICH,SOP", "s,a,0,0,", "t,a,1,1,"], OWN),
        (["any,epidural,ID", "0,0,s", "1,1,t"], {"any": "epidural", "epidural": "any"}),
        (["ID,image,epidural,any", "x,s,0,0", "x,t,1,1"], {"SOPInstanceUID": "image"}),
        (
            ["name;value", "s_any;0", "t_any;1", "s_epidural;0", "t_epidural;1"],
            {"ID": "name", "Label": "value"},
        ),
    ],
)
def test_a_label_file_is_read_by_its_own_names(tmp_path: Path, lines: list[str], columns: Any) -> None:
    labels = read_labels(write(tmp_path / "x.csv", *lines), columns=columns).sort_index()
    assert labels.index.tolist() == ["s", "t"]
    assert labels.index.name == "SOPInstanceUID"
    np.testing.assert_array_equal(labels[["epidural", "any"]], [[0, 0], [1, 1]])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"epidurl": "EDH"},
            r"columns=\{epidurl: EDH\}: epidurl is neither .* nearest is epidural, of epidural,",
        ),
        ({"EDH": "epidural"}, "EDH is neither a label nor a key.* The known name comes first"),
        ({"epidural": "SDH"}, r"x.csv has no such column; it has 'image', 'EDH', 'any', 'ICH', 'ich'$"),
        ({"epidural": 3}, "expected the name of a column in quotes"),
        ({"epidural": " "}, "expected the name of a column in quotes"),
        (
            {"any": "ICH"},
            r"has 3 columns for any: 'any', 'ICH', 'ich'; keep one. Its columns are 'image', 'EDH',",
        ),
        ({"any": "EDH", "epidural": "edh"}, "one column cannot be both; leave one out"),
        (
            {"epidural": "EDH"},
            r"columns 'image', .*; expected ID and Label, or SOPInstanceUID or ID.*columns, such",
        ),
    ],
)
def test_names_that_leave_a_doubt_are_refused_with_the_columns_of_the_file(
    tmp_path: Path, columns: Mapping[str, Any], message: str
) -> None:
    path = write(tmp_path / "x.csv", "image,EDH,any,ICH,ich", "s,1,1,1,1")
    with pytest.raises(UserError, match=message):
        read_labels(path, columns=columns)


def test_the_key_that_is_named_counts_and_gives_labels_of_studies_or_patients(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "StudyInstanceUID,mrn,any", "1.2,p,1", "1.3,q,0")
    assert read_study_labels(path).index.tolist() == ["1.2", "1.3"]
    found = read_study_labels(path, columns={"PatientID": "MRN"})
    assert (found.index.name, found.index.tolist()) == ("PatientID", ["p", "q"])
    assert read_any_labels(path, RSNA_LABELS, {"PatientID": "mrn"}).index.name == "PatientID"
    with pytest.raises(UserError, match=r"Labels of studies or patients are for data\.study_labels=FILE"):
        read_labels(path)


@pytest.fixture(scope="module")
def files(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of the phantom's slices and studies, in files with names of their own."""
    folder = tmp_path_factory.mktemp("named")
    names = {"SOPInstanceUID": "image", "epidural": "EDH", "StudyInstanceUID": "exam"}
    slices = read_labels(phantom / "stage_2_train.csv").reset_index()
    slices.rename(columns=names).to_csv(folder / "slices.csv", index=False)
    studies = pd.read_csv(label_studies(phantom, folder / "studies.csv"))[["StudyInstanceUID", "any"]]
    studies.rename(columns=names).to_csv(folder / "studies.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def make_data(phantom: Path, files: Path) -> Callable[..., HeadCTDataModule]:
    def make(**given: Any) -> HeadCTDataModule:
        paths = {name: str(files / given.pop(name)) for name in ("labels", "study_labels") if name in given}
        return HeadCTDataModule(str(phantom), InputSpec(size=32), num_workers=0, **paths, **given)

    return make


def test_a_data_module_takes_slices_and_studies_by_their_own_names(
    phantom: Path, make_data: Callable[..., HeadCTDataModule]
) -> None:
    given = {"labels": "slices.csv", "study_labels": "studies.csv"}
    named = make_data(
        columns={"SOPInstanceUID": "image", "epidural": "EDH", "StudyInstanceUID": "exam"}, **given
    )
    named.setup()
    plain = HeadCTDataModule(str(phantom), InputSpec(size=32), num_workers=0)
    plain.setup()
    for name in ("epidural", "any"):
        assert named.table.set_index("path")[name].equals(plain.table.set_index("path")[name])
    assert named.by_study
    of_studies = make_data(study_labels="studies.csv", columns={"StudyInstanceUID": "exam"})
    of_studies.setup()
    assert of_studies.hides_slices  # the label of a study is not that of each of its slices
    assert of_studies.table["study_target_any"].notna().all()


def test_a_label_that_the_file_does_not_have_is_a_warning(
    make_data: Callable[..., HeadCTDataModule], caplog: pytest.LogCaptureFixture
) -> None:
    make_data(labels="slices.csv", columns={"SOPInstanceUID": "image"}).setup()
    assert "slices.csv has no label of epidural" in caplog.text
    assert "give data.columns={epidural: COLUMN}" in caplog.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"labels": "slices.csv", "columns": {"subdural": "SDH"}},
            r"no such column: .*slices.csv has 'image', 'EDH'",
        ),
        (
            {"labels": "slices.csv", "study_labels": "studies.csv", "columns": {"any": "ICH"}},
            r"no such column: .*slices.csv has 'image', .*; .*studies.csv has 'exam', 'any'",
        ),
    ],
)
def test_wrong_names_are_refused_before_headers_are_read(
    make_data: Callable[..., HeadCTDataModule], given: dict[str, Any], message: str, monkeypatch
) -> None:
    monkeypatch.setattr("ich.data.source.build_index", lambda *_, **__: pytest.fail("headers were read"))
    with pytest.raises(UserError, match=message):
        make_data(**given).prepare_data()


def test_the_command_line_says_what_is_wrong_with_a_name(
    phantom: Path, files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["data=rsna", f"data.root={phantom}", f"data.labels={files / 'slices.csv'}"]
    tiny = ["model.backbone=test_resnet", "model.pretrained=false", "run_dir=run"]
    assert call("train", *data, *tiny, "data.columns={SOPInstanceUID: picture}") == 2
    assert "columns={SOPInstanceUID: picture}" in "".join(capsys.readouterr().err.split("\n"))
    assert not (tmp_path / "run").exists()
    given = ["--labels", str(files / "slices.csv"), "--out", "page", "--slices", "20"]
    assert call("explore", str(phantom), *given, "--columns", "SOPInstanceUID=image", "epidural=EDH") == 0
    assert call("explore", str(phantom), *given, "--columns", "any=EDH", "any=ICH") == 2
    assert "--columns: any=EDH and any=ICH; keep one" in capsys.readouterr().err
    with pytest.raises(AssertionError):
        assert call("explore", str(phantom), *given, "--columns", "any") == 0


def test_a_shard_and_an_evaluation_take_own_names(
    phantom: Path, files: Path, tmp_path: Path, make_data: Callable[..., HeadCTDataModule]
) -> None:
    renamed = ("--columns", "SOPInstanceUID=image", "epidural=EDH")
    out, labels = str(tmp_path / "shards"), ("--labels", str(files / "slices.csv"))
    assert call("shard", str(phantom), out, *labels, "--size", "32", *renamed) == 0
    data = make_data(labels="slices.csv", columns={"SOPInstanceUID": "image", "epidural": "EDH"})
    data.setup()
    probs = np.tile(np.linspace(0.1, 0.9, len(data.table))[:, None], 6)
    table = make_predictions(data.table, "test", probs)
    expected = pd.read_csv(tmp_path / "shards/labels.csv").set_index("SOPInstanceUID")["epidural"]
    assert expected.loc[table["SOPInstanceUID"]].tolist() == table["target_epidural"].tolist()
    targets = [name for name in table if name.startswith("target_")]
    write_table(table.assign(**dict.fromkeys(targets, np.nan)), tmp_path / "predictions.csv")
    assert len(read_predictions(tmp_path / "predictions.csv")) == len(table)
    given = ["--replicates", "20", "--out", str(tmp_path / "out")]
    assert call("evaluate", str(tmp_path / "predictions.csv"), *labels, *renamed, *given) == 0
    figures = json.loads((tmp_path / "out/metrics.json").read_text())["levels"]
    positives = figures["slice"]["labels"]["epidural"]["counts"]["positives"]
    assert positives == int(table["target_epidural"].sum())
    studies = ("--labels", str(files / "studies.csv"), "--columns", "StudyInstanceUID=exam")
    assert call("evaluate", str(tmp_path / "predictions.csv"), *studies, *given) == 0
    levels = json.loads((tmp_path / "out/metrics.json").read_text())["levels"]
    assert "slice" not in levels
    assert levels["study"]["labels"]["any"]["counts"]["units"] == table["StudyInstanceUID"].nunique()
