"""Trains all folds of a split, and makes one model of them that decides by their out-of-fold predictions.

A run with ``data.fold=all`` has a folder for each fold, in which lies an ordinary run. When all are done, the
folder itself gets the predictions of all test sets as one table, their figures, and a bundle of the models.
The jobs of a multirun that differ in ``data.fold`` only are put together in the same way.
"""

from __future__ import annotations

import json
import logging
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TypeVar

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ich.evaluate.folds import OutOfFold, evaluate_folds, pool_folds
from ich.evaluate.pooling import choose_pooling, find_levels
from ich.evaluate.terminal import render_evaluation, render_operating_points
from ich.evaluation_report.model_card import make_model_card
from ich.evaluation_report.report_data import ReportData
from ich.evaluation_report.run import Run, read_run
from ich.files import hash_file, replacing
from ich.model_files.bundle import write_ensemble
from ich.model_files.checkpoint import CHECKPOINTS, ENSEMBLE, find_checkpoint
from ich.model_files.description import MODEL_CARD
from ich.models import load_ensemble
from ich.networks.bundling import join_models, smooth_models
from ich.networks.folds import find_fold, find_rule, read_folds
from ich.progress import waiting
from ich.report.markdown import render_markdown
from ich.schema import DISCLAIMER, MONITOR, UserError
from ich.sweeps.record import Job
from ich.tables import OUT_OF_FOLD, write_table
from ich.train.running import LOG, keeping_log, occupying, write_log

log = logging.getLogger("ich")

ALL_FOLDS = "all"
"""Value of ``data.fold`` that trains every fold."""

FOLD = "fold_"
"""Prefix of the folders of folds."""

FIGURES = "metrics.json"
"""File that a run writes when it is done."""

T = TypeVar("T")


def train_folds(
    cfg: DictConfig,
    run_dir: Path,
    buffer: MemoryHandler,
    prepare: Callable[[DictConfig, Path, Path], T],
    complete: Callable[[T, MemoryHandler], float],
) -> float:
    """Trains one fold after another, and pools them.

    When it is resumed, folds that are done stay as they are. A pretraining that sees nothing of the folds is
    done once for all of them.

    Args:
        cfg: Configuration with ``data.fold=all``.
        run_dir: Folder of the run, with a folder for each fold.
        buffer: The messages so far, which go to the log of the run.
        prepare: Builds the run of a configuration in a folder, with the folder of its pretraining.
        complete: Trains such a run.

    Returns:
        The mean of the folds' monitored metrics. Their validation sets choose, so that the test sets can tell
        how good the choice is.

    Raises:
        UserError: For anything that the user must fix; a run that was not started leaves no files.
    """
    if not cfg.ckpt_path and any((run_dir / name).exists() for name in ("config.yaml", CHECKPOINTS)):
        raise UserError(f"{run_dir} already holds a run; resume it with ckpt_path={run_dir}")
    if cfg.data.folds < 2:
        raise UserError(f"data.folds={cfg.data.folds}: at least 2 folds are needed")
    folders = [run_dir / f"{FOLD}{fold}" for fold in range(cfg.data.folds)]
    left = [(fold, folder) for fold, folder in enumerate(folders) if not _is_done(cfg, folder)]
    if not left:
        log.warning("all folds are done: nothing is trained, and the results of all are written again")
    with ExitStack() as stack:
        for fold, folder in left:
            with keeping_log() as own:
                log.info("data.fold=%d of %d folds, in %s", fold, len(folders), folder)
                shared = run_dir if _shares_pretraining(cfg) else folder
                run = prepare(_choose_fold(cfg, fold, folder), folder, shared / "pretrain")
                if fold == left[0][0]:  # not before, as what is refused leaves no files
                    stack.enter_context(_occupying(cfg, run_dir, buffer))
                complete(run, own)
                del run  # or two models would be in memory
        if not left:
            stack.enter_context(_occupying(cfg, run_dir, buffer))
        return pool_runs(folders, run_dir, cfg.trusted)


