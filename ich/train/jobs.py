"""What Hydra composes: one run, or the jobs of a multirun, in this process or in those of a launcher."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from yaml import YAMLError

from ich.files import for_owner_only, replacing
from ich.folders import refusing_unwritable
from ich.models.own import check_trusted
from ich.schema import UserError
from ich.schema.exits import ExitCode
from ich.sweeps.names import name_job
from ich.sweeps.record import JobRecord, has_jobs, read_jobs, read_record, write_record
from ich.sweeps.terminal import render_ranking
from ich.train import start_log
from ich.train.command import VERSION_BASE
from ich.train.folds import ALL_FOLDS, pool_jobs
from ich.train.resume import find_newest, resume_config
from ich.train.run import train
from ich.train.signatures import register_signatures
from ich.train.trainer.launch import find_launch, is_first
from ich.train.trainer.signals import exit_at_once, handling_stops, is_requeued
from ich.train.trust import allowing

log = logging.getLogger("ich")

NO_NEWS = (
    ".*does not have many workers",
    "This DataLoader will create .* worker processes",  # ours are threads
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # 2026-11: between Lightning 2.6 and torch 2.15
)
"""Warnings of Lightning that do not help users of this program."""

SETTINGS = "multirun.yaml"
"""File with the settings of a multirun, in its folder."""

_LONGEST_ERROR = 200  # characters

# For hydra.sweep.subdir of the configuration. A process of a launcher imports this module for ``run_job``.
OmegaConf.register_new_resolver("job_folder", name_job, replace=True)


def run_jobs(conf: Path) -> list[str]:
    """Runs what Hydra composes of the program's arguments: one run, or with ``-m`` several jobs.

    Args:
        conf: The folder of the configuration.

    Returns:
        The jobs of a multirun that failed, and the groups of folds that could not be put together. The name
        of the multirun comes first if it ended before all jobs did.
    """
    if not is_first():  # what it finds before the training, the first process finds too
        log.setLevel(logging.CRITICAL)
    register_signatures()
    _claimed.clear()
    early: list[str] = []
    with _preparing():
        try:
            hydra.main(**VERSION_BASE, config_path=str(conf), config_name="config")(run_job)()
        except (UserError, HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # of a launcher that lost a process, or of a sweeper without any result
            if not any(has_jobs(folder) for folder, _ in _claimed):
                raise
            log.error("the multirun ended early: %s: %s", type(error).__name__, error)  # noqa: TRY400
            early = [folder.name for folder, _ in _claimed]
        return early + [name for folder, trusted in _claimed for name in _finish(folder, trusted)]


class ClaimFolder(Callback):
    """Claims the folder of a run. Notes that of a multirun, whose jobs may run in other processes."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra, which then makes the folder of the run, and would end in a traceback."""
        with _ending_in_one_message():
            _make_folder(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Is called by Hydra, in the process of the command."""
        with _ending_in_one_message():
            _claim(Path(config.hydra.sweep.dir), config)
            _claimed.append((Path(config.hydra.sweep.dir), check_trusted(config.trusted)))


@contextmanager
def _ending_in_one_message() -> Iterator[None]:
    try:
        yield
    except (UserError, OSError) as error:
        log.error("%s", error)  # noqa: TRY400 - one message, no traceback
        raise SystemExit(ExitCode.WRONG) from None


def _make_folder(folder: Path) -> None:
    with refusing_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)


_claimed: list[tuple[Path, tuple[str, ...]]] = []
"""The folder of the multirun of this process, with the code that it trusts."""


def _claim(sweep: Path, config: DictConfig) -> None:
    """Writes the settings of a multirun into its folder, unless that holds another multirun.

    The same settings give the same jobs, so the same command continues a multirun.
    """
    if has_jobs(sweep) and _read_settings(sweep) != config.hydra.overrides.task:
        raise UserError(
            f"{sweep} holds a multirun of other settings: name another folder with run_dir=, or give exactly "
            "its settings to continue it"
        )
    _make_folder(sweep)
    with replacing(sweep / SETTINGS) as partial:
        OmegaConf.save(config, partial)


def _read_settings(sweep: Path) -> Any:
    """Reads the settings of a multirun from the command line; None if its folder does not tell them."""
    try:
        return OmegaConf.select(OmegaConf.load(sweep / SETTINGS), "hydra.overrides.task")
    except (OSError, ValueError, YAMLError):
        return None


def run_job(cfg: DictConfig) -> float | None:
    """Runs a job that Hydra composed, in any process.

    Returns:
        The monitored metric; None if a job of a multirun has failed, as a sweeper expects it.
    """
    hydra_config = HydraConfig.get()
    made, overrides = Path(hydra_config.runtime.output_dir), list(hydra_config.overrides.task)
    several = hydra_config.mode is RunMode.MULTIRUN
    with _preparing():
        if several:
            return _run_one_of_several(cfg, made, overrides)
        try:
            with _ending_in_one_message():
                return _start(cfg, made, overrides, several=False)
        finally:
            with suppress(OSError):  # it holds something
                made.rmdir()


@contextmanager
def _preparing() -> Iterator[None]:
    """Prepares a process for a training, which may be that of the command or one of a launcher of Hydra."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for known in NO_NEWS:
        warnings.filterwarnings("ignore", message=known)
    start_log()
    with for_owner_only(), handling_stops(exit_at_once), allowing():
        yield


def _run_one_of_several(cfg: DictConfig, made: Path, overrides: Sequence[str]) -> float | None:
    """Runs a job, and writes what became of it. Its failure does not end the multirun.

    A job that is done is not run again, and one that had begun resumes.
    """
    before, began = read_record(made), JobRecord(tuple(overrides), value=None, error=None, seconds=None)
    if before is not None and before.overrides != began.overrides:
        log.error("%s holds a job of other settings, which stays; this job needs another folder", made)
        return None
    if before is not None and before.is_done:
        log.info("job %s is done since an earlier command", made.name)
        return before.value
    write_record(began, made)
    started, value, error = time.monotonic(), math.nan, None
    try:
        value = _start(cfg, made, overrides, several=True, again=before is not None)
    except UserError as raised:
        log.error("%s", raised)  # noqa: TRY400 - one message, no traceback
        error = raised.kept
    except OSError as raised:  # its message names a file
        log.error("%s", raised)  # noqa: TRY400
        error = raised.strerror or type(raised).__name__
    except Exception as raised:  # nobody foresaw it; its message may quote a file, and the terminal shows it
        log.exception("job %s failed", made.name)
        error = type(raised).__name__
    record = replace(
        began,
        value=value if math.isfinite(value) else None,
        error=None if error is None else " ".join(error.split())[:_LONGEST_ERROR],
        seconds=round(time.monotonic() - started, 1),
    )
    write_record(record, made)
    return record.value


def _start(
    cfg: DictConfig, made: Path, overrides: Sequence[str], *, several: bool, again: bool = False
) -> float:
    _require_one_training(cfg, overrides, several=several)
    if cfg.ckpt_path:
        run_dir = find_newest(made.parent) if cfg.ckpt_path == "last" else Path(cfg.ckpt_path)
        return train(resume_config(run_dir, list(overrides), cfg.trusted), run_dir)
    if (again or is_requeued()) and (made / "config.yaml").is_file():
        return train(resume_config(made, [], cfg.trusted), made)
    return train(cfg, made)


def _finish(sweep: Path, trusted: tuple[str, ...]) -> list[str]:
    """Ranks the jobs of a multirun, and puts folds together; returns what failed."""
    jobs = read_jobs(sweep)
    failures = [job.name for job in jobs if not job.record.is_done]
    if (ranking := render_ranking(jobs)) is not None:
        Console().print(ranking)
    log.info("%d jobs are done. A page with all of them: ich sweep %s", len(jobs) - len(failures), sweep)
    return [*failures, *pool_jobs(jobs, trusted)]


def _require_one_training(cfg: DictConfig, overrides: Sequence[str], *, several: bool) -> None:
    """Refuses what the processes of torchrun or SLURM cannot do together."""
    if find_launch() is None:
        return
    if several or cfg.data.get("fold") == ALL_FOLDS:
        raise UserError(
            "torchrun and srun start the processes of one training: start one command for each job or fold, "
            "such as data.fold=0, or use trainer.gpus without them"
        )
    if cfg.pretrain and not cfg.ckpt_path:
        raise UserError(
            "pretrain needs a command of its own under torchrun or srun: train on its data first, and then "
            "start with model.init_from=RUN/checkpoints/best.ckpt and pretrain=none"
        )
    if not cfg.ckpt_path and not any(each.startswith("run_dir=") for each in overrides):
        raise UserError(
            "run_dir must be given under torchrun or srun, because each process would name a folder by its "
            "own clock; for instance run_dir=runs/first"
        )
