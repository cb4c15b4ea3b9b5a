"""Folders and files whose names are not UTF-8: read, and shown in an escaped form wherever they are named."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from test_studies import describe, list_refused

from ich.files import escape_path, find_on_disk
from ich.index import build_index
from ich.schema import UserError
from ich.studies import find_studies

LATIN = os.fsdecode("Kölner Straße".encode("latin-1"))
SHOWN = r"K\xf6lner Stra\xdfe"


def test_a_path_comes_back_from_its_text() -> None:
    assert escape_path(f"a/{LATIN}/b") == f"a/{SHOWN}/b"
    assert find_on_disk(f"a/{SHOWN}/b") == f"a/{LATIN}/b"
    for plain in ("a/b.dcm", "Köln", r"C:\x1", r"\xzz"):
        assert escape_path(plain) == find_on_disk(plain) == plain


@pytest.fixture
def latin(department: Path) -> Path:
    """The department, with a folder and a file whose names are in Latin-1."""
    folder = min(department.iterdir()).rename(department / LATIN)
    min(folder.iterdir()).rename(folder / os.fsdecode("Schädel".encode("latin-1")))
    return department


def test_studies_are_found_in_such_folders(
    latin: Path, department: Path, scratch: Path, tmp_path: Path
) -> None:
    twin = shutil.copytree(latin, tmp_path / "twin")
    (twin / LATIN).rename(twin / "plain")
    expected = describe(find_studies([twin], scratch=scratch))
    (latin / LATIN / "cut.dcm").write_bytes(b"")
    for inputs in ([latin], [latin / LATIN, *(p for p in latin.iterdir() if p.name != LATIN)]):
        found = find_studies(inputs, scratch=scratch)
        assert sorted(uid for uid, *_ in describe(found)) == sorted(uid for uid, *_ in expected)
        assert found.refused["path"].tolist() == [f"{latin}/{SHOWN}/cut.dcm"]
    (latin / LATIN / "cut.dcm").unlink()
    assert describe(find_studies([latin], scratch=scratch)) == expected
    with tarfile.open(tmp_path / f"{LATIN}.tar", "w") as archive:
        archive.add(latin, LATIN)
    found = find_studies([tmp_path / f"{LATIN}.tar"], scratch=scratch)
    assert describe(found) == expected
    found.refused.to_csv(tmp_path / "refused.csv")


def test_such_a_folder_is_indexed_and_trained_on(phantom: Path, tmp_path: Path) -> None:
    root = tmp_path / LATIN
    shutil.copytree(phantom, root)
    (root / "stage_2_train").rename(root / LATIN)
    (root / LATIN / "empty").touch()
    index = build_index(root)
    expected = build_index(phantom, index_dir=tmp_path / "index").table
    assert index.table["path"].str.startswith(f"{SHOWN}/").all()
    assert index.table["SOPInstanceUID"].tolist() == expected["SOPInstanceUID"].tolist()
    assert f"{SHOWN}/empty" in index.refused["path"].tolist()
    kept = pd.read_parquet(io.BytesIO((root / ".ich/index.parquet").read_bytes()))
    for table in (kept, pd.read_csv(root / ".ich/refused.csv")):
        assert table["path"].str.contains(SHOWN, regex=False).any()
    pd.testing.assert_frame_equal(build_index(root).table, index.table)
    data, plain = (make_data(folder) for folder in (root, phantom))
    for batch, other in zip(data.test_dataloader(), plain.test_dataloader(), strict=True):
        assert batch["hu"].equal(other["hu"])


def make_data(root: Path):  # type: ignore[no-untyped-def]
    from ich.data import HeadCTDataModule
    from ich.schema import InputSpec

    data = HeadCTDataModule(str(root), InputSpec(size=32), num_workers=0)
    data.prepare_data()
    data.setup()
    return data


def test_a_name_that_is_another_s_text_is_refused(department: Path, scratch: Path) -> None:
    folders = sorted(department.iterdir())
    folders[0].rename(department / LATIN)
    folders[1].rename(department / SHOWN)
    found = find_studies([department], scratch=scratch)
    assert list_refused(found) == [(SHOWN, "unreadable")]
    assert folders[1].name in {study.StudyInstanceUID for study in found.studies}
    assert folders[0].name not in {study.StudyInstanceUID for study in found.studies}
    with pytest.raises(UserError, match="stands for two names"):
        find_studies([department / LATIN], scratch=scratch)


def test_messages_show_such_names_on_any_terminal(latin: Path, tmp_path: Path) -> None:
    for encoding in ("utf-8", "ascii"):
        for arguments in (["index", str(latin / LATIN)], ["index", str(latin / LATIN / "none")]):
            done = subprocess.run(
                [sys.executable, "-c", "from ich.cli import main; main()", *arguments],
                capture_output=True,
                check=False,
                env=os.environ | {"PYTHONIOENCODING": encoding},
                timeout=60,
            )
            assert done.returncode == (2 if arguments[1].endswith("none") else 0), done.stderr
            assert rb"K\udcf6lner" in done.stdout + done.stderr
            assert b"Traceback" not in done.stderr
