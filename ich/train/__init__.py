"""From a configuration to a run's folder: data, model, training, and the tables and figures at the end."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import typing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

# Read when torch is imported: threads that wait for each other by spinning take the cores from the threads
# that read slices, which made a step four times slower on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hydra
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything
from rich.console import Console
from rich.logging import RichHandler
from torch.multiprocessing.spawn import ProcessRaisedException

from ich.files import for_owner_alone, replacing
from ich.index.split import write_split
from ich.model_files.checkpoint import CHECKPOINTS, find_checkpoint, read_checkpoint
from ich.models.self_supervised import SelfSupervised
from ich.progress.printing import printing
from ich.schema import UserError
from ich.tables import SETS, SLAB_COLUMN, hash_slices, write_table
from ich.tables.slabs import list_averaged
from ich.train.command import VERSION_BASE, reading_arguments
from ich.train.parts import Parts, build_parts
from ich.train.results import write_pretraining, write_results
from ich.train.resume import find_newest, require_same_split, resume_config, without_start
from ich.train.running import (
    LOG,
    keeping_log,
    occupying,
    require_resumable,
    tell_of_end,
    telling_stops,
    write_log,
)
from ich.train.settings import leave_out_places
from ich.train.signatures import register_signatures
from ich.train.trainer import fit, limit_of_debugging
from ich.train.trainer.signals import exit_at_once, handling_stops, is_requeued
from ich.train.trust import allowing

__all__ = ["main", "train"]

log = logging.getLogger("ich")

PRETRAIN = "pretrain"
"""Folder in a run that holds its pretraining run."""

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""Messages of PyTorch if memory runs out, on each of its devices."""

NO_NEWS = (
    ".*does not have many workers",
    "This DataLoader will create .* worker processes",  # ours are threads
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # 2026-11: between Lightning 2.6 and torch 2.15
)
"""Warnings of Lightning that do not help users of this program."""


@dataclass(frozen=True)
class Run:
    """A run that is ready to start, or to resume from ``resumed``."""

    cfg: DictConfig
    folder: Path
    parts: Parts
    resumed: Path | None


def train(cfg: DictConfig, run_dir: Path) -> float:
    """Trains, and writes a run's folder.

    Args:
        cfg: The composed configuration. ``ckpt_path`` resumes the run at this path. With ``pretrain``,
            another run comes first, in a folder of the run, and this one starts from its best weights.
        run_dir: The run's folder.

    Returns:
        The monitored metric of the best epoch.

    Raises:
        UserError: For anything that the user must fix; a run that was not started leaves no files.
    """
    started = time.monotonic()
    with keeping_log() as buffer, telling_stops(run_dir):
        run = prepare(cfg, run_dir)
        starts_from = None if run.resumed else _prepare_pretraining(cfg, run_dir)
        if isinstance(starts_from, Run):
            _require_apart(starts_from.parts, run.parts)
        _begin(run)
        with occupying(run_dir):
            if run.resumed is None:
                _require_new(cfg, run_dir)  # again: another one may have begun and ended meanwhile
            write_log(buffer, run_dir / LOG)
            _describe_run(run)
            if isinstance(starts_from, Run):
                log.info("pretraining in %s", starts_from.folder)
                _begin(starts_from)
                _describe_run(starts_from)
                _complete(starts_from, time.monotonic())
                log.info("pretraining is done; training starts from its best weights")
                starts_from = find_checkpoint(starts_from.folder, "best")
            if starts_from is not None:
                run.parts.model.net.load_weights(starts_from)
            return _complete(run, started)


