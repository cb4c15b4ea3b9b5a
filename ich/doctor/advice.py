"""What will limit a run on a machine, and the settings that fit it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from ich.data import HeadCTDataModule
from ich.data.loader import MOST_WORKERS
from ich.doctor.disk import SIZE
from ich.doctor.record import Advice, Disk, Gpu, Machine

GIB = 1 << 30

_BATCH: int = inspect.signature(HeadCTDataModule).parameters["batch_size"].default
_OF_A_SLICE = 0.15 * GIB  # estimate: activations and gradients of ResNet-50 at 256 px in 32 bits, by slice
_FEW_FILES, _LITTLE_MEMORY, _LITTLE_SHARED = 1024, 4 * GIB, GIB
_SLOW = 0.02  # seconds to read or decode a slice: what a small network takes on one core
_FAST_16_BIT = {"AMX-BF16", "AVX512-BF16", "BF16"}  # instruction sets


def find_limits(machine: Machine, *, root_given: bool) -> Iterator[str]:
    """Yields what will limit a run, one sentence each.

    Args:
        machine: What was found.
        root_given: Whether a disk was to be measured.
    """
    yield from _limit_computing(machine)
    yield from _limit_memory(machine)
    if root_given and machine.disk is None:
        yield "the folder shows no CT slices and cannot be written to, so its speed is not known"
    if machine.disk is not None and (rate := find_rate(machine.disk)):
        yield f"one thread reads about {rate:.0f} slices a second from the folder; networks wait for them"
    if missing := [codec.name for codec in machine.codecs if not codec.by]:
        count = f"{len(missing)} of {len(machine.codecs)}"
        yield f"{count} compressed encodings cannot be read: pip install 'ich[codecs]'"
    if machine.hub != "answers":
        state = "is switched off" if machine.hub == "switched off" else "does not answer"
        yield (
            f"the model hub {state}: pretrained weights come from its cache, from the extra ich[weights] or "
            "from model.weights_file"
        )


def find_memory(machine: Machine) -> int:
    """Finds the memory that a run can use, bytes."""
    known = (machine.memory.machine, machine.memory.available, machine.memory.limit)
    return min(value for value in known if value is not None)


def find_rate(disk: Disk) -> float | None:
    """Finds the slices that one thread reads, decodes and resizes in a second; None without slices."""
    if not disk.decoded:
        return None
    return 1 / (disk.seconds / disk.files + disk.decoding_seconds / disk.decoded)


def advise(machine: Machine) -> Iterator[Advice]:
    """Yields the settings that fit."""
    cores, gpu = machine.cores.usable, next((gpu for gpu in machine.gpus if gpu.usable), None)
    precision, reason = _choose_precision(machine, gpu)
    yield Advice("train", f"trainer.precision={precision}", reason)
    yield _choose_batch(machine, gpu)
    reason = f"threads that read: one per core, at most {MOST_WORKERS} (the default)"
    yield Advice("train", f"data.num_workers={min(MOST_WORKERS, cores)}", reason)
    if machine.cores.torch_threads > cores:
        yield Advice("train", f"threads={cores}", f"PyTorch would start {machine.cores.torch_threads}")
    if machine.disk is not None and (need := _find_need_of_cache(machine.disk)):
        yield Advice("train", "data.cache=FOLDER", need)
    yield Advice("predict", f"--threads {cores}", "one per core that this process may use")
    if gpu is None:
        yield Advice("predict", "--gpus 0", "there is no GPU that PyTorch can use (the default)")


def _limit_computing(machine: Machine) -> Iterator[str]:
    cores = machine.cores
    usable = [gpu for gpu in machine.gpus if gpu.usable]
    if machine.gpus and not usable:
        yield (
            f"the driver shows {len(machine.gpus)} GPUs that PyTorch {machine.versions['torch']} cannot use: "
            "install a build of PyTorch for CUDA that fits the driver"
        )
    if not usable:
        yield f"no GPU: networks run on {cores.usable} cores"
    if cores.usable < cores.machine:
        yield f"this process may use {cores.usable} of {cores.machine} cores (affinity, control group)"
    if cores.torch_threads > cores.usable:
        yield f"PyTorch starts {cores.torch_threads} threads on {cores.usable} cores, which slows them down"
    instructions = machine.system.instructions
    if instructions is not None and machine.system.machine == "x86_64" and "AVX2" not in instructions:
        yield "the processor has no AVX2, so networks on it are slow"


def _limit_memory(machine: Machine) -> Iterator[str]:
    memory, soft = machine.memory, machine.open_files.soft
    if memory.limit is not None and memory.limit < memory.machine:
        yield f"a control group limits memory to {memory.limit / GIB:.1f} of {memory.machine / GIB:.1f} GiB"
    if (usable := find_memory(machine)) < _LITTLE_MEMORY:
        yield f"{usable / GIB:.1f} GiB of memory are available, which is little for training"
    if len(machine.gpus) > 1 and memory.shared is not None and memory.shared < _LITTLE_SHARED:
        shared = f"/dev/shm has {memory.shared / GIB:.2f} GiB"
        yield f"{shared}, which is little for several GPUs: --shm-size in a container"
    if soft is not None and soft < _FEW_FILES:
        yield f"{soft} files may be open at once, which is little for many workers or peers: ulimit -n 4096"


def _choose_precision(machine: Machine, gpu: Gpu | None) -> tuple[str, str]:
    if gpu is not None and gpu.capability is not None:
        major, what = int(gpu.capability.partition(".")[0]), f"compute capability {gpu.capability}"
        if major >= 8:
            return "bf16-mixed", f"{what} multiplies in bf16"
        if major == 7:
            return "16-mixed", f"{what} multiplies in 16 bits, but not in bf16"
        return "32-true", f"{what} gains little by 16 bits (the default)"
    if fast := [name for name in machine.system.instructions or () if name in _FAST_16_BIT]:
        return "bf16-mixed", f"the processor multiplies in bf16 ({', '.join(fast)})"
    return "32-true", "no instructions for bf16 are known of the processor (the default)"


def _choose_batch(machine: Machine, gpu: Gpu | None) -> Advice:
    """Keeps the default where it fits, because another batch is another training."""
    if gpu is None:
        free, where = find_memory(machine), "memory"
    else:
        free, where = gpu.memory if gpu.free is None else gpu.free, "memory of the GPU"
    fits = 1
    while 2 * fits * _OF_A_SLICE <= free / 2 and fits < 1024:
        fits *= 2
    default = " (the default)" if fits >= _BATCH else ""
    reason = f"half of the free {where} holds {fits}, estimated for ResNet-50 at 256 px in 32 bits{default}"
    return Advice("train", f"data.batch_size={min(_BATCH, fits)}", reason)


def _find_need_of_cache(disk: Disk) -> str | None:
    """Says why a cache of resized slices pays; None if it does not."""
    if not disk.decoded:
        return None
    reading, decoding = disk.seconds / disk.files, disk.decoding_seconds / disk.decoded
    if max(reading, decoding) < _SLOW:
        return None
    return (
        f"a slice takes {1000 * reading:.0f} ms to read and {1000 * decoding:.0f} ms to decode; in the cache "
        f"it has {2 * SIZE * SIZE // 1024} KiB"
    )
