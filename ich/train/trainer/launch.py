"""Processes of one training that torchrun or SLURM has started, each with the same command."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from ich.files import find_cache, for_owner_only

_LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment)


@dataclass(frozen=True)
class Launch:
    """This process among those of its training.

    Attributes:
        rank: Its number, from 0. The first process alone writes the run's folder.
        world: Number of processes.
        per_node: Number of processes on this machine.
    """

    rank: int
    world: int
    per_node: int

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.world // self.per_node


def find_launch() -> Launch | None:
    """Finds out from the environment whether a launcher has started several processes."""
    for launcher in _LAUNCHERS:
        if launcher.detect():
            found = launcher()
            if (world := found.world_size()) > 1:
                return Launch(found.global_rank(), world, world // _count_nodes(world))
    return None


def _count_nodes(world: int) -> int:
    """Counts the machines, which have equally many processes each."""
    if (local := os.environ.get("LOCAL_WORLD_SIZE")) is not None:  # of torchrun
        return world // int(local)
    return int(os.environ.get("SLURM_NNODES", "1"))


def is_first() -> bool:
    """Whether this process writes the run's folder."""
    launch = find_launch()
    return launch is None or launch.rank == 0


def leave_group() -> None:
    """Ends the communication between the processes, because what follows is the work of the first alone."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def one_at_a_time(run_dir: Path) -> Iterator[None]:
    """Lets the processes of a training on one machine do something one after another.

    What the first of them writes, such as an index, the others then find.
    """
    with ExitStack() as stack:
        # Without the lock they prepare at once, which takes longer and is right too.
        with suppress(OSError, RuntimeError), for_owner_only():
            name = hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:16]
            lock = find_cache() / f"{name}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(lock.open("a")), fcntl.LOCK_EX)
        yield
