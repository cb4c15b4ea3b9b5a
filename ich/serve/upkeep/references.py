"""What the newest readings are compared with: what the bundle says, or else the first readings of the model.

A bundle holds a limit of the distance from the training data. One that was recalibrated for a site holds the
number of studies with a hemorrhage there too, which with sensitivity and specificity gives the expected share
of positive studies. It holds no distribution of probabilities or distances, and no agreement of people. For
these, the first readings of the model are the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from ich.files import hash_file
from ich.model_files.description import read_description
from ich.model_files.ensemble import EnsembleMetadata
from ich.schema import UserError
from ich.serve.upkeep.drift import Measure, compare_beyond, compare_shares, compare_values
from ich.serve.upkeep.samples import (
    Share,
    count_judgments,
    count_readings,
    find_model,
    take_agreement,
    take_sample,
)

REFERENCE_FACTOR = 4
"""A reference grows to so many times the newest readings. A small one hides drift that is not large."""


@dataclass
class BundleReference:
    """What the bundle says, read again when its file changes.

    Attributes:
        path: The bundle.
    """

    path: Path
    _stamp: tuple[int, int, int] | None = None
    _model: str = ""
    _positive: Share | None = None

    def find_positive(self, model: str) -> Share | None:
        """Returns the expected share of positive studies; None if the bundle does not say it.

        Args:
            model: SHA-256 of the file that made the readings; the bundle may be exchanged already.
        """
        try:
            found = self.path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp != self._stamp:
                self._model, self._positive = hash_file(self.path), _read_positive(self.path)
                self._stamp = stamp
        except OSError:
            return None
        return self._positive if model == self._model else None


def _read_positive(path: Path) -> Share | None:
    try:
        return expect_positive(read_description(path).ensemble)
    except UserError:  # a checkpoint or an ONNX file
        return None


def expect_positive(ensemble: EnsembleMetadata) -> Share | None:
    """Returns how many of the studies of a recalibration the model is expected to call positive."""
    metadata = ensemble.joined
    site, decides = metadata.recalibration, metadata.labels.decides
    decision = (metadata.decisions or {}).get("study")
    point = decision.find_point(decides) if decision and decides else None
    if site is None or decides is None or point is None:
        return None
    positives = site.positives[decides]
    expected = positives * point.sensitivity + (site.studies - positives) * (1 - point.specificity)
    return Share(round(expected), site.studies)


def measure_drift(connection: Connection, bundle: BundleReference, newest: int) -> list[Measure]:
    """Compares the newest readings with the references; measures without enough readings are left out.

    Args:
        connection: An open transaction.
        bundle: The reference that the bundle gives.
        newest: Number of the newest readings.
    """
    model = find_model(connection)
    if model is None or (count := count_readings(connection, model)) < newest:
        return []
    return [
        *_measure_readings(connection, model, newest, count, bundle.find_positive(model)),
        *_measure_agreement(connection, model, newest),
    ]


def _measure_readings(
    connection: Connection, model: str, newest: int, count: int, expected: Share | None
) -> list[Measure]:
    now = take_sample(connection, model, newest, newest=True)
    found = [compare_beyond("drift.out_of_distribution", now.beyond)] if now.beyond.of else []
    what = "readings are positive"
    if expected is not None and expected.of >= newest:
        source = "the studies that the bundle was recalibrated on"
        found.append(compare_shares("drift.positives", what, now.positive, expected, source))
    size = _size_reference(count, newest)
    if not size:
        return found
    first = take_sample(connection, model, size, newest=False)
    source = f"the first {size} of the model"
    if expected is None or expected.of < newest:
        found.append(compare_shares("drift.positives", what, now.positive, first.positive, source))
    for name, values, reference in (
        ("probabilities", now.probs, first.probs),
        ("distances", now.distances, first.distances),
    ):
        if values and reference:
            found.append(compare_values(f"drift.{name}", name, values, reference, source))
    return found


def _measure_agreement(connection: Connection, model: str, newest: int) -> list[Measure]:
    size = _size_reference(count_judgments(connection, model), newest)
    if not size:
        return []
    shares = (
        take_agreement(connection, model, newest, newest=True),
        take_agreement(connection, model, size, newest=False),
    )
    source = f"the first {size} of the model"
    return [compare_shares("drift.agreement", "judgments agree", *shares, source)]


def _size_reference(count: int, newest: int) -> int:
    """Returns how many of the first readings are the reference; 0 if there are too few beside the newest."""
    left = min(REFERENCE_FACTOR * newest, count - newest)
    return left if left >= newest else 0
