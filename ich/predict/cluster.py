"""Reads studies by processes of Ray, on this machine or on many, with the results of one process.

This process finds the studies, numbers them and writes what is read, in the order of their numbers. The
workers see the same folders. Each takes the next study when it is free, so none waits for a slower one.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ich.files import OWNER_ONLY, find_on_disk, for_owner_only, permitting
from ich.predict import Predictor
from ich.predict.folder import ResultFolder
from ich.predict.reading import refuse_study
from ich.predict.writing import Done, write_outputs
from ich.schema import UserError
from ich.schema.codes import SetAside
from ich.schema.results import Remark
from ich.studies import StudyFiles

LOCAL = "local"
"""Address that starts Ray on this machine, and ends it afterwards."""

ATTEMPTS = 3
"""How often a study is read if its workers die."""

_AHEAD = 16  # studies per worker that may be read while an earlier one is not
_START = 600.0  # seconds until the first worker must be ready
_MEMORY = 200 * 2**20  # bytes that Ray may share on this machine; headers of studies are small
_DEATHS = 3  # of workers without one that is ready


class Places(NamedTuple):
    """What a worker must see before it reads.

    Attributes:
        folders: Inputs, and a folder in that of the results.
        file: A file of a study.
        size: Its size, bytes.
    """

    folders: tuple[Path, ...]
    file: Path
    size: int


@dataclass(frozen=True)
class Cluster:
    """Workers of Ray.

    Attributes:
        address: ``LOCAL``, ``auto`` for the cluster that this machine belongs to, ``HOST:PORT`` or
            ``ray://HOST:PORT``.
        load: Loads the models in a worker, given ``gpus`` and ``threads``; must be picklable.
        workers: Number of workers. As many as there are GPUs take one each, and the others compute on the
            CPU. None means one for each GPU, or else one for every four cores.
        threads: CPU threads of a worker; None shares the cores among the workers.
        gpus: 0 uses no GPU; None uses what is there.
        mode: Permissions of the files that workers write, one of ``ich.files.MODES``.
    """

    address: str
    load: Callable[..., Predictor]
    workers: int | None = None
    threads: int | None = None
    gpus: int | None = None
    mode: str = OWNER_ONLY


class Worker:
    """What a process of Ray holds: the models.

    Args:
        load: Loads them.
        mode: Permissions of the files that it writes.
    """

    def __init__(self, load: Callable[[], Predictor], mode: str = OWNER_ONLY) -> None:
        self._load, self._mode = load, mode

    def start(self, places: Places) -> dict[str, Any]:
        """Loads the models.

        Returns:
            All settings that determine a result.

        Raises:
            UserError: If a folder or the models are not to be seen here.
        """
        try:
            _require_seen(places)
            self._predictor = self._load()
        except UserError as error:
            raise UserError(f"a worker on {os.uname().nodename}: {error}") from None
        return self._predictor.describe()

    def read(
        self,
        study: StudyFiles,
        number: int,
        outputs: Collection[str],
        page: Path,
        objects: Path,
        shown: Collection[str],
    ) -> Done:
        """Reads a study, and writes its outputs."""
        with permitting(self._mode):
            (reading,) = self._predictor.read_ahead([study])
            result = self._predictor.make_result(reading, number)
            net = self._predictor.explainable
            return write_outputs(result, study, net, outputs, page=page, objects=objects, shown=shown)


def _require_seen(places: Places) -> None:
    shared = "all machines of the cluster need the same folders, under the same names"
    for folder in places.folders:
        if not folder.exists():
            raise UserError(f"{folder} does not exist here; {shared}")
    try:
        size = places.file.stat().st_size
    except OSError as error:
        raise UserError(f"{places.file}: {error.strerror or error}; {shared}") from None
    if size != places.size:
        raise UserError(f"{places.file} has {size} bytes here instead of {places.size}; {shared}")


def read_by_cluster(
    cluster: Cluster,
    predictor: Predictor,
    studies: Sequence[StudyFiles],
    folder: ResultFolder,
    outputs: Collection[str],
    seen: Sequence[Path],
    shown: Collection[str] = (),
) -> Iterator[Done]:
    """Reads studies, and yields their results in their order.

    A study whose worker dies is read again by another, and set aside if its workers die each time.

    Args:
        cluster: The workers.
        predictor: The models, as this process has loaded them.
        studies: The studies.
        folder: Where the results go.
        outputs: Some of ``ich.outputs.OUTPUTS``, which the workers write.
        seen: Folders that each worker must see.
        shown: Attributes that pages and results name, some of ``ich.outputs.SHOWN``.

    Raises:
        UserError: If Ray is not installed or no worker can start, or if a worker cannot see the folders or
            loads other models.
    """
    if not studies:
        return
    with _joining(cluster) as ray:
        yield from _Pool(ray, cluster, predictor, folder, outputs, seen, shown).read(studies)


@contextmanager
def _joining(cluster: Cluster) -> Iterator[Any]:
    """Joins the cluster, or starts Ray on this machine; yields its module."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or Ray tells its makers of each start
    try:
        import ray
    except ImportError as error:
        raise UserError(f"--ray needs Ray ({error}): pip install 'ich[ray]'") from error
    options: dict[str, Any] = {"address": cluster.address}
    if cluster.address == LOCAL:
        cores = (cluster.workers or 1) * (cluster.threads or 1)
        options |= {"num_cpus": max(cores, os.cpu_count() or 1), "object_store_memory": _MEMORY}
        options |= {"include_dashboard": False}
    try:
        with for_owner_only():  # its logs, in the folder for temporary files
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many kinds
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--ray {cluster.address}: Ray does not answer ({reason}). `ray start --head` starts it on a "
            "machine, and `ray start --address=...` on the others. A cluster that wants a token needs "
            f"RAY_AUTH_MODE=token and the token. On this machine alone, use --ray {LOCAL}"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@dataclass
