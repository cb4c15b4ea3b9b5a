"""The conformance statement, which is made from the tables of the code."""

from __future__ import annotations

from pathlib import Path

import pydicom
from results import make_result
from test_dicom_outputs import read_series

from ich.dicom.codecs import DECODERS
from ich.dicom.kind import CT_IMAGES
from ich.outputs.captures import write_key_images
from ich.outputs.sr import write_sr
from ich.phantom import write_phantom
from ich.serve.conformance import SENT, make_page
from ich.serve.receive.refusals import Status
from ich.serve.receive.syntaxes import VERIFICATION
from ich.serve.sending.commitment import STORAGE_COMMITMENT

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conformance.md"


def test_the_page_is_what_the_tables_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page()


def test_the_page_has_all_statuses_and_syntaxes() -> None:
    page = make_page()
    assert all(f"| 0x{status:04X} |" in page for status in Status)
    assert all(f"| {uid} |" in page for uid in DECODERS)


def test_the_page_says_what_others_have_to_offer() -> None:
    section = make_page().partition("## What others have to offer")[2].partition("\n## ")[0]
    rows = {row.split(" | ")[2]: row for row in section.splitlines() if row.startswith("| a ")}
    assert rows.keys() == {VERIFICATION, STORAGE_COMMITMENT, *filter(None, CT_IMAGES), *SENT}
    assert all(("| SCP |" in rows[uid]) == (uid in {STORAGE_COMMITMENT, *SENT}) for uid in rows)


def test_the_page_names_the_classes_of_what_is_written(tmp_path: Path) -> None:
    write_phantom(tmp_path / "phantom", patients=1, seed=5, size=64, conformant=True)
    series = read_series(tmp_path / "phantom" / "stage_2_train")
    result = make_result(series.index)
    write_sr(result, series.files, tmp_path / "report.dcm")
    paths = [tmp_path / "report.dcm", *write_key_images(result, series.files, tmp_path)]
    assert {pydicom.dcmread(path).SOPClassUID for path in paths} == set(SENT)
