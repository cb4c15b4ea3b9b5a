"""A batch as it is read, and its last steps on its device: what training left to it, then the windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from lightning_fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from ich.image.augment import Changes, apply_changes_to_batch
from ich.image.augment.mixing import mix_batch
from ich.image.shrink import shrink_batch
from ich.image.window import Window, window_batch
from ich.schema import UNFINISHED, Batch, UserError

if TYPE_CHECKING:
    from ich.data import HeadCTDataModule


class RawBatch(dict[str, Any]):
    """A batch as a loader reads it, in HU. It says what to do when it is asked for an image."""

    def __missing__(self, key: str) -> Any:
        """Refuses to give an image.

        Raises:
            UserError: If ``image`` is asked for.
            KeyError: For any other missing key.
        """
        if key == "image":
            raise UserError(UNFINISHED)
        raise KeyError(key)


def to_images(batch: dict[str, Any], data: HeadCTDataModule, device: torch.device | str = "cpu") -> Batch:
    """Turns a batch of a loader into what a network takes, for a loop without Lightning's Trainer.

    It calls the hooks of the data module, as a Trainer does. So a batch is augmented if that is left to the
    device, then windowed and normalized. Slices that could not be read are counted.

    Args:
        batch: From a loader of ``data``, in HU. It is used up.
        data: The data module, which knows the input.
        device: Where to put the batch.

    Returns:
        ``image`` (N, C, S, S) float32, ``target`` (N, L) and ``row`` (N,), on the device, and the other keys
        of a ``Batch``. With ``input.learnable``, ``hu`` (N, D, S, S) int16 replaces ``image``.

    Raises:
        ReadError: For the first unreadable slice over ``data.tolerate``.
        UserError: If no slice of the batch could be read.
    """
    counted = data.on_before_batch_transfer(batch, 0)
    moved = move_data_to_device(counted, torch.device(device))
    return cast("Batch", data.on_after_batch_transfer(moved, 0))


def finish_batch(batch: dict[str, Any], window: Window) -> dict[str, Any]:
    """Augments and shrinks a batch if training asks for it, and windows it unless the model does.

    Args:
        batch: From ``SliceDataset``, on its device.
        window: The window of the input.

    Returns:
        A ``Batch``.
    """
    changes: Changes[Tensor] = batch.pop("changes", None) or Changes()
    hu = apply_changes_to_batch(batch.pop("hu"), changes)
    hu = shrink_batch(hu, batch.pop("size", hu.shape[-1]))
    if window.learnable:
        left = {} if changes.windows is None else {"window_changes": changes.windows}
        return batch | {"hu": hu} | left
    image = window_batch(window.to(hu.device), hu, batch.pop("window", None), changes.windows)
    if changes.mixing is not None:
        image, batch["target"] = mix_batch(image, batch["target"], changes.mixing)
    return batch | {"image": image}
