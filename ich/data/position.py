"""Where a training stands in its epoch. Lightning counts batches of one process; this counts items of all."""

from __future__ import annotations

from pytorch_lightning import Trainer

from ich.data.loader import SliceLoader
from ich.data.order import Rest


def measure_rest(trainer: Trainer, found: Rest | None) -> Rest:
    """Measures what is left of the epoch.

    Args:
        trainer: The trainer, in a training.
        found: What was left of an epoch when the run was resumed; None for a new run.
    """
    loop, loader, epoch = trainer.fit_loop, trainer.train_dataloader, trainer.current_epoch
    is_within = loop.epoch_progress.current.ready > epoch
    if not (is_within and isinstance(loader, SliceLoader)):
        return Rest(epoch, 0, 0)
    rest = found if found is not None and found.epoch == epoch else None
    bounds = loader.cut(rest)
    done = loop.epoch_loop.batch_progress.current.ready - _count_done(loader, rest)
    return Rest(epoch, int(bounds[done * loader.sampler.share.of]), int(bounds[-1]))


def align_progress(trainer: Trainer, rest: Rest | None) -> None:
    """Tells Lightning how many batches of a resumed epoch are done, as this number of processes counts them.

    Args:
        trainer: The trainer, whose loops are restored.
        rest: What is left of the epoch; None for all of it.
    """
    loader = trainer.train_dataloader
    if rest is None or rest.epoch != trainer.current_epoch or not isinstance(loader, SliceLoader):
        return
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    change = _count_done(loader, rest) - progress.ready
    for name, count in vars(progress).items():  # how many batches are ready, started, processed, completed
        setattr(progress, name, count + change)


def _count_done(loader: SliceLoader, rest: Rest | None) -> int:
    return 0 if rest is None else len(loader) - loader.count_batches(rest)
