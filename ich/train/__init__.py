"""From a configuration to a run's folder: data, model, training, the tables and the figures at its end."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import typing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

# Read when torch is imported: threads that wait for each other by spinning take the cores from the processes
# that read slices, which made a step four times slower on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hydra
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer, seed_everything
from rich.console import Console
from rich.logging import RichHandler

from ich.checkpoint import CHECKPOINTS, find_checkpoint, read_checkpoint
from ich.data import HeadCTDataModule
from ich.evaluate import Summary, render_summary, summarize
from ich.models import SliceClassifier, load_classifier
from ich.optim import build_optimizer
from ich.report import write_curves
from ich.schema import DISCLAIMER, MONITOR, UserError
from ich.split import write_split
from ich.tables import make_predictions, write_table
from ich.train.signatures import register_signatures
from ich.trainer import build_trainer

log = logging.getLogger("ich")

NO_NEWS = (
    ".*does not have many workers",
    "Checkpoint directory .* exists and is not empty",  # so it is where a run goes on
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # 2026-11: between Lightning 2.6 and torch 2.15
)
"""Warnings of Lightning that tell a user of this program nothing."""


def build(node: DictConfig, **given: Any) -> Any:
    """Builds what a group of the configuration describes, with the objects that it is given."""
    return hydra.utils.instantiate(node, _partial_=True, _convert_="all")(**given)


@dataclass(frozen=True)
class Parts:
    """What a run is made of."""

    trainer: Trainer
    datamodule: HeadCTDataModule
    model: SliceClassifier


def build_parts(cfg: DictConfig, run_dir: Path) -> Parts:
    """Builds what the configuration says and reads the data's headers and labels; writes no run.

    Raises:
        UserError: For whatever the user has to mend.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{', '.join(missing)} must be given, for instance {missing[0]}=VALUE")
    seed_everything(cfg.seed, workers=True, verbose=False)
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    spec = build(cfg.input)
    try:
        loggers = [build(node, save_dir=str(run_dir)) for node in cfg.logger.values()]
        trainer = build(cfg.trainer, run_dir=run_dir, loggers=loggers)
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        raise UserError(f"trainer or logger cannot be built: {error}") from error
    if trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches=0: the best epoch is chosen on the validation part")
    augment = build(cfg.augment) if cfg.augment else None
    datamodule = build(cfg.data, input=spec, augment=augment)
    model = build(cfg.model, input=spec, loss=build(cfg.loss), optim=build(cfg.optim))
    build_optimizer(model.optim, model)  # refuses bad settings before anything is written
    datamodule.prepare_data()
    datamodule.setup()
    if cfg.model.init_from is None:
        model.start_at(datamodule.prevalences())
    return Parts(trainer, datamodule, model)


def train(cfg: DictConfig, run_dir: Path) -> float:
    """Trains, and leaves a run's folder.

    Args:
        cfg: The composed configuration; with ``ckpt_path`` the run there goes on.
        run_dir: The run's folder.

    Returns:
        The monitored metric of the best epoch.

    Raises:
        UserError: For whatever the user has to mend; what was not begun leaves nothing behind.
    """
    started = time.monotonic()
    resumed = find_checkpoint(run_dir) if cfg.ckpt_path else None
    if resumed is not None:
        read_checkpoint(resumed)
    elif (run_dir / CHECKPOINTS).exists():
        raise UserError(f"{run_dir} holds a run already; go on with it by ckpt_path={run_dir}")
    with _keep_log() as buffer:
        parts = build_parts(cfg if resumed is None else _without_start(cfg), run_dir)
        if resumed is not None:
            _require_same_split(parts.datamodule, run_dir / "split.csv")
        run_dir.mkdir(parents=True, exist_ok=True)
        run_dir.chmod(0o700)  # it names patients
        _write_log(buffer, run_dir / "run.log")
        _describe_run(cfg, run_dir, parts)
        parts.trainer.fit(parts.model, datamodule=parts.datamodule, ckpt_path=resumed)
        return finish(cfg, run_dir, parts.datamodule, seconds=time.monotonic() - started)


