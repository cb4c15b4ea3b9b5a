"""``ich sweep``: the jobs of a multirun, ranked, with the reasons of those that failed."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest
from command import call

from ich.schema import UserError
from ich.sweeps import make_document, write_sweep
from ich.sweeps.names import LONGEST, find_number, name_job
from ich.sweeps.ranking import list_settings, make_table, measure_importance
from ich.sweeps.record import JobRecord, read_jobs, write_record


def write_jobs(folder: Path) -> None:
    """12 jobs of two settings; three failed. The learning rate explains most, the seed a little."""
    for number, (rate, seed) in enumerate(product(["1e-4", "1e-3", "1e-2", "1e-1"], ["0", "1", "2"])):
        shared = ("data.root=/secret/place", "+model.drop_rate=0.1")
        value = {"1e-4": 0.4, "1e-3": 0.2, "1e-2": 0.3}.get(rate)
        record = JobRecord(
            overrides=(*shared, f"data.split=/secret/{seed}.csv", f"optim.lr={rate}", f"seed={seed}"),
            value=None if value is None else value + 0.01 * int(seed),
            error="the loss is not finite" if value is None else None,
            seconds=90.0,
        )
        write_record(record, folder / name_job(number, record.overrides, ["data.root", "data.split"]))


def test_jobs_are_ranked_and_failures_named(tmp_path: Path) -> None:
    write_jobs(tmp_path)
    table = make_table(read_jobs(tmp_path))
    assert list_settings(table) == ["optim.lr", "seed"]
    assert table["job"].tolist() == [*"345678012", "9", "10", "11"]
    assert table["minutes"].tolist() == [1.5] * 12
    assert (table["error"] != "").sum() == 3
    document = make_document(read_jobs(tmp_path))
    assert document.subtitle == "9 jobs are done, 3 failed"
    assert [section.title for section in document.sections] == ["Jobs", "Jobs without a result", "Settings"]
    assert [picture.name for picture in document.pictures] == ["importance", "parallel"]


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), "3"),
        (("optim.lr=0.001", "seed=1"), "3_lr=0.001_seed=1"),
        (("+model.drop_rate=0.1", "~callbacks.timer"), "3_drop-rate=0.1"),
        (("model.backbone='a b/c'", "data.root=/secret"), "3_backbone=a-b-c"),
        (("data.first_sizes=[96,128]", "run_dir=köln"), "3_first-sizes=96-128_run-dir=k-ln"),
        (("input.windows=[]",), "3_windows"),
    ],
)
def test_a_job_is_named_by_its_settings(overrides: tuple[str, ...], name: str) -> None:
    assert name_job(3, overrides, left_out={"data.root"}) == name
    assert find_number(name) == "3"
    assert find_number(f"11-30_09-15-00_{name}") == "11-30_09-15-00_3"


def test_a_long_name_is_cut_and_stays_the_only_one() -> None:
    names = {name_job(number, [f"model.backbone={'x' * 300}"]) for number in range(3)}
    assert len(names) == 3
    assert max(map(len, names)) <= LONGEST


def test_importance_is_the_share_of_the_variance_between_values(tmp_path: Path) -> None:
    write_jobs(tmp_path)
    found = measure_importance(make_table(read_jobs(tmp_path)))
    # By hand: the means of the rates are 0.41, 0.21 and 0.31, those of the seeds 0.30, 0.31 and 0.32.
    between, within = 3 * (0.1**2 + 0.1**2), 3 * (0.01**2 + 0.01**2)
    assert list(found) == ["optim.lr", "seed"]
    assert found["optim.lr"] == pytest.approx(between / (between + within))
    assert found["seed"] == pytest.approx(within / (between + within))


def test_the_page_names_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jobs(tmp_path)
    assert call("sweep", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "9 jobs are done, 3 failed" in printed
    rows = [line.split() for line in printed.splitlines() if "1e-" in line]
    assert rows[0] == ["3", "0.2000", "1e-3", "0", "1.5"]
    assert len(rows) == 9
    page = (tmp_path / "sweep.html").read_text()
    assert "secret" not in page
    assert page.count("the loss is not finite") == 3
    assert "Research use only; not a medical device" in page
    assert len(re.findall("<img", page)) == 2


def test_a_ranking_shows_values_as_they_were_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, windows in enumerate(["[brain,bone]", "'a b'"]):
        record = JobRecord((f"input.windows={windows}",), value=0.5, error=None, seconds=60.0)
        write_record(record, tmp_path / str(number))
    assert call("sweep", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "[brain,bone]" in printed
    assert " a b " in printed


def test_a_multirun_without_a_finished_job_has_a_page(tmp_path: Path) -> None:
    write_record(JobRecord(("seed=0",), None, "no memory", 1.0), tmp_path / "0")
    write_record(JobRecord(("seed=1",), None, None, None), tmp_path / "1")
    _, document = write_sweep(tmp_path, tmp_path / "page.html")
    assert document.subtitle == "0 jobs are done, 1 failed, 1 have not ended"
    page = (tmp_path / "page.html").read_text()
    assert "no job is done" in page
    assert "it still runs, or its process was killed" in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"holds no job; expected .*/\*/job\.json, which `train\.py -m` writes"),
        ("{", r"job\.json is not JSON"),
        (json.dumps({"overrides": [], "value": "low"}), r"job\.json"),
    ],
)
def test_what_is_no_multirun_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "job.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_jobs(tmp_path)
