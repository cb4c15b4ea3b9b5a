"""Builds the parts of a run from a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.loggers import Logger
from torch import nn

from ich.calibration.points import parse_rule
from ich.data import HeadCTDataModule
from ich.models import SliceClassifier
from ich.models.optim import build_optimizer
from ich.models.series import SeriesSpec
from ich.schema import UserError, check_seed, check_threads
from ich.train.command import require_known_settings
from ich.train.settings import accept_old_names
from ich.train.signatures import list_settings
from ich.train.trust import Builder


@dataclass(frozen=True)
class Parts:
    """The parts of a run."""

    trainer: Trainer
    datamodule: HeadCTDataModule
    model: SliceClassifier
    series: SeriesSpec | None


def build_parts(cfg: DictConfig, run_dir: Path) -> Parts:
    """Builds the parts of the configuration, and reads headers and labels; writes no run.

    Raises:
        UserError: For anything that the user must fix.
    """
    check_seed("seed", cfg.seed)
    check_threads(cfg.threads)
    if cfg.rule is not None:
        parse_rule(cfg.rule)
    accept_old_names(cfg)
    # Those of the labels first: the search through all follows the loss to their weights, and ends there.
    missing = sorted(OmegaConf.missing_keys(cfg.labels)) or sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{', '.join(missing)} must be given, for instance {missing[0]}=VALUE")
    require_known_settings(cfg, list_settings())
    build = Builder(_with_recipe(cfg))
    seed_everything(cfg.seed, workers=True, verbose=False)
    spec, labels = build("input"), build("labels")
    trainer = _build_trainer(build, cfg, run_dir)
    series = build("series", SeriesSpec)
    joint = series if series is not None and series.end_to_end else None
    datamodule = build(
        "data",
        input=spec,
        label_set=labels,
        augment=build("augment"),
        lesions=build("lesions"),
        **({} if joint is None else {"series": joint.draw}),
    )
    if datamodule.source.phantom is None:
        datamodule.source.check_files()  # before the model, which may fetch weights
    model = build(
        "model",
        input=spec,
        label_set=labels,
        loss=build("loss", nn.Module),
        optim=build("optim"),
        **({} if joint is None else {"series": joint}),
    )
    build_optimizer(model.optim, model)  # refuses bad settings before anything is written
    model.net.require_sizes(datamodule.training.first_sizes)
    datamodule.prepare_data()
    datamodule.setup()
    if model.has_new_head:
        model.start_at(datamodule.prevalences(by_study=datamodule.by_study))
    if series is not None and datamodule.hides_slices:
        raise UserError(
            f"series={series.kind} learns from targets of slices, and data.study_labels gives none for "
            "positive studies: leave out series, or give data.labels too"
        )
    return Parts(trainer, datamodule, model, series)


def _with_recipe(cfg: DictConfig) -> DictConfig:
    """Has a backbone of the user's own made by the network, which writes down how to make it again."""
    if OmegaConf.is_dict(cfg.model.backbone):
        cfg = cfg.copy()
        OmegaConf.update(cfg, "model.backbone._partial_", True, force_add=True)
    return cfg


def _build_trainer(build: Builder, cfg: DictConfig, run_dir: Path) -> Trainer:
    callbacks = [build(f"callbacks.{name}", Callback) for name in cfg.callbacks or ()]
    place = {"save_dir": str(run_dir)}
    logger = [build(f"logger.{name}", Logger, offered=place) for name in cfg.logger or ()]
    trainer: Trainer = build("trainer", run_dir=run_dir, callbacks=callbacks, logger=logger)
    if trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches=0: the validation set is needed to choose the best epoch")
    return trainer