def _without_start(cfg: DictConfig) -> DictConfig:
    """What a run began from need not be there any more when it goes on."""
    start = {"pretrained": False, "weights_file": None, "init_from": None}
    return typing.cast("DictConfig", OmegaConf.merge(cfg, {"model": start}))


def _require_same_split(datamodule: HeadCTDataModule, path: Path) -> None:
    """Refuses to go on where the data gives other parts than the run began with."""
    began = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("SOPInstanceUID")["part"]
    now = datamodule.labelled.set_index("SOPInstanceUID")["part"]
    changed = len(began.index.symmetric_difference(now.index)) + int(
        (began != now.reindex(began.index)).sum()
    )
    if changed:
        raise UserError(
            f"{path} and the data disagree on {changed} slices: files or labels changed since the run began. "
            "Start a new run with model.init_from=CHECKPOINT"
        )


@contextmanager
def _keep_log() -> Iterator[MemoryHandler]:
    """Keeps what is logged until there is a run to write it to."""
    buffer = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL)
    log.addHandler(buffer)
    try:
        yield buffer
    except UserError as error:
        buffer.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, str(error), (), None))
        raise
    finally:
        log.removeHandler(buffer)
        file = buffer.target
        buffer.close()
        if file is not None:
            file.close()


def _write_log(buffer: MemoryHandler, path: Path) -> None:
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    buffer.setTarget(file)
    buffer.flush()
    buffer.flushLevel = logging.NOTSET


def _describe_run(cfg: DictConfig, run_dir: Path, parts: Parts) -> None:
    cfg.update(run_dir=str(run_dir), ckpt_path=None)
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    labelled = parts.datamodule.labelled
    write_split(labelled, labelled["part"], run_dir / "split.csv")
    for name, part in labelled.groupby("part", sort=False):
        log.info("%s: %d slices of %d patients", name, len(part), part["PatientID"].nunique())
    million = sum(p.numel() for p in parts.model.parameters()) / 1e6
    spec = parts.model.input
    log.info(
        "%s, %.1f million parameters, input %d x %d x %d, on %s",
        cfg.model.backbone, million, spec.in_chans, spec.size, spec.size, parts.trainer.accelerator.name(),
    )  # fmt: skip


