"""A plain training script that `experiment=ct_ich` must beat on the same patients.

timm's ResNet-18 from scratch at 160 px on three windows; AdamW with one cycle, flips and small affine, 16
epochs; the epoch with the lowest validation loss predicts the test set. It uses nothing of the library.

    python benchmarks/plain_resnet18.py --root data/ct_ich --split RUN/split.csv --out predictions.csv
"""

import argparse
import copy
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import timm
import torch
import torchvision.transforms.v2 as T

LABELS = ["epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural", "any"]
WEIGHT = torch.tensor([1, 1, 1, 1, 1, 2]) / 7
WINDOWS = [(40, 80), (80, 200), (40, 380)]


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
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

    table = pd.read_csv(args.split, dtype=str)
    labels = pd.read_csv(args.root / "stage_2_train.csv")
    labels[["uid", "label"]] = labels.ID.str.rsplit("_", n=1, expand=True)
    target = labels.pivot(index="uid", columns="label", values="Label").loc[table.SOPInstanceUID, LABELS]
    y = torch.tensor(target.to_numpy(), dtype=torch.float32)
    x = torch.stack([read_image(args.root / "stage_2_train" / f"{uid}.dcm") for uid in table.SOPInstanceUID])
    train, val, test = (
        torch.from_numpy(np.flatnonzero(table.part == part)) for part in ("train", "val", "test")
    )

    model = timm.create_model("resnet18", num_classes=6, in_chans=3)
    steps = len(train) // 32
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=args.epochs * steps)
    augment = T.Compose([T.RandomHorizontalFlip(), T.RandomAffine(10, (0.05, 0.05), (0.9, 1.1))])

    @torch.no_grad()
    def predict(rows: torch.Tensor) -> torch.Tensor:
        model.eval()
        return torch.cat([model(x[part].float() / 255) for part in rows.split(64)])

    best, best_loss = model.state_dict(), float("inf")
    for epoch in range(args.epochs):
        model.train()
        for rows in train[torch.randperm(len(train))][: steps * 32].split(32):
            images = torch.stack([augment(x[row]) for row in rows]).float() / 255
            optimizer.zero_grad()
            loss(model(images), y[rows]).backward()
            optimizer.step()
            schedule.step()
        val_loss = loss(predict(val), y[val]).item()
        print(
            f"epoch {epoch} val_loss {val_loss:.4f} test_loss {loss(predict(test), y[test]).item():.4f}",
            flush=True,
        )
        if val_loss < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), val_loss

    model.load_state_dict(best)
    out = table.iloc[test.numpy()].reset_index(drop=True)
    out[[f"prob_{label}" for label in LABELS]] = predict(test).sigmoid().numpy()
    out[[f"target_{label}" for label in LABELS]] = y[test].numpy()
    out.to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