def _is_done(cfg: DictConfig, folder: Path) -> bool:
    """Whether a fold has its results, after as many epochs as are wanted now."""
    if not (folder / FIGURES).is_file() or not (folder / "config.yaml").is_file():
        return False
    return int(OmegaConf.load(folder / "config.yaml").trainer.max_epochs) >= int(cfg.trainer.max_epochs)


def _choose_fold(cfg: DictConfig, fold: int, folder: Path) -> DictConfig:
    begun = (folder / "config.yaml").is_file()
    own = {"data": {"fold": fold}, "ckpt_path": str(folder) if begun else None}
    return typing.cast("DictConfig", OmegaConf.merge(cfg, own))


def _shares_pretraining(cfg: DictConfig) -> bool:
    """Whether the pretraining has no folds; if it had, it would see test patients of other folds."""
    data = (cfg.pretrain or {}).get("data") or {}
    return "fold" in data and data["fold"] is None


@contextmanager
def _occupying(cfg: DictConfig, run_dir: Path, buffer: MemoryHandler) -> Iterator[None]:
    """Keeps other processes out of the folder, and writes down what the run is."""
    run_dir.mkdir(parents=True, exist_ok=True)
    run_dir.chmod(0o700)  # it may have been there, open to others
    with occupying(run_dir):
        write_log(buffer, run_dir / LOG)
        kept = typing.cast("DictConfig", OmegaConf.merge(cfg, {"run_dir": str(run_dir), "ckpt_path": None}))
        if kept.model.weights_file is not None and kept.model.weights_sha256 is None:
            kept.model.weights_sha256 = hash_file(kept.model.weights_file)
        with replacing(run_dir / "config.yaml") as partial:
            OmegaConf.save(kept, partial, resolve=True)
        yield


def pool_runs(runs: Sequence[Path], out: Path, trusted: Sequence[str] = ()) -> float:
    """Makes one model of runs that are all folds of one split.

    Writes ``predictions_oof.csv``, ``metrics.json``, ``model_card.md`` and a bundle, and prints the figures.

    Args:
        runs: Folders of the runs.
        out: Folder to write to; files of the same names are replaced.
        trusted: Code that a checkpoint may name as its backbone.

    Returns:
        The mean of the runs' monitored metrics.

    Raises:
        UserError: If the runs are not all folds of one split, or are not finished.
    """
    tables = read_folds(runs)
    ensembles = [load_ensemble(find_checkpoint(run, "best"), trusted=trusted) for run in runs]
    tables, smoothing = smooth_models(runs, tables)
    labels = ensembles[0].nets[0].metadata.labels
    joined = pool_folds(tables)
    levels = find_levels(joined, "out-of-fold predictions")
    with waiting("Evaluating all folds"):
        found = evaluate_folds(
            tables, labels=labels, levels=levels, pooling=choose_pooling(joined), rule=find_rule(runs)
        )
    run = _describe(runs)
    card = render_markdown(make_model_card(_collect(found, run, len(runs))))
    metadata, state_dicts = join_models(ensembles, found.decisions, None, smoothing)
    write_table(found.table, out / OUT_OF_FOLD)
    with replacing(out / MODEL_CARD) as partial:
        partial.write_text(card, encoding="utf-8")
    (out / ENSEMBLE).unlink(missing_ok=True)
    write_ensemble(metadata, state_dicts, out / ENSEMBLE, model_card=card)
    score = _write_figures(found, runs, out, leaky=run.leaky)
    _print(found, out, leaky=run.leaky)
    return score


def _describe(runs: Sequence[Path]) -> Run:
    """Describes what the runs have in common."""
    first = read_run(runs[0])
    patients = [sum(count) for count in zip(*first.parts.values(), strict=True)]
    split = f"{len(runs)} folds; each is the test set of one model, and the others train and validate it"
    return replace(first, settings={**first.settings, "split": split}, parts={"train": tuple(patients)})


