"""``ich predict --ray``: processes of Ray give the results of one process, also if some of them die."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command import call
from test_predict import write_model

from ich.phantom import write_phantom
from ich.predict import Predictor
from ich.predict.cluster import Cluster, Places, Worker, _plan
from ich.predict.folder import HEADERS
from ich.predict.reading import Reading
from ich.predict.run import predict_folder
from ich.schema import UserError
from ich.schema.codes import SetAside
from ich.schema.results import StudyResult

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


class Deadly(Predictor):
    """Ends its process with certain studies, a number of times each; ``notes`` is a folder that counts."""

    notes: Path
    deaths: dict[str, int]

    def make_result(self, reading: Reading, number: int = 1) -> StudyResult:
        name = reading.study.StudyInstanceUID
        for death in range(self.deaths.get(name, 0)):
            if not (note := self.notes / f"{name}-{death}").exists():
                note.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().make_result(reading, number)


def load_deadly(model: Path, notes: Path, deaths: dict[str, int], **options: Any) -> Deadly:
    found = Deadly.load(model, **options)
    found.notes, found.deaths = notes, deaths
    return found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen tiny studies."""
    root = tmp_path_factory.mktemp("archive") / "phantom"
    write_phantom(root, patients=10, seed=8, size=64, conformant=True)
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.zip")


_TIMES = re.compile(rb'"timing": {[^}]*}')


def read_all(out: Path) -> dict[str, bytes]:
    # Kept headers are no results: those of files that are too young at the time of reading are left out.
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != HEADERS]
    return {str(path.relative_to(out)): _TIMES.sub(b"", path.read_bytes()) for path in files}


@needs_ray
@pytest.mark.races
@pytest.mark.filterwarnings("ignore")  # those of Ray, and its processes and pipes that Python finds open
def test_workers_that_die_change_nothing(
    model: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))  # the workers import ``load_deadly``
    predictor = Predictor.load(model, threads=1, gpus=0)
    alone = predict_folder(predictor, [archive], tmp_path / "alone", progress=False)
    assert alone.done >= 10
    once, always = (alone.results[place].StudyInstanceUID for place in (1, 4))
    load = partial(load_deadly, model, tmp_path, {once: 1, always: 9})
    cluster = Cluster("local", load, workers=2, threads=1, gpus=0)
    summary = predict_folder(predictor, [archive], tmp_path / "ray", progress=False, cluster=cluster)
    assert summary.done == alone.done
    assert len(list(tmp_path.glob(f"{once}-*"))) == 1
    assert len(list(tmp_path.glob(f"{always}-*"))) == 3
    refused = summary.results[4]
    assert (refused.StudyInstanceUID, refused.outcome) == (always, None)
    assert refused.refusal is not None
    assert refused.refusal.code == SetAside.CRASHED
    assert {each.set_aside for each in refused.series} == {refused.refusal}
    before, after = read_all(tmp_path / "alone"), read_all(tmp_path / "ray")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"results/0005.json", "studies.csv", "series.csv", "slices.csv"}
    tables = [pd.read_csv(tmp_path / name / "slices.csv", dtype=str) for name in ("alone", "ray")]
    whole = [table[table["StudyInstanceUID"] != always].reset_index(drop=True) for table in tables]
    pd.testing.assert_frame_equal(*whole)


@pytest.fixture
def seen(archive: Path, tmp_path: Path) -> Places:
    file = next(archive.rglob("*.dcm"))
    return Places((tmp_path,), file, file.stat().st_size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folders": (Path("/nowhere"),)}, "/nowhere does not exist here; all machines of the cluster need"),
        ({"file": Path("/nowhere")}, "/nowhere: No such file or directory; all machines of the cluster need"),
        ({"size": 7}, "bytes here instead of 7; all machines of the cluster need the same folders"),
    ],
)
def test_a_worker_that_cannot_see_the_folders_is_refused(
    seen: Places, model: Path, change: dict[str, Any], message: str
) -> None:
    worker = Worker(partial(Predictor.load, model, threads=1, gpus=0))
    assert worker.start(seen) == Predictor.load(model, gpus=0).describe()
    with pytest.raises(UserError, match="a worker on ") as caught:
        worker.start(seen._replace(**change))
    assert message in str(caught.value)


def test_workers_take_gpus_first_and_share_the_cores() -> None:
    def plan(cores: int, there: int, **options: Any) -> list[tuple[int, int]]:
        kinds = _plan(Cluster("auto", Predictor.load, **options), {"CPU": cores, "GPU": there})
        return [(kind["num_cpus"], kind["num_gpus"]) for kind in kinds]

    assert plan(8, 0) == [(4, 0), (4, 0)]
    assert plan(2, 0) == [(2, 0)]
    assert plan(16, 2) == [(8, 1), (8, 1)]
    assert plan(16, 2, workers=4) == [(4, 1), (4, 1), (4, 0), (4, 0)]
    assert plan(16, 2, gpus=0, workers=2, threads=1) == [(1, 0), (1, 0)]
    with pytest.raises(UserError, match="--threads 4: the cluster has 2 cores"):
        plan(2, 0, threads=4)


def test_wrong_use_is_one_message(model: Path, archive: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    command = "predict", str(model), str(archive), "--out", str(tmp_path / "out"), "--gpus", "0"
    assert call(*command, "--workers", "2") == 2
    assert "--workers 2: give --ray" in capsys.readouterr().err
    assert call(*command, "--ray", "local", "--workers", "0") == 2
    monkeypatch.setitem(sys.modules, "ray", None)
    assert call(*command, "--ray", "local") == 2
    assert "pip install 'ich[ray]'" in capsys.readouterr().err
