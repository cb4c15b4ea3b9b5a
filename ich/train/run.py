"""From a configuration to a run's folder: data, model, training, and the tables and figures at the end."""

from __future__ import annotations

import logging
import math
import time
import typing
from contextlib import nullcontext
from dataclasses import dataclass, replace
from logging.handlers import MemoryHandler
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning import seed_everything

from ich.evaluate.decisions import DEFAULT_RULE
from ich.files import replacing
from ich.index.split import write_split
from ich.model_files.checkpoint import CHECKPOINTS, find_checkpoint, read_checkpoint
from ich.models.self_supervised import SelfSupervised
from ich.schema import UserError
from ich.tables import SETS, SLAB_COLUMN, hash_slices, write_table
from ich.tables.slabs import list_averaged
from ich.train.folds import ALL_FOLDS, FOLD, train_folds
from ich.train.parts import Parts, build_parts
from ich.train.results import write_pretraining, write_results
from ich.train.resume import require_same_split, without_start
from ich.train.running import (
    LOG,
    computing_with,
    keeping_log,
    naming_sizes,
    occupying,
    require_resumable,
    tell_of_end,
    telling_stops,
    write_log,
)
from ich.train.settings import keep_bank_digest, leave_out_places
from ich.train.trainer import fit, limit_of_debugging
from ich.train.trainer.launch import find_launch, is_first, one_at_a_time

__all__ = ["train"]

log = logging.getLogger("ich")

PRETRAIN = "pretrain"
"""Folder in a run that holds its pretraining run."""


@dataclass(frozen=True)
class Run:
    """A run that is ready to start, or to resume from ``resumed``.

    Attributes:
        cfg: Its configuration.
        folder: Its folder.
        parts: What it is built of.
        resumed: Checkpoint to resume from; None for a new run.
        starts_from: A pretraining that comes first, or the weights of one; None for another start.
        started: Clock time at which it was prepared, for its duration.
    """

    cfg: DictConfig
    folder: Path
    parts: Parts
    resumed: Path | None
    starts_from: Run | Path | None
    started: float


def train(cfg: DictConfig, run_dir: Path) -> float:
    """Trains, and writes a run's folder.

    Args:
        cfg: The composed configuration. ``ckpt_path`` resumes the run at this path. With ``pretrain``,
            another run comes first, in a folder of the run, and this one starts from its best weights. With
            ``data.fold=all``, there is one run for each fold; see ``ich.train.folds``.
        run_dir: The run's folder.

    Returns:
        The monitored metric of the best epoch; with all folds, its mean over them.

    Raises:
        UserError: For anything that the user must fix; a run that was not started leaves no files.
    """
    keep_bank_digest(cfg)
    with keeping_log() as buffer, telling_stops(run_dir):
        if cfg.data.get("fold") == ALL_FOLDS:
            return train_folds(cfg, run_dir, buffer, prepare, complete)
        return complete(prepare(cfg, run_dir, run_dir / PRETRAIN), buffer)


def complete(run: Run, buffer: MemoryHandler) -> float:
    """Trains a run that was prepared, after its pretraining if it has one, and writes its folder.

    Args:
        run: The run.
        buffer: The messages so far, which go to the run's log with all that follow.

    Returns:
        The monitored metric of the best epoch.
    """
    if not is_first():
        return _follow(run)
    _begin(run)
    with occupying(run.folder):
        if run.resumed is None:
            _require_new(run.cfg, run.folder)  # again: another one may have begun and ended meanwhile
        write_log(buffer, run.folder / LOG)
        _describe_run(run)
        starts_from = run.starts_from
        if isinstance(starts_from, Run):
            log.info("pretraining in %s", starts_from.folder)
            _begin(starts_from)
            _describe_run(starts_from)
            _fit(starts_from)
            log.info("pretraining is done; training starts from its best weights")
            starts_from = find_checkpoint(starts_from.folder, "best")
        if starts_from is not None:
            run.parts.model.net.load_weights(starts_from)
        return _fit(run)


def _follow(run: Run) -> float:
    """Trains beside the first process of a launcher, which writes the folder and the results."""
    log.setLevel(logging.ERROR)  # what this process alone finds, such as a slice that cannot be read
    if isinstance(run.starts_from, Path):
        run.parts.model.net.load_weights(run.starts_from)
    _train(run)
    return math.nan


def prepare(cfg: DictConfig, run_dir: Path, pretraining: Path | None = None) -> Run:
    """Builds a run, or refuses one that cannot start; writes nothing.

    Args:
        cfg: As ``train`` takes it.
        run_dir: The run's folder.
        pretraining: Folder of its pretraining, if it may have one.

    Raises:
        UserError: For anything that the user must fix.
    """
    started, resumed = time.monotonic(), None
    if cfg.ckpt_path and _has_begun(run_dir):
        resumed = find_checkpoint(run_dir)
        checkpoint = read_checkpoint(resumed)
        require_resumable(checkpoint, resumed)
        tell_of_end(cfg, run_dir, checkpoint)
    elif cfg.ckpt_path:
        log.info("%s has no checkpoint yet, so it starts again from the beginning", run_dir)
    else:
        _require_new(cfg, run_dir)
    with one_at_a_time(run_dir) if find_launch() is not None else nullcontext():
        parts = build_parts(cfg if resumed is None else without_start(cfg), run_dir)
    if cfg.ckpt_path:
        require_same_split(parts.datamodule, run_dir / "split.csv")
    starts_from = None if pretraining is None or resumed else _prepare_pretraining(cfg, pretraining)
    if isinstance(starts_from, Run):
        _require_apart(starts_from.parts, parts)
    return Run(cfg, run_dir, parts, resumed, starts_from, started)


def _require_new(cfg: DictConfig, run_dir: Path) -> None:
    begun = _has_begun(run_dir) or (run_dir / PRETRAIN).exists() or any(run_dir.glob(f"{FOLD}*"))
    if not cfg.ckpt_path and begun:
        raise UserError(f"{run_dir} already holds a run; resume it with ckpt_path={run_dir}")


def _has_begun(run_dir: Path) -> bool:
    return any((run_dir / CHECKPOINTS).glob("*.ckpt"))


def _prepare_pretraining(cfg: DictConfig, folder: Path) -> Run | Path | None:
    """Finds the start of a run: a prepared run, the best checkpoint of a finished one, or nothing."""
    if not cfg.pretrain:
        return None
    if cfg.model.init_from is not None:
        raise UserError(
            f"model.init_from={cfg.model.init_from} and pretrain: a run can have only one start; leave out "
            "one of the two"
        )
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


def _train(run: Run) -> None:
    """Trains the remaining epochs."""
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
    with naming_sizes(cfg), computing_with(cfg.threads):
        fit(parts.trainer, parts.model, parts.datamodule, settings=settings, ckpt_path=run.resumed)


def _fit(run: Run) -> float:
    """Trains the remaining epochs, and writes the results."""
    cfg, parts = run.cfg, run.parts
    _train(run)
    with naming_sizes(cfg), computing_with(cfg.threads):
        seconds = time.monotonic() - run.started
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
            # Of one fold, few patients validate. All folds together smooth by the patients of all.
            smoothing=cfg.smoothing and cfg.data.get("fold") is None,
            rule=cfg.rule or DEFAULT_RULE,
            series=parts.series,
            seed=cfg.seed,
        )
    if limit is not None:
        log.warning("debugging: only a few batches of each set were used, so the figures mean nothing")
    return result


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