def _collect(found: OutOfFold, run: Run, members: int) -> ReportData:
    return ReportData(
        evaluation=found.evaluation,
        predictions=found.table,
        decisions=found.decisions,
        run=run,
        members=members,
    )


def _write_figures(found: OutOfFold, runs: Sequence[Path], out: Path, *, leaky: bool) -> float:
    """Writes ``metrics.json``; returns the mean of the monitored metrics."""
    folds = []
    for run in runs:
        each = json.loads((run / FIGURES).read_text(encoding="utf-8"))
        folds.append({"folder": run.name, "best_epoch": each["best_epoch"], MONITOR: each[MONITOR]})
    score = float(np.mean([fold[MONITOR] for fold in folds]))
    report = {
        MONITOR: score,
        "folds": folds,
        "leaky_split": leaky,
        "note": DISCLAIMER,
        "out_of_fold": found.evaluation.to_dict(),
    }
    with replacing(out / FIGURES) as partial:
        partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return score


def _print(found: OutOfFold, out: Path, *, leaky: bool) -> None:
    """Prints the figures, and adds them to the log of the run."""
    title = "out-of-fold predictions" + (" - LEAKY: split by slice" if leaky else "")
    tables = [render_evaluation(found.evaluation, title)]
    level = next((level for level in ("study", "slice") if level in found.decisions), None)
    if level is not None:
        tables.append(render_operating_points(found.evaluation, level))
    Console().print(*tables, sep="\n")
    if (out / LOG).is_file():
        with (out / LOG).open("a", encoding="utf-8") as file:
            Console(file=file, width=100).print(*tables, sep="\n")
    log.info("wrote the ensemble and its figures to %s", out)


def pool_jobs(jobs: Sequence[Job], trusted: Sequence[str] = ()) -> list[str]:
    """Makes one model of each group of jobs that differ in ``data.fold`` only.

    One group is put together in the folder of the multirun, and several in folders ``pooled_N`` there, where
    N is the first job of the group.

    Args:
        jobs: The jobs of a multirun.
        trusted: Code that a checkpoint may name as its backbone.

    Returns:
        Names of groups that could not be put together, such as ``pooled_0``.
    """
    groups: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        others = tuple(item for item in job.record.overrides if not _names_fold(item))
        if len(others) < len(job.record.overrides):
            groups.setdefault(others, []).append(job)
    several = [group for group in groups.values() if len(group) > 1]
    refused = []
    for group in several:
        first = group[0].folder
        out = first.parent if len(several) == 1 else first.parent / f"pooled_{group[0].number}"
        if failed := [job.number for job in group if not job.record.is_done]:
            log.error("no ensemble of jobs %s: %s failed", _list(group), ", ".join(failed))
        elif missing := _find_missing(group):
            log.warning("no ensemble of jobs %s: data.fold=%s was not trained", _list(group), missing)
        else:
            try:
                out.mkdir(exist_ok=True)
                pool_runs([job.folder for job in group], out, trusted)
            except UserError as error:
                log.error("no ensemble of jobs %s: %s", _list(group), error)  # noqa: TRY400 - one message
                refused.append(f"pooled_{group[0].number}")
    return refused


def _names_fold(item: str) -> bool:
    return item.lstrip("+").startswith("data.fold=") and not item.endswith(("=null", f"={ALL_FOLDS}"))


def _list(group: Sequence[Job]) -> str:
    return ", ".join(job.number for job in group)


def _find_missing(group: Sequence[Job]) -> str:
    """Names the folds that no job has, separated by commas."""
    folds = [fold for job in group if (fold := find_fold(job.folder)) is not None]
    count = max((fold.folds for fold in folds), default=0)
    return ",".join(map(str, sorted(set(range(count)) - {fold.number for fold in folds})))
