"""Reads inputs into a folder of results: finds, reads, decides and writes studies, none of them twice."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.progress import MofNCompleteColumn, Progress

from ich.files import for_owner_only
from ich.outputs import INDEX
from ich.outputs.tables import write_tables
from ich.predict import Predictor
from ich.predict.cluster import Cluster, read_by_cluster
from ich.predict.folder import HEADERS, PAGES, SCRATCH, ResultFolder
from ich.predict.watched import Watched
from ich.predict.writing import WRITTEN, Done, write_outputs
from ich.progress import make_bar
from ich.remote import AnyPath
from ich.schema import UserError
from ich.schema.results import StudyResult
from ich.studies import find_studies
from ich.studies.study import Studies
from ich.tables import write_table

__all__ = ["Summary", "predict_folder", "watch_folder"]

LOOK_SECONDS = 2.0
"""Time between two looks at a folder that is watched."""

_log = logging.getLogger(__name__)
REFUSED, REFUSED_OUTPUTS = "refused.csv", "refused_outputs.csv"


@dataclass(frozen=True)
class Summary:
    """Summary of a call.

    Attributes:
        done: Number of studies in the inputs that were read now.
        skipped: Number of studies in the inputs that were finished before.
        refused: Files that belong to no study: ``path``, ``code``, ``detail``.
        results: All results in the folder. Each is read from there when it is asked for.
        outcomes: Number of these results by outcome.
        set_aside: Number of studies that could not be read by code, of ``SetAside``.
        refused_outputs: Outputs that could not be written: ``number``, ``output``, ``code``, ``detail``.
    """

    done: int
    skipped: int
    refused: pd.DataFrame
    results: Sequence[StudyResult]
    outcomes: Mapping[str, int]
    set_aside: Mapping[str, int]
    refused_outputs: pd.DataFrame


def predict_folder(
    predictor: Predictor,
    inputs: Sequence[AnyPath],
    out: Path,
    outputs: Collection[str] = (),
    progress: bool = True,
    cluster: Cluster | None = None,
    shown: Collection[str] = (),
    watched: Watched | None = None,
) -> Summary:
    """Reads all studies of some inputs, and writes the results, readable by the owner only.

    ``out`` then holds ``results/0001.json`` and so on, one file per study. It also holds ``studies.csv``,
    ``series.csv`` and ``slices.csv``, and ``refused.csv`` with the files that belong to no study. On request
    it has ``pages/0001.html`` with ``pages/index.html``, and ``dicom/0001/``. A study that is already in
    ``out`` is not read again.

    Args:
        predictor: The predictor that holds the models.
        inputs: Files, folders, also at addresses, archives or a DICOMDIR; see ``find_studies``.
        out: A new folder, or the folder of an earlier call with the same models and settings.
        outputs: Some of ``ich.outputs.OUTPUTS``.
        progress: Show a bar on a terminal.
        cluster: Workers of Ray that read the studies; None reads them in this process.
        shown: Attributes that pages and results name, some of ``ich.outputs.SHOWN``; those of earlier calls
            stay.
        watched: Says which files and studies have to wait for a later call, and when this one has to end;
            None waits for nothing.

    Raises:
        UserError: If an input does not exist, ``out`` cannot be used, or ``out`` lies in an input. With a
            cluster, see ``ich.predict.cluster.read_by_cluster``.
    """
    _require_apart(inputs, out)
    with for_owner_only(), ResultFolder(out, predictor.describe()) as folder:
        with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=out) as scratch:
            left, skipped, refused = _find_left(inputs, folder, outputs, Path(scratch), progress, watched)
            if cluster is None:
                done = _read(predictor, left, folder, outputs, shown)
            else:
                seen = [*(path for path in inputs if isinstance(path, Path)), Path(scratch)]
                done = read_by_cluster(cluster, predictor, left, folder, outputs, seen, shown)
            with _writing(out):
                _keep(left, done, folder, progress, watched)
        counts, refused_outputs = _Counts(), _list_refused_outputs(folder)
        with _writing(out):
            results = counts.count(folder.list_results())
            write_tables(results, out, predictor.weights, predictor.label_set)
            write_table(refused, out / REFUSED)
            write_table(refused_outputs, out / REFUSED_OUTPUTS)
            _write_index(folder)
    _log_inputs(len(left), skipped, refused)
    return Summary(
        done=len(left),
        skipped=skipped,
        refused=refused,
        results=folder.list_results(),
        outcomes=counts.outcomes,
        set_aside=counts.set_aside,
        refused_outputs=refused_outputs,
    )


def _log_inputs(left: int, skipped: int, refused: pd.DataFrame) -> None:
    _log.info("%d studies were to be read, %d are left as they are", left, skipped)
    if len(refused):
        counts = refused["code"].value_counts().sort_index()
        said = ", ".join(f"{code} {count}" for code, count in counts.items())
        _log.info("%d files belong to no study: %s", len(refused), said)


def watch_folder(
    predictor: Predictor,
    folder: Path,
    out: Path,
    outputs: Collection[str] = (),
    shown: Collection[str] = (),
    *,
    settle: float,
    is_stopped: Callable[[], bool],
    report: Callable[[Summary], None],
) -> None:
    """Reads the studies of a folder as they come, each once its files have not changed for some time.

    A study that gets more files later is read again, and its result is replaced.

    Args:
        predictor: The predictor that holds the models.
        folder: The folder, with all that is below it.
        out: As of ``predict_folder``, which also says what is written.
        outputs: Some of ``ich.outputs.OUTPUTS``.
        shown: Attributes that pages and results name, some of ``ich.outputs.SHOWN``.
        settle: Seconds for which the files of a study must not have changed.
        is_stopped: Says whether to end, after the study that is being read.
        report: Gets the summary of each time that studies were read.

    Raises:
        UserError: If the folder does not exist, or ``out`` cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"--watch {folder} is not a folder, or it does not exist")
    _require_apart([folder], out)
    watched = Watched(folder, settle, is_stopped)
    while not is_stopped():
        if watched.look():
            report(predict_folder(predictor, [folder], out, outputs, shown=shown, watched=watched))
            watched.note_done()
        time.sleep(LOOK_SECONDS)


