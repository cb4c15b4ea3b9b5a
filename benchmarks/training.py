"""Share of a training step that waits for data.

A network trains for some steps as with `python train.py`: `HeadCTDataModule` reads DICOM in threads,
and Lightning's Trainer runs a `SliceClassifier`. It measures the time from the end of a step until the next
batch is there, moved and windowed, as a share of all time after the first few steps. A GPU may still compute
the last step meanwhile. On a GPU the same steps therefore run once more on a batch that is already there, and
the two rates are compared.

It first writes a small phantom of 512 x 512 slices, or takes a folder of yours in the RSNA layout. Each file
is read once before, so the disk is not measured. The training set is repeated until it fills the steps.

    python benchmarks/training.py                                    # a minute or two on two cores
    python benchmarks/training.py --model resnet50 --size 256 --batch-size 256 --workers 8 --steps 60
    python benchmarks/training.py --root data/rsna --gpus 1 --precision bf16-mixed --json training.json
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from measure import Figure, describe_machine, print_figures, print_machine, read_augment
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from ich.data import HeadCTDataModule
from ich.data.loader import SliceLoader
from ich.data.order import EpochSampler
from ich.image.augment import Augment
from ich.models import SliceClassifier
from ich.schema import Batch, InputSpec
from ich.train.trainer import build_trainer

PHANTOM = {"patients": 7, "size": 512}


class LongEpoch(HeadCTDataModule):
    """The data module with an epoch of a given number of steps: a small data set has too few."""

    steps: int

    def train_dataloader(self) -> SliceLoader:
        """Returns the training set, repeated as often as needed and shuffled once."""
        loader = super().train_dataloader()
        rows = np.random.default_rng(self.seed).permutation(loader.sampler.rows)
        return SliceLoader(
            loader.dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(np.resize(rows, self.steps * self.batch_size)),
            num_workers=self.num_workers,
        )


class Clock(Callback):
    """Takes the time from the end of the first steps to the end of the last.

    Args:
        skip: First steps, which do not count.

    Attributes:
        seconds: What passed in between.
        waiting: What of it passed between steps.
    """

    def __init__(self, skip: int) -> None:
        self.skip = skip
        self.seconds, self.waiting = 0.0, 0.0
        self._start, self._end = 0.0, 0.0  # of all that counts; of the last step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Adds what has passed since the last step."""
        if batch_idx >= self.skip:
            self.waiting += time.perf_counter() - self._end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts the clock after the first steps and reads it after the last."""
        first, last = batch_idx + 1 == self.skip, batch_idx + 1 == trainer.num_training_batches
        if (first or last) and trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # the GPU's work counts when it is done, not when it is asked for
        self._end = time.perf_counter()
        if first:
            self._start = self._end
        self.seconds = self._end - self._start


def train(args: argparse.Namespace, model: LightningModule, **data: Any) -> Clock:
    """Trains an epoch by the clock."""
    clock = Clock(args.skip)
    trainer = build_trainer(
        gpus=args.gpus,
        max_epochs=1,
        precision=args.precision,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        callbacks=clock,
    )
    trainer.fit(model, **data)
    return clock


def prepare(args: argparse.Namespace, work: Path) -> LongEpoch:
    """Sets the data module up and reads each of its files once."""
    if args.root is None:
        print("Drawing a phantom of 512 x 512 slices, unless it is there: half a minute", flush=True)
    augment = None
    if args.augment != "none":
        augment = Augment(**read_augment(), on_device=args.augment == "device")
    data = LongEpoch(
        str(args.root or work / "phantom"),
        InputSpec(size=args.size),
        phantom=None if args.root else PHANTOM,
        augment=augment,
        limit_slices=args.limit_slices,
        batch_size=args.batch_size,
        num_workers=args.workers,
    )
    data.steps = args.steps
    data.prepare_data()
    data.setup()
    for path in data.table["path"]:
        (data.source.root / path).read_bytes()
    return data


def hold_batch(data: LongEpoch, device: torch.device) -> DataLoader[Batch]:
    """One batch on the device, as many times as there are steps."""
    batch = data.on_before_batch_transfer(next(iter(data.train_dataloader())), 0)
    moved = move_data_to_device(batch, device)
    return DataLoader([data.on_after_batch_transfer(moved, 0)] * data.steps, batch_size=None)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--root", type=Path, help="folder in the RSNA layout; by default a phantom is written"
    )
    parser.add_argument("--work", type=Path, help="folder that keeps the phantom, for the next time")
    parser.add_argument("--limit-slices", type=int, help="take whole patients of about this many slices")
    parser.add_argument("--model", default="resnet18", help="any backbone of timm (%(default)s)")
    parser.add_argument("--size", type=int, default=160, help="of the image in px (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="threads that read (%(default)s)")
    parser.add_argument(
        "--augment", choices=("none", "cpu", "device"), help="where; by default on the GPU where there is one"
    )
    parser.add_argument("--gpus", type=int, choices=(0, 1), help="by default 1 where there is one")
    parser.add_argument("--precision", help="Lightning's; by default bf16 on a GPU that has it, else 32 bit")
    parser.add_argument("--steps", type=int, default=24, help="in all (%(default)s)")
    parser.add_argument("--skip", type=int, default=4, help="first steps that do not count (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and the machine's facts")
    args = parser.parse_args()
    if not 1 <= args.skip < args.steps:
        parser.error("--skip is 1 or more and below --steps")
    if args.gpus is None:
        args.gpus = int(torch.cuda.is_available())
    if args.augment is None:
        args.augment = "device" if args.gpus else "cpu"
    return args


def run(args: argparse.Namespace, work: Path) -> None:
    data = prepare(args, work)
    print_machine()
    model = SliceClassifier(args.model, input=data.input, pretrained=False)
    slices = (args.steps - args.skip) * args.batch_size
    clock = train(args, model, datamodule=data)
    rates = {"from DICOM": slices / clock.seconds}
    waiting = np.array([100 * clock.waiting / clock.seconds])
    figures = [Figure("share of a step that waits", 3, waiting, at_least=False, unit="%")]
    if args.gpus:
        clock = train(args, model, train_dataloaders=hold_batch(data, torch.device("cuda")))
        rates["of a batch on the device"] = slices / clock.seconds
        share = rates["from DICOM"] / rates["of a batch on the device"]
        figures.append(Figure("rate from DICOM over that of a batch on the device", 0.9, np.array([share])))
    for name, rate in rates.items():
        print(f"{rate:,.1f} slices a second {name}")
    print_figures(figures)
    if args.json:
        report = {
            "machine": describe_machine(),
            "settings": {name: str(value) for name, value in vars(args).items()},
            "slices_a_second": rates,
            "figures": [
                {"name": f.name, "bound": f.bound, "measured": float(f.values[0]), "is_reached": f.is_reached}
                for f in figures
            ],
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    args = parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # its tips and notes
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    if args.work:
        run(args, args.work.resolve())
    else:
        with tempfile.TemporaryDirectory() as work:
            run(args, Path(work))


if __name__ == "__main__":
    main()
