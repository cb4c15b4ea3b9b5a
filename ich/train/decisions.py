"""The end of a run: what the model decides by, fitted on its validation part and kept with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ich.calibration import DECIDED_LEVELS, Decision
from ich.evaluate.decisions import fit_decisions
from ich.train.keeping import keep


def decide(validation: pd.DataFrame, checkpoint: Path, levels: Sequence[str]) -> dict[str, Decision]:
    """Fits calibration and operating points, and puts them into the card of a checkpoint.

    Args:
        validation: The predictions table of the validation part, as it was read from its file: a CSV holds
            probabilities of 32 bits by their shortest digits, and a threshold is one of them, to the last.
        checkpoint: Of the model that predicted it; it keeps its bytes where it has these decisions already.
        levels: That the slices make units of.

    Returns:
        A decision for each of them that is one of ``DECIDED_LEVELS``.

    Raises:
        UserError: If the checkpoint cannot be read or written; then it stays as it was.
    """
    decisions = fit_decisions(validation, levels=[level for level in DECIDED_LEVELS if level in levels])
    keep(checkpoint, {"decisions": {level: decision.to_dict() for level, decision in decisions.items()}})
    return decisions