@contextmanager
def _computing_with(threads: int | None) -> Iterator[None]:
    """Restores the number of threads for the next training in this process, such as a job of a sweep."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare(cfg: DictConfig, run_dir: Path) -> Run:
    """Builds a run, or refuses one that cannot start; writes nothing.

    Raises:
        UserError: For anything that the user must fix.
    """
    resumed = None
    if cfg.ckpt_path and _has_begun(run_dir):
        resumed = find_checkpoint(run_dir)
        checkpoint = read_checkpoint(resumed)
        require_resumable(checkpoint, resumed)
        tell_of_end(cfg, run_dir, checkpoint)
    elif cfg.ckpt_path:
        log.info("%s has no checkpoint yet, so it starts again from the beginning", run_dir)
    else:
        _require_new(cfg, run_dir)
    parts = build_parts(cfg if resumed is None else without_start(cfg), run_dir)
    if cfg.ckpt_path:
        require_same_split(parts.datamodule, run_dir / "split.csv")
    return Run(cfg, run_dir, parts, resumed)


def _require_new(cfg: DictConfig, run_dir: Path) -> None:
    if not cfg.ckpt_path and (_has_begun(run_dir) or (run_dir / PRETRAIN).exists()):
        raise UserError(f"{run_dir} already holds a run; resume it with ckpt_path={run_dir}")


def _has_begun(run_dir: Path) -> bool:
    return any((run_dir / CHECKPOINTS).glob("*.ckpt"))


def _prepare_pretraining(cfg: DictConfig, run_dir: Path) -> Run | Path | None:
    """Finds the start of a run: a prepared run, the best checkpoint of a finished one, or nothing."""
    if not cfg.pretrain:
        return None
    if cfg.model.init_from is not None:
        raise UserError(
            f"model.init_from={cfg.model.init_from} and pretrain: a run can have only one start; leave out "
            "one of the two"
        )
    folder = run_dir / PRETRAIN
    if (folder / "metrics.json").is_file():
        return find_checkpoint(folder, "best")
    # What a run's own file says there of trusted code does not count: see resume_config.
    own = {
        "pretrain": None,
        "series": None,
        "ckpt_path": str(folder) if _has_begun(folder) else None,
        "trusted": cfg.trusted,
    }
    try:
        first = OmegaConf.merge(cfg, cfg.pretrain, own)
    except OmegaConfBaseException as error:
        raise UserError(f"pretrain does not fit the configuration: {str(error).splitlines()[0]}") from error
    return prepare(typing.cast("DictConfig", first), folder)


def _require_apart(first: Parts, parts: Parts) -> None:
    """Refuses a self-supervised pretraining on patients that the run holds out."""
    if not isinstance(first.model, SelfSupervised):
        return
    held_out = pd.concat([parts.datamodule.part("val"), parts.datamodule.part("test")])["PatientID"]
    if common := len(set(first.datamodule.part("train")["PatientID"]) & set(held_out)):
        raise UserError(
            f"pretrain would train on {common} patients of the run's validation or test set: give both the "
            "same seed and split, or leave these patients out of pretrain.data.root"
        )


def _begin(run: Run) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.folder.chmod(0o700)  # it may have been there, open to others


def _complete(run: Run, started: float) -> float:
    """Trains the remaining epochs, and writes the results."""
    cfg, parts = run.cfg, run.parts
    # Again: what came between, another run even, must not matter.
    seed_everything(cfg.seed, workers=True, verbose=False)
    shares = zip(parts.datamodule.label_set.names, parts.datamodule.prevalences(), strict=True)
    parts.model.net.metadata = replace(
        parts.model.net.metadata,
        trained_on=hash_slices(parts.datamodule.part("train")),
        prevalences={label: None if math.isnan(share) else share for label, share in shares},
        thickness=parts.datamodule.measure_thickness(),
    )
    settings = leave_out_places(OmegaConf.to_container(cfg, resolve=True))
    with _naming_sizes(cfg), _computing_with(cfg.threads):
        fit(parts.trainer, parts.model, parts.datamodule, settings=settings, ckpt_path=run.resumed)
        seconds = time.monotonic() - started
        if isinstance(parts.model, SelfSupervised):
            return write_pretraining(run.folder, parts.model.monitor, seconds=seconds)
        limit = limit_of_debugging(parts.trainer)
        result = write_results(
            run.folder,
            parts.datamodule,
            gpus=cfg.trainer.gpus,
            seconds=seconds,
            limit=limit,
            backbone=parts.model.net.copy_backbone(),
            smoothing=cfg.smoothing,
            series=parts.series,
            seed=cfg.seed,
        )
    if limit is not None:
        log.warning("debugging: only a few batches of each set were used, so the figures mean nothing")
    return result


@contextmanager
def _naming_sizes(cfg: DictConfig) -> Iterator[None]:
    """Turns an out-of-memory error into a message with the relevant sizes."""
    try:
        yield
    except (RuntimeError, MemoryError, ProcessRaisedException) as error:
        words = str(error).lower()
        if not isinstance(error, MemoryError) and not any(sign in words for sign in OUT_OF_MEMORY):
            raise
        raise UserError(
            f"out of memory with data.batch_size={cfg.data.batch_size}, input.size={cfg.input.size} and "
            f"model.backbone={cfg.model.backbone}: lower data.batch_size (trainer.accumulate_grad_batches "
            "makes up for it) or input.size"
        ) from error


def _describe_run(run: Run) -> None:
    cfg, parts = run.cfg, run.parts
    cfg.update(run_dir=str(run.folder), ckpt_path=None)
    origin = parts.model.net.metadata.origin
    if run.resumed is None and cfg.model.init_from is None and origin is not None:
        cfg.model.weights_sha256 = origin.sha256
    labeled = parts.datamodule.labeled
    write_split(labeled, labeled["part"], run.folder / "split.csv")
    if SLAB_COLUMN in parts.datamodule.table:
        write_table(list_averaged(parts.datamodule.table), run.folder / "slabs.csv")
    with replacing(run.folder / "config.yaml") as partial:  # last: by it a run is known
        OmegaConf.save(cfg, partial, resolve=True)
    for name, part in labeled.groupby("part", sort=False):
        log.info("%s set: %d slices of %d patients", SETS[str(name)], len(part), part["PatientID"].nunique())
    million = sum(p.numel() for p in parts.model.parameters()) / 1e6
    spec = parts.model.net.input
    log.info(
        "%s, %.1f million parameters, input %d x %d x %d, on %s",
        parts.model.net.metadata.model.backbone,
        million,
        spec.in_chans,
        spec.size,
        spec.size,
        parts.trainer.accelerator.name(),
    )
    if run.resumed is None and not cfg.pretrain:
        log.info("starts from %s", "random weights" if origin is None else origin.describe())


def run_job(cfg: DictConfig) -> float:
    """Runs a job that Hydra composed.

    Returns:
        The monitored metric; NaN if a job of a multirun has failed.
    """
    hydra_config = HydraConfig.get()
    made = Path(hydra_config.runtime.output_dir)
    try:
        if cfg.ckpt_path:
            run_dir = find_newest(made.parent) if cfg.ckpt_path == "last" else Path(cfg.ckpt_path)
            return train(resume_config(run_dir, list(hydra_config.overrides.task), cfg.trusted), run_dir)
        if is_requeued() and (made / "config.yaml").is_file():
            return train(resume_config(made, [], cfg.trusted), made)
        return train(cfg, made)
    except (UserError, OSError) as error:
        log.error("%s", error)  # noqa: TRY400 - one message, no traceback
        if hydra_config.mode is RunMode.MULTIRUN:
            _failures.append(made.name)
            return float("nan")
        raise SystemExit(2) from None
    finally:
        if not any(made.iterdir()):
            made.rmdir()


_failures: list[str] = []


def find_conf() -> Path:
    """Finds the folder ``conf``: beside the package in a checkout, or inside an installed package."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def main() -> None:
    """Runs a training, or with ``-m`` several, from the command line's ``key=value`` arguments."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    if not log.handlers:
        log.addHandler(RichHandler(show_path=False, console=Console(stderr=True)))
    for known in NO_NEWS:
        warnings.filterwarnings("ignore", message=known)
    register_signatures()
    _failures.clear()
    conf = find_conf()
    with printing(), for_owner_alone(), handling_stops(exit_at_once), reading_arguments(conf), allowing():
        hydra.main(**VERSION_BASE, config_path=str(conf), config_name="config")(run_job)()
    if _failures:
        log.error("%d jobs failed: %s", len(_failures), ", ".join(_failures))
        sys.exit(2)