def _require_apart(inputs: Sequence[AnyPath], out: Path) -> None:
    """Refuses a folder inside an input, because the next call would read its outputs as inputs."""
    for path in inputs:
        if isinstance(path, Path) and path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise UserError(f"--out {out} lies inside the input {path}: name a folder elsewhere")


def _find_left(
    inputs: Sequence[AnyPath],
    folder: ResultFolder,
    outputs: Collection[str],
    scratch: Path,
    progress: bool,
    watched: Watched | None,
) -> tuple[Studies, int, pd.DataFrame]:
    """Finds the studies that are to be read, the number of the others, and files that belong to none."""
    skipped = () if watched is None else watched.skipped
    kept = folder.path / HEADERS
    found = find_studies(inputs, scratch=scratch, kept=kept, progress=progress, skipped=skipped)
    every = found.studies.identities
    left = found.studies.take([place for place, study in enumerate(every) if not folder.has(study, outputs)])
    if watched is not None:
        left = watched.choose(left)
    return left, len(every) - len(left), found.refused


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to --out {out}: {error.strerror or error}; make room and run the command again; "
            "finished studies are kept"
        ) from error


def _read(
    predictor: Predictor,
    studies: Studies,
    folder: ResultFolder,
    outputs: Collection[str],
    shown: Collection[str],
) -> Iterator[Done]:
    """Reads studies in this process, and yields their results in their order."""
    for reading in predictor.read_ahead(studies):
        study = reading.study
        result = predictor.make_result(reading, folder.begin(study))
        page, objects = folder.locate_page(result.number), folder.locate_objects(result.number)
        net = predictor.explainable
        yield write_outputs(result, study, net, outputs, page=page, objects=objects, shown=shown)


def _keep(
    studies: Studies, results: Iterable[Done], folder: ResultFolder, progress: bool, watched: Watched | None
) -> None:
    """Saves the results of studies as they come, until a watch has to end."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with make_bar(columns, progress and len(studies) > 0) as bar:
        task = bar.add_task("Reading studies", total=len(studies))
        for study, (result, outputs) in zip(studies.identities, results, strict=True):
            folder.add(result, study.fingerprint, outputs)
            _log_result(result, outputs)
            bar.advance(task)
            if watched is not None and watched.is_stopped():
                break


def _log_result(result: StudyResult, outputs: Mapping[str, str]) -> None:
    """Logs what became of a study, whose key is its number.

    None of it is a warning, because the terminal would show these, and it gets a summary.
    """
    study = {"study": f"{result.number:04d}"}
    if result.refusal is None:
        _log.info("read: %s", result.outcome, extra=study)
    else:
        _log.info("not read: %s", result.refusal.code, extra=study)
    for output, state in outputs.items():
        if state != WRITTEN:
            _log.info("%s is not written: %s", output, state.partition(":")[0], extra=study)


class _Counts:
    """Counts of results that pass by, so that they need not stay in memory."""

    def __init__(self) -> None:
        self.outcomes, self.set_aside = Counter[str](), Counter[str]()

    def count(self, results: Iterable[StudyResult]) -> Iterator[StudyResult]:
        """Yields the same results."""
        for result in results:
            if result.outcome is not None:
                self.outcomes[str(result.outcome)] += 1
            if result.refusal is not None:
                self.set_aside[str(result.refusal.code)] += 1
            yield result


def _write_index(folder: ResultFolder) -> None:
    """Writes the list of studies beside their pages; without pages there is none."""
    written = (number for number, outputs in folder.list_outputs().items() if outputs.get("page") == WRITTEN)
    pages = {number: folder.locate_page(number).name for number in written}
    if not pages:
        (folder.path / PAGES / INDEX).unlink(missing_ok=True)
        return
    from ich.outputs.pages.index import write_index  # it imports matplotlib

    write_index(folder.list_results(), folder.path / PAGES, pages)


def _list_refused_outputs(folder: ResultFolder) -> pd.DataFrame:
    """Lists the outputs that were not written."""
    refused = [
        (number, output, *state.partition(": ")[::2])
        for number, outputs in folder.list_outputs().items()
        for output, state in outputs.items()
        if state != WRITTEN
    ]
    return pd.DataFrame(refused, columns=["number", "output", "code", "detail"])
