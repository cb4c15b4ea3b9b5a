"""The end of a run: the reference for out-of-distribution detection, fitted on held-out slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from ich.calibration import NotFitted
from ich.calibration.ood import OodDistance, fit_ood
from ich.model_files.metadata import OodReference


class FeatureLog(Callback):
    """Keeps rows and features of some slices during prediction.

    Args:
        wanted: (rows,) bool, for the rows of the data module's table.
    """

    def __init__(self, wanted: NDArray[np.bool_]) -> None:
        self._wanted = torch.tensor(wanted)
        self._seen = torch.empty(0)
        self._kept: list[Tensor] = []
        self._rows: list[Tensor] = []

    @property
    def rows(self) -> NDArray[np.int64]:
        """(N,) rows of the wanted slices, in the order of prediction."""
        return torch.cat(self._rows).numpy()

    @property
    def features(self) -> NDArray[np.float32]:
        """(N, F) features of the wanted slices, in the order of prediction."""
        return torch.cat(self._kept).numpy()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts to collect."""
        self._hook = pl_module.get_submodule("net.head").register_forward_pre_hook(self._see)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Collects the wanted slices of a batch."""
        wanted = self._wanted[outputs["row"]]
        self._kept.append(self._seen[wanted].float())
        self._rows.append(outputs["row"][wanted])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops collecting."""
        self._hook.remove()

    def _see(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen = inputs[0].detach().cpu()


def describe_ood(
    features: NDArray[np.float32], slices: pd.DataFrame
) -> tuple[OodReference | NotFitted, dict[str, Tensor]]:
    """Fits the reference for a checkpoint, or says why there is none.

    Args:
        features: (N, F) features of slices that the model did not learn from.
        slices: (N rows) UIDs of these slices.

    Returns:
        Its metadata, and its weights by name.
    """
    found = _fit(features, slices)
    if isinstance(found, str):
        return NotFitted(found), {}
    reference = OodReference(
        studies=int(slices["StudyInstanceUID"].nunique()), patients=int(slices["PatientID"].nunique())
    )
    return reference, nn.ModuleDict({"ood": found}).state_dict()


def _fit(features: NDArray[np.float32], slices: pd.DataFrame) -> OodDistance | str:
    if (slices["StudyInstanceUID"] == "").any():
        return "slices that do not name their study"
    if slices[["StudyInstanceUID", "PatientID"]].drop_duplicates()["StudyInstanceUID"].duplicated().any():
        return "studies of several patients"
    return fit_ood(features, slices["StudyInstanceUID"], slices["PatientID"])