def finish(cfg: DictConfig, run_dir: Path, datamodule: HeadCTDataModule, *, seconds: float) -> float:
    """Writes what stands at a run's end: predictions, ``metrics.json``, the curves; prints the table.

    Args:
        cfg: The run's configuration.
        run_dir: The run's folder, with its best checkpoint.
        datamodule: Set up.
        seconds: What training took.

    Returns:
        The monitored metric of the best epoch.
    """
    metrics = pd.read_csv(run_dir / "metrics.csv")
    if metrics[MONITOR].isna().all():
        raise UserError(f"{MONITOR} was never a number: the run diverged; try a lower optim.lr")
    best = metrics.iloc[int(metrics[MONITOR].argmin())]
    model = load_classifier(find_checkpoint(run_dir, "best"))
    summaries: dict[str, Summary] = {}
    for part, table in predict_parts(model, datamodule, cfg.trainer.gpus).items():
        write_table(table, run_dir / f"predictions_{part}.csv")
        summaries[part] = summarize(table, prevalences=datamodule.prevalences())
    report = {
        "best_epoch": int(best["epoch"]),
        MONITOR: float(best[MONITOR]),
        "leaky_split": datamodule.leaks,
        "unread_slices": len(datamodule.unread),
        "seconds": round(seconds, 1),
        "note": DISCLAIMER,
    } | {part: summary.to_dict() for part, summary in summaries.items()}
    (run_dir / "metrics.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_curves(metrics, run_dir / "curves.png")
    last = list(summaries)[-1]
    title = f"{last} part" + (" - LEAKY: split by slice" if datamodule.leaks else "")
    rendered = render_summary(summaries[last], title)
    Console().print(rendered)
    with (run_dir / "run.log").open("a", encoding="utf-8") as file:
        Console(file=file, width=100).print(rendered)
    if datamodule.unread:
        log.warning("%d slices could not be read and were left out", len(datamodule.unread))
    log.info("everything is in %s", run_dir)
    return float(best[MONITOR])


def predict_parts(
    model: SliceClassifier, datamodule: HeadCTDataModule, gpus: int | None = None
) -> dict[str, pd.DataFrame]:
    """Predicts the validation and the test part, on one device.

    Args:
        model: A trained model.
        datamodule: Set up.
        gpus: As in ``build_trainer``; more than one counts as one.

    Returns:
        A predictions table for each of ``val`` and ``test`` that has slices.
    """
    trainer = build_trainer(gpus=gpus if gpus is None else min(gpus, 1), devices=1)
    outputs = trainer.predict(model, datamodule=datamodule) or []
    batches = typing.cast("list[dict[str, torch.Tensor]]", outputs)
    rows = torch.cat([batch["row"] for batch in batches]).numpy()
    probs = torch.cat([batch["probs"] for batch in batches]).numpy()
    slices = datamodule.table.iloc[rows].reset_index(drop=True)
    return {
        part: make_predictions(slices[slices["part"] == part], part, probs[slices["part"] == part])
        for part in ("val", "test")
        if (slices["part"] == part).any()
    }


def resume_config(cfg: DictConfig, overrides: list[str]) -> tuple[DictConfig, Path]:
    """Reads the configuration of the run that ``ckpt_path`` names.

    Args:
        cfg: The composed configuration.
        overrides: What was given on the command line; of these, ``trainer.*``, ``data.root`` and
            ``data.num_workers`` may differ from the run that goes on.

    Returns:
        The configuration and the run's folder.

    Raises:
        UserError: If there is nothing to resume or another setting is to change.
    """
    run_dir = Path(cfg.ckpt_path)
    if not (run_dir / "config.yaml").is_file():
        raise UserError(
            f"ckpt_path={run_dir}: nothing to resume; expected a run's folder, with its config.yaml and "
            f"{CHECKPOINTS}/last.ckpt"
        )
    changes = [item for item in overrides if not item.startswith(("ckpt_path=", "hydra."))]
    allowed = ("trainer.", "data.root=", "data.num_workers=")
    refused = [item for item in changes if not item.startswith(allowed)]
    if refused:
        raise UserError(
            f"ckpt_path={run_dir} goes on with that run's own settings; take away {', '.join(refused)}, "
            "or start a new run with model.init_from=CHECKPOINT"
        )
    own = OmegaConf.load(run_dir / "config.yaml")
    changed = OmegaConf.merge(own, OmegaConf.from_dotlist(changes), {"ckpt_path": str(run_dir)})
    return typing.cast("DictConfig", changed), run_dir


def run_job(cfg: DictConfig) -> float:
    """Runs what Hydra composed.

    Returns:
        The monitored metric; NaN where a job of a multirun has failed.
    """
    hydra_config = HydraConfig.get()
    made = Path(hydra_config.runtime.output_dir)
    try:
        if not cfg.ckpt_path:
            return train(cfg, made)
        own, run_dir = resume_config(cfg, list(hydra_config.overrides.task))
        return train(own, run_dir)
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
    """The folder ``conf``: beside the package in a checkout, inside it when installed from a wheel."""
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
    hydra.main(version_base="1.3", config_path=str(find_conf()), config_name="config")(run_job)()
    if _failures:
        log.error("%d jobs failed: %s", len(_failures), ", ".join(_failures))
        sys.exit(2)
