"""The list of studies: sorted, complete, without attributes that nobody asked for, and made for many rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from results import GAP, make_refused, make_result

from ich.outputs.pages import write_study_page
from ich.outputs.pages.index import INDEX, write_index
from ich.outputs.pages.study import Attributes
from ich.schema.results import LabelResult, StudyResult


def list_rows(folder: Path) -> list[str]:
    return re.findall(r"<tr data-number=.*?</tr>", (folder / INDEX).read_text(encoding="utf-8"), re.S)


def find_number(row: str) -> int:
    found = re.search(r'data-number="(\d+)"', row)
    assert found is not None
    return int(found[1])


def set_prob(result: StudyResult, prob: float) -> StudyResult:
    return replace(
        result, labels={**result.labels, "any": LabelResult(prob, 0.4, result.labels["any"].positive)}
    )


def write_list(results: Sequence[StudyResult], folder: Path) -> list[str]:
    write_index(results, folder, {})
    return list_rows(folder)


def test_positive_studies_come_first_and_the_most_probable_of_them(tmp_path: Path) -> None:
    results = [
        make_result(number=1, present=()),
        make_refused(2),
        set_prob(make_result(number=3), 0.6),
        make_result(number=4, present=(), reasons=[GAP]),
        set_prob(make_result(number=5, reasons=[GAP]), 0.99999),
        set_prob(make_result(number=6, present=()), 0.2),
    ]
    rows = write_list(results, tmp_path)
    assert [find_number(row) for row in rows] == [5, 3, 4, 2, 6, 1]
    assert ">&gt;0.99<" in rows[0]
    assert "Slices seem to be missing between others" in rows[0]
    assert "Not analyzed: no axial head series (localizer only)" in rows[3]
    assert "href" not in "".join(rows)  # no study has a page
    assert (tmp_path / INDEX).stat().st_mode & 0o077 == 0


def test_a_row_has_the_picture_and_the_attributes_of_its_page(tmp_path: Path) -> None:
    asked = Attributes({"StudyDate": "20240102"})
    results = [make_result(number=1), make_result(number=2)]
    write_study_page(results[0], [], tmp_path / "0001.html", attributes=asked)
    write_study_page(results[1], [], tmp_path / "0002.html")
    (tmp_path / "0003.html").write_text("of an earlier version")
    results.append(make_result(number=3))
    write_index(results, tmp_path, {n: f"{n:04d}.html" for n in (1, 2, 3)})
    rows = list_rows(tmp_path)
    assert ["Study date: 2024-01-02" in row for row in rows] == [True, False, False]
    assert [re.findall('href="(.*?)"', row) for row in rows] == [[f"{n:04d}.html"] for n in (1, 2, 3)]
    write_study_page(results[0], [], tmp_path / "0001.html")
    write_index(results, tmp_path, {n: f"{n:04d}.html" for n in (1, 2, 3)})
    text = (tmp_path / INDEX).read_text(encoding="utf-8")
    assert "2024" not in text
    for result in results:
        assert not [uid for uid in (result.PatientID, result.StudyInstanceUID) if f">{uid}" in text]
    assert not re.search(r'(?:src|href)="(?!data:|\d{4}\.html")|@import|url\(', text)
