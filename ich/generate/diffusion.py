"""A diffusion model of lesions: noise becomes a patch of a subtype, step by step.

The network and the schedule of the noise are MONAI's. Source: Ho et al., Denoising Diffusion Probabilistic
Models, NeurIPS 2020.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ich.progress import track
from ich.schema import UserError

log = logging.getLogger("ich")

STEPS = 100
"""Steps from noise to a patch."""

BATCH = 16
"""Patches in each step of the training."""

_CHANNELS = (16, 32)
_LEARNING_RATE = 1e-3
_DECAY = 0.995  # of the moving average of the weights, which samples


class LesionDiffusion(nn.Module):
    """Finds the noise in patches, given their subtype.

    Args:
        kinds: Number of subtypes.

    Raises:
        UserError: If MONAI is not installed.
    """

    def __init__(self, kinds: int) -> None:
        super().__init__()
        try:  # it takes seconds, and only this module needs it
            from monai.networks.nets import DiffusionModelUNet
            from monai.networks.schedulers import DDPMScheduler
        except ImportError as error:
            raise UserError(f"ich generate needs pip install 'ich[generate]' ({error})") from error
        self.network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=2,
            out_channels=2,
            channels=_CHANNELS,
            attention_levels=(False,) * len(_CHANNELS),
            num_res_blocks=1,
            norm_num_groups=8,
            num_class_embeds=kinds,
        )
        average = get_ema_multi_avg_fn(_DECAY)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=average)
        self.scheduler = DDPMScheduler(STEPS, schedule="cosine")

    def forward(self, images: Tensor, kinds: Tensor, generator: torch.Generator) -> Tensor:
        """Returns the mean squared error of the noise that the network finds in noisy patches.

        Args:
            images: (N, 2, S, S) from -1 to 1.
            kinds: (N,) number of the subtype.
            generator: Random numbers.
        """
        times = torch.randint(0, STEPS, (len(images),), generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        found = self.network(self.scheduler.add_noise(images, noise, times), times, class_labels=kinds)
        return nn.functional.mse_loss(found, noise)

    @torch.no_grad()
    def sample(self, kinds: Tensor, generator: torch.Generator, size: int) -> Tensor:
        """Returns patches of these subtypes, (N, 2, size, size) from about -1 to 1."""
        images = torch.randn((len(kinds), 2, size, size), generator=generator)
        self.scheduler.set_timesteps(STEPS)
        for time in self.scheduler.timesteps:
            noise = self.average(images, time.expand(len(kinds)), class_labels=kinds)
            images, _ = self.scheduler.step(noise, int(time), images, generator=generator)
        return images


def train_diffusion(images: Tensor, kinds: Tensor, steps: int, seed: int) -> LesionDiffusion:
    """Trains on patches and their mirror images, with each subtype equally often.

    Args:
        images: (N, 2, S, S) from -1 to 1.
        kinds: (N,) number of the subtype.
        steps: Number of batches.
        seed: Random seed.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = LesionDiffusion(int(kinds.max()) + 1)
    optimizer = torch.optim.Adam(model.network.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    weights = 1.0 / kinds.bincount()[kinds]
    for step in track(range(1, steps + 1), "Learning lesions", steps, shown=True):
        rows = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        batch = images[rows]
        mirrored = torch.rand(BATCH, generator=generator) < 0.5
        batch[mirrored] = batch[mirrored].flip(-1)
        loss = model(batch, kinds[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        model.average.update_parameters(model.network)
        if step % 200 == 0:
            log.info("step %d of %d: error of the noise %.3f", step, steps, float(loss))
    return model
