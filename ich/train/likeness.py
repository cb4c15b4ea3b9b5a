"""The end of a run: what the training data look like to the model, fitted on its validation part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from ich.calibration.likeness import Likeness, fit_likeness
from ich.train.keeping import keep


class FeatureLog(Callback):
    """Keeps what the head sees of some slices while they are predicted.

    Args:
        wanted: (rows,) bool, of the data module's table.
    """

    def __init__(self, wanted: NDArray[np.bool_]) -> None:
        self._wanted = torch.tensor(wanted)
        self._seen = torch.empty(0)
        self._kept: list[Tensor] = []

    @property
    def features(self) -> NDArray[np.float32]:
        """(N, F) of the wanted slices, in the order in which they were predicted."""
        return torch.cat(self._kept).numpy()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to look."""
        head: nn.Module = pl_module.head  # type: ignore[assignment]
        self._hook = head.register_forward_pre_hook(self._see)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Takes the wanted slices of a batch."""
        self._kept.append(self._seen[self._wanted[outputs["row"]]].float())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks no longer."""
        self._hook.remove()

    def _see(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen = inputs[0].detach().cpu()


def keep_likeness(features: NDArray[np.float32], slices: pd.DataFrame, checkpoint: Path) -> Likeness | str:
    """Fits a likeness and puts it into a checkpoint, or into its card why there is none.

    Args:
        features: (N, F) of the slices of the validation part.
        slices: (N rows) their UIDs.
        checkpoint: Of the model that gave the features; it has no likeness yet.

    Returns:
        The likeness, or why there is none.

    Raises:
        UserError: If the checkpoint cannot be read or written; then it stays as it was.
    """
    found = _fit(features, slices)
    if isinstance(found, str):
        keep(checkpoint, {"likeness": {"missing": found}})
        return found
    counts = {
        "studies": int(slices["StudyInstanceUID"].nunique()),
        "patients": int(slices["PatientID"].nunique()),
    }
    keep(checkpoint, {"likeness": counts}, _name_weights(found))
    return found


def _fit(features: NDArray[np.float32], slices: pd.DataFrame) -> Likeness | str:
    if (slices["StudyInstanceUID"] == "").any():
        return "slices that do not name their study"
    if slices[["StudyInstanceUID", "PatientID"]].drop_duplicates()["StudyInstanceUID"].duplicated().any():
        return "studies of several patients"
    return fit_likeness(features, slices["StudyInstanceUID"], slices["PatientID"])


def _name_weights(likeness: Likeness) -> Mapping[str, Tensor]:
    return nn.ModuleDict({"likeness": likeness}).state_dict()
