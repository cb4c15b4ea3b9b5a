"""``ich predict`` of studies at an address."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pandas as pd
import pytest
from command import call
from remotes import upload
from test_predict import write_model
from test_studies import describe

from ich.remote import RemotePath
from ich.schema import UserError
from ich.schema.codes import Refusal
from ich.studies import fetching, find_studies


def test_studies_are_those_of_the_folder(
    department: Path, memory: RemotePath, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(department, memory)
    monkeypatch.setattr(fetching, "_TOGETHER", 100_000)  # bytes, so that the files are several batches
    found = find_studies([memory, memory, department], scratch=scratch)
    assert describe(found) == describe(find_studies([department], scratch=scratch))
    assert found.refused.empty


def test_a_single_file_and_a_large_one_are_read(
    department: Path, memory: RemotePath, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = min(department.rglob("IM*"))
    (memory / "IM1").write_bytes(path.read_bytes())
    expected = describe(find_studies([path], scratch=scratch))
    assert describe(find_studies([memory / "IM1"], scratch=scratch)) == expected
    monkeypatch.setattr(fetching, "_SMALL", 100)  # bytes
    assert describe(find_studies([memory], scratch=scratch)) == expected


def test_what_is_not_read_is_listed(
    memory: RemotePath, department: Path, scratch: Path, tmp_path: Path
) -> None:
    slices = sorted(department.rglob("IM*"))[:2]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(slices[0], "IM1")
    (memory / "study/IM1").write_bytes(slices[1].read_bytes())
    (memory / "study/a.zip").write_bytes((tmp_path / "a.zip").read_bytes())
    (memory / "study/notes.txt").write_bytes(b"x" * 1000)
    (memory / "study/none.dcm").write_bytes(b"")
    found = find_studies([memory], scratch=scratch)
    assert len(found.studies) == 1
    refused = {Path(path).name: code for path, code in found.refused[["path", "code"]].to_numpy()}
    assert refused["a.zip"] == Refusal.ARCHIVE
    assert refused["notes.txt"] == Refusal.OTHER_KIND
    assert all(path.startswith(f"{memory}/study/") for path in found.refused["path"])


def test_nothing_and_a_wrong_address_are_explained(memory: RemotePath, scratch: Path) -> None:
    with pytest.raises(UserError, match="holds no file: check the spelling"):
        find_studies([memory], scratch=scratch)
    with pytest.raises(UserError, match="fsspec knows no addresses that begin with nix://"):
        find_studies([RemotePath("nix://a")], scratch=scratch)


def test_the_command_reads_an_address(
    whole_study: Path, memory: RemotePath, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(whole_study, memory)
    model = write_model(tmp_path / "model.zip")
    for name, given in (("here", str(whole_study)), ("there", str(memory))):
        assert call("predict", str(model), given, "--out", str(tmp_path / name), "--gpus", "0") == 0
    here, there = (pd.read_csv(tmp_path / name / "slices.csv") for name in ("here", "there"))
    probs = [column for column in here if column.startswith("prob")]
    assert probs
    pd.testing.assert_frame_equal(here[["SOPInstanceUID", *probs]], there[["SOPInstanceUID", *probs]])
    assert call("predict", str(memory), "--out", str(tmp_path / "none")) == 2
    assert "is not a model" in capsys.readouterr().err
