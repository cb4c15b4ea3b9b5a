"""The last steps of a batch, on its device: what training left to it, then the windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ich.image.augment import Changes, apply_changes_to_batch
from ich.image.augment.mixing import mix_batch
from ich.image.shrink import shrink_batch
from ich.image.window import Window, window_batch


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
