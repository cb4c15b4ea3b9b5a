"""Trains a network of your own in a plain PyTorch loop: python plain_loop.py [OUT]."""

# %% Slices with labels, as batches; here of the phantom
import sys
from pathlib import Path

import timm
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from ich.data import HeadCTDataModule, to_images
from ich.phantom import write_phantom
from ich.schema import InputSpec

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/plain")
patients, size, epochs = map(int, sys.argv[2:] or (40, 128, 3))  # some minutes on two cores
write_phantom(out / "phantom", patients=patients, size=size)
data = HeadCTDataModule(str(out / "phantom"), InputSpec(size=size // 2), batch_size=16)
data.prepare_data()
data.setup()

# %% Any network, optimizer and device
device = "cuda" if torch.cuda.is_available() else "cpu"
net = timm.create_model("test_resnet", in_chans=data.input.in_chans, num_classes=6).to(device)
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)


def compute_loss(batch):
    """Returns the mean loss of a batch; an unknown target is NaN, and counts as nothing."""
    logits, target = net(batch["image"]), batch["target"]
    known = ~target.isnan()
    return binary_cross_entropy_with_logits(logits[known], target[known])


# %% The loop. Each epoch has an order and an augmentation of its own, which follow from its number.
for epoch in range(epochs):
    data.set_epoch(epoch)
    net.train()
    for raw in data.train_dataloader():
        loss = compute_loss(to_images(raw, data, device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        losses = [compute_loss(to_images(raw, data, device)).item() for raw in data.val_dataloader()]
    print(f"epoch {epoch + 1}: validation loss {sum(losses) / len(losses):.4f}")