class _Task:
    """A study on its way.

    Attributes:
        place: Its place among the studies.
        study: Its files.
        number: Its number in the folder.
        deaths: Number of workers that died with it.
    """

    place: int
    study: StudyFiles
    number: int
    deaths: int = 0


class _Pool:
    """The workers, and the studies that they read."""

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        predictor: Predictor,
        folder: ResultFolder,
        outputs: Collection[str],
        seen: Sequence[Path],
        shown: Collection[str],
    ) -> None:
        self._ray, self._predictor, self._folder, self._outputs = ray, predictor, folder, tuple(outputs)
        self._shown = tuple(shown)
        self._seen = tuple(path.absolute() for path in seen)
        self._kinds = _plan(cluster, ray.cluster_resources())
        self._load, self._mode = cluster.load, cluster.mode
        self._running: dict[Any, tuple[Any, dict[str, int], _Task | None]] = {}
        self._idle: list[tuple[Any, dict[str, int]]] = []
        self._again: deque[_Task] = deque()
        self._done: dict[int, Done] = {}
        self._is_ready, self._deaths = False, 0

    def read(self, studies: Sequence[StudyFiles]) -> Iterator[Done]:
        """Reads studies, and yields their results in their order."""
        places = _find_places(self._seen, studies[0])
        for kind in self._kinds:
            self._start(kind, places)
        begun = given = 0
        while given < len(studies):
            while self._idle and (task := self._choose(studies, begun, given)):
                begun = max(begun, task.place + 1)
                self._assign(*self._idle.pop(), task)
            self._wait(places)
            while given in self._done:
                yield self._done.pop(given)
                given += 1

    def _choose(self, studies: Sequence[StudyFiles], begun: int, given: int) -> _Task | None:
        """Chooses what is read next: a study whose worker died, or the next one."""
        if self._again:
            return self._again.popleft()
        if begun == len(studies) or begun - given >= _AHEAD * len(self._kinds):
            return None
        study = studies[begun]
        return _Task(begun, study, self._folder.begin(study))

    def _start(self, kind: dict[str, int], places: Places) -> None:
        load = partial(self._load, threads=kind["num_cpus"], gpus=kind["num_gpus"])
        actor = self._ray.remote(Worker).options(**kind).remote(load, self._mode)
        self._running[actor.start.remote(places)] = actor, kind, None

    def _assign(self, actor: Any, kind: dict[str, int], task: _Task) -> None:
        study = replace(task.study, root=task.study.root.absolute())
        page, objects = self._folder.locate_page(task.number), self._folder.locate_objects(task.number)
        made = actor.read.remote(
            study, task.number, self._outputs, page.absolute(), objects.absolute(), self._shown
        )
        self._running[made] = actor, kind, task

    def _wait(self, places: Places) -> None:
        """Waits until a worker is ready, has read a study, or has died."""
        ended, _ = self._ray.wait(list(self._running), timeout=None if self._is_ready else _START)
        if not ended:
            raise UserError(
                f"no worker was ready after {_START:.0f} s: the cluster may be too busy for "
                f"{len(self._kinds)} workers like {self._kinds[0]}; give fewer --workers or --threads"
            )
        actor, kind, task = self._running.pop(ended[0])
        errors = self._ray.exceptions
        try:
            made = self._ray.get(ended[0])
        except errors.RayTaskError as error:
            if isinstance(error.cause, UserError | OSError):
                raise error.cause from None
            raise
        except errors.RayError as error:  # the process, its machine or the way to it is lost
            self._ray.kill(actor)
            self._note_death(task, error)
            self._start(kind, places)
            return
        if task is not None:
            self._done[task.place] = made
        elif made != self._predictor.describe():
            raise UserError("a worker has other models or another version of ich than this process")
        self._is_ready, self._deaths = True, 0
        self._idle.append((actor, kind))

    def _note_death(self, task: _Task | None, error: Exception) -> None:
        if task is None:
            self._deaths += 1
            if self._deaths >= _DEATHS:
                raise UserError(f"no worker can start: {' '.join(str(error).split())}") from None
            return
        task.deaths += 1
        if task.deaths < ATTEMPTS:
            self._again.append(task)
            return
        self._folder.clear(task.number)
        remark = Remark(SetAside.CRASHED, f"{ATTEMPTS} processes ended while they read the study")
        result = self._predictor.make_result(refuse_study(task.study, remark), task.number)
        self._done[task.place] = result, {}


def _plan(cluster: Cluster, resources: dict[str, float]) -> list[dict[str, int]]:
    """Plans the workers: what each takes of the cluster."""
    cores = int(resources.get("CPU", 0))
    gpus = 0 if cluster.gpus == 0 else int(resources.get("GPU", 0))
    workers = cluster.workers or gpus or max(1, cores // 4)
    threads = cluster.threads or max(1, cores // workers)
    if threads > cores:
        raise UserError(f"--threads {threads}: the cluster has {cores} cores")
    return [{"num_cpus": threads, "num_gpus": int(number < gpus)} for number in range(workers)]


def _find_places(seen: tuple[Path, ...], study: StudyFiles) -> Places:
    first = study.files.iloc[0]
    file = Path(find_on_disk(str(study.root.absolute() / first["path"])))
    return Places(seen, file, int(first["file_size"]))
