"""Applies models to arrays of HU, files and whole studies.

``reading`` chooses and reads a series, with ``stacks`` for its pixels. ``outcome`` turns the outputs of
networks into a result. ``writing`` writes the other outputs of a study. ``run`` reads many studies into a
``folder`` of results, and continues after an interruption.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

# Read when torch is imported: threads that wait by spinning take the cores from those that read slices, which
# made a study take nine times as long on two busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ich import __version__
from ich.calibration import Decision, order_decisions
from ich.calibration.ood import pool_distances
from ich.calibration.smoothing import Smoothing, has_kernels, smooth
from ich.image import prepare_series
from ich.image.resize import resize_hu
from ich.model_files.ensemble import EnsembleMetadata, join_names
from ich.models import SliceNet, hash_weights
from ich.networks import Network, TorchNetwork, load_members
from ich.networks.views import augmented
from ich.predict.outcome import (
    Rules,
    Scores,
    choose_key_slices,
    find_distance,
    find_model_reasons,
    list_counted,
    make_slices,
    pool_labels,
)
from ich.predict.reading import Reading, read_timed
from ich.predict.stacks import Pixels, average_stack, describe_slabs, has_windows, stack_hu
from ich.schema import AIR_HU, UserError
from ich.schema.formats import to_plain, write_instant
from ich.schema.hu import MOST_HU
from ich.schema.results import Algorithm, StudyResult, Timing, decide_labels, decide_outcome
from ich.studies import StudyFiles, find_studies
from ich.tables.slabs import find_slabs

__all__ = ["Predictor"]

_READERS = 4  # threads: they wait for the disk and for codecs
_AHEAD = 2  # studies that are read while one is in the network


class Predictor:
    """Reads studies with one model or several.

    Several models form an ensemble; see ``ich.predict.outcome``. Slices that are much thinner than those that
    a model was trained on are averaged; in an ensemble, the thinnest of these count. Studies are read ahead
    while the networks work. The same study gives the same result, bit for bit, whatever the names of its
    files.

    Args:
        networks: The members.
        tta: Test-time augmentations from ``ich.networks.views.TTA``; None takes those that the models name.
        decisions: Calibration and operating points by level, which replace those of the models. For an
            ensemble they apply to the mean of its probabilities.
        ensemble: What the file of the networks says of this mean; None for networks of several files.

    Attributes:
        networks: The members, as given.
        label_set: What they predict.
        algorithm: Description of the models in results.

    Raises:
        UserError: If there is no network, networks have different labels, or an augmentation is unknown.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        *,
        tta: Sequence[str] | None = None,
        decisions: Mapping[str, Decision] | None = None,
        ensemble: EnsembleMetadata | None = None,
    ) -> None:
        if not networks:
            raise UserError("there is no model: give a checkpoint, a bundle or an ONNX file")
        self.networks = list(networks)
        tta = _find_tta(networks) if tta is None else tta
        self._views = [augmented(network, tta) for network in networks]
        self._ensemble = ensemble or EnsembleMetadata(tuple(network.metadata for network in networks))
        self.label_set = networks[0].metadata.labels
        common: Mapping[str, Decision] | None = self._ensemble.decisions
        if decisions is not None:
            common = order_decisions(decisions, self.label_set.names, "decisions")
        given: list[Mapping[str, Decision]] = (
            [common] if common is not None else [network.metadata.decisions or {} for network in networks]
        )
        self._rules = [
            Rules(levels.get("slice"), levels.get("study"), self.label_set.decides) for levels in given
        ]
        self._sizes = sorted({network.input.size for network in networks})
        self._decisions = given
        self.algorithm = Algorithm(
            name=join_names(network.name for network in networks),
            version=__version__,
            weights=tuple(dict.fromkeys(network.sha256 for network in networks)),  # a file may hold several
            tta=tuple(tta),
            pooling="+".join(dict.fromkeys(rules.pooling for rules in self._rules)),
            rule="+".join(dict.fromkeys(rules.rule for rules in self._rules if rules.rule)),
        )

    @classmethod
    def load(
        cls,
        *paths: str | Path,
        tta: Sequence[str] | None = None,
        decisions: Mapping[str, Decision] | None = None,
        threads: int | None = None,
        gpus: int | None = None,
        trusted: Sequence[str] = (),
        engine: str | Path | None = None,
    ) -> Self:
        """Loads models from checkpoints, bundles, folders of runs or ONNX files; see ``load_members``.

        Raises:
            UserError: If a file is missing, damaged or not a model, an ensemble that decides by its mean is
                given beside other models, or ``engine`` is given for several models.
        """
        if engine is not None and len(paths) > 1:
            raise UserError(f"--engine {engine} was measured for one model: give one, or leave it out")
        files = [
            load_members(path, threads=threads, gpus=gpus, trusted=trusted, engine=engine) for path in paths
        ]
        networks = [network for file in files for network in file.networks]
        if len(files) == 1:
            return cls(networks, tta=tta, decisions=decisions, ensemble=files[0].metadata)
        for path, (_, ensemble) in zip(paths, files, strict=True):
            is_whole = ensemble.shares is not None or ensemble.smoothing is not None
            if is_whole or (ensemble.decisions is not None and decisions is None):
                raise UserError(
                    f"{path} is an ensemble that decides by the mean of its members, which other models "
                    "would change: use it alone, or bundle all models together"
                )
        return cls(networks, tta=tta, decisions=decisions)

    def describe(self) -> dict[str, Any]:
        """Returns all settings that determine a result, as plain values."""
        levels: list[Any] = [
            {level: to_plain(each) for level, each in levels.items()} for levels in self._decisions
        ]
        of_mean = self._ensemble.shares, self._ensemble.smoothing
        levels += [to_plain(each) for each in of_mean if each is not None]
        text = json.dumps(levels, sort_keys=True).encode()
        algorithm = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self.algorithm).items()
        }
        return algorithm | {"decisions": hashlib.sha256(text).hexdigest()}

    @property
    def weights(self) -> str:
        """SHA-256 of the weights for predictions tables; empty for several models and for ONNX files."""
        return hash_weights(self.explainable) if len(self.networks) == 1 and self.explainable else ""

    @property
    def explainable(self) -> SliceNet | None:
        """The first member that allows heat maps; None if all are exported."""
        return next((each.net for each in self.networks if isinstance(each, TorchNetwork)), None)

    def predict_hu(
        self,
        slices: Sequence[ArrayLike],
        window: NDArray[np.float32] | None = None,
        positions: ArrayLike | None = None,
    ) -> Scores:
        """Predicts slices of a series in memory.

        Args:
            slices: N slices of (Rows, Columns) HU, int16 or rounded to it, from the feet to the head. Each
                must be in LPS: rows run to the patient's left, columns to the back, as ``ich.dicom.read_hu``
                gives them. An array cannot show whether this is so.
            window: (N, 2) center and width of the headers in HU, if a model needs them.
            positions: (N,) along the slice normal in mm, if a model reads slices with their series.

        Returns:
            (M, N, L) probabilities of the M models, not calibrated, and distances from their training data.

        Raises:
            UserError: If there is no slice, the slices are images and not HU, or windows or positions are
                needed but missing.
        """
        arrays = [np.asarray(hu) for hu in slices]
        _refuse_images(arrays)
        pixels = [_to_pixels(array) for array in arrays]
        resized = {size: stack_hu([resize_hu(hu, size) for hu in pixels], size) for size in self._sizes}
        if positions is None and self._takes_positions:
            raise UserError(
                "the model reads a slice with its series: give the positions of the slices along the slice "
                "normal, in mm"
            )
        places = np.full(len(pixels), np.nan) if positions is None else np.asarray(positions, np.float64)
        if places.shape != (len(pixels),):
            raise UserError(f"{len(pixels)} slices have {places.size} positions: give one for each slice")
        return self._score(resized, window, places)

    def predict(self, *inputs: str | Path, progress: bool = False) -> Iterator[StudyResult]:
        """Reads all studies in files, folders, zip archives or a DICOMDIR, and yields their results.

        Args:
            *inputs: Files, folders, archives or a DICOMDIR with the studies.
            progress: Whether to show a bar on a terminal while headers are read.

        Raises:
            UserError: If an input does not exist.
        """
        with tempfile.TemporaryDirectory(prefix="ich-") as scratch:
            found = find_studies(list(map(Path, inputs)), scratch=Path(scratch), progress=progress)
            yield from self.predict_studies(found.studies)

    def predict_study(self, study: StudyFiles) -> StudyResult:
        """Reads a study of ``ich.studies.find_studies``."""
        return next(self.predict_studies([study]))

    def predict_studies(self, studies: Iterable[StudyFiles]) -> Iterator[StudyResult]:
        """Reads studies, some ahead, and yields their results in order, numbered from 1."""
        for number, reading in enumerate(self.read_ahead(studies), 1):
            yield self.make_result(reading, number)

    def read_ahead(self, studies: Iterable[StudyFiles]) -> Iterator[Reading]:
        """Reads studies in threads, and yields them in order."""
        with ExitStack() as stack:
            slices = stack.enter_context(ThreadPoolExecutor(_READERS, "slices"))
            whole = stack.enter_context(ThreadPoolExecutor(_AHEAD, "studies"))
            waiting: deque[Future[Reading]] = deque()
            stack.callback(lambda: [future.cancel() for future in waiting])
            for study in studies:
                waiting.append(whole.submit(read_timed, study, self._sizes, slices, self._takes_window))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def make_result(self, reading: Reading, number: int = 1) -> StudyResult:
        """Makes the result of a study that was read, with the time that this took."""
        begun = time.perf_counter()
        result = self._decide(reading, number)
        done, seconds = time.time(), time.perf_counter() - begun
        timing = Timing(write_instant(reading.begun_at), write_instant(done), reading.seconds, seconds, 0.0)
        return replace(result, timing=timing)

    def _decide(self, reading: Reading, number: int) -> StudyResult:
        study, stack = reading.study, reading.stack
        if stack is None:
            return StudyResult(
                number, study.StudyInstanceUID, study.PatientID, None, reading.refusal, (), (),
                {}, (), (), None, None, reading.series, self.algorithm, decides=self.label_set.decides,
            )  # fmt: skip
        slabs = find_slabs(stack.positions, self._ensemble.thickness, reading.left_out)
        averaged = average_stack(stack, slabs)
        left_out = [number for number, slab in enumerate(slabs) if slab[0] in reading.left_out]
        scores = self._score(averaged.hu, averaged.window, averaged.positions, left_out)
        labels = pool_labels(scores, self._rules, left_out)
        decides = self.label_set.decides
        reasons = (*reading.reasons, *find_model_reasons(scores, labels, decides))
        outcome = decide_outcome(None if decides is None else labels[decides], reasons)
        slices = make_slices(scores, self._rules, stack.slices, reading.left_out, slabs)
        distance, limit = find_distance(scores)
        return StudyResult(
            number=number,
            StudyInstanceUID=study.StudyInstanceUID,
            PatientID=study.PatientID,
            outcome=outcome,
            refusal=None,
            reasons=reasons,
            notes=(*reading.notes, *describe_slabs(stack, slabs)),
            decides=decides,
            labels=decide_labels(labels, decides, outcome, reasons),
            slices=slices,
            series_probs=scores.series_probs,
            key_slices=choose_key_slices(slices, outcome, labels, decides),
            distance=None if np.isnan(distance) else distance,
            distance_limit=None if np.isnan(limit) else limit,
            series=reading.series,
            algorithm=self.algorithm,
        )

    @property
    def _takes_window(self) -> bool:
        return any("dicom" in network.input.windows for network in self.networks)

    @property
    def _takes_positions(self) -> bool:
        members = self._ensemble.members
        every = [self._ensemble.smoothing, *(member.smoothing for member in members)]
        return any(member.series for member in members) or any(map(has_kernels, every))

    def _score(
        self,
        hu: Mapping[int, Pixels],
        window: NDArray[np.float32] | None,
        positions: NDArray[np.float64],
        left_out: Collection[int] = (),
    ) -> Scores:
        if not len(next(iter(hu.values()))):
            raise UserError("there is no slice to predict")
        if self._takes_window and (window is None or not has_windows(window)):
            raise UserError("the model needs the window of the header: give (N, 2) centers and widths in HU")
        places = positions.copy()
        places[list(left_out)] = np.nan  # such a slice says nothing about its neighbors
        each, distances, limits, of_series = [], [], [], []
        for network in self._views:
            output = network.run(
                prepare_series(hu[network.input.size], network.input, left_out), window, places
            )
            each.append(_smooth(output.probs, places, network.metadata.smoothing))
            counted = list_counted(len(output.probs), left_out)
            distances.append(np.nan if output.distance is None else pool_distances(output.distance[counted]))
            limits.append(np.nan if network.limit is None else network.limit)
            of_series += [] if output.series is None else [output.series.astype(np.float64)]
        probs = np.stack(each)
        mean = np.average(probs, axis=0, weights=self._ensemble.shares)
        mean = _smooth(mean, places, self._ensemble.smoothing)
        series = None
        if len(of_series) == len(each):
            series = np.average(of_series, axis=0, weights=self._ensemble.shares)
        return Scores(self.label_set.names, probs, mean, np.array(distances), np.array(limits), series)


def _find_tta(networks: Sequence[Network]) -> tuple[str, ...]:
    """The test-time augmentations that the models' decisions were fitted with."""
    found = {network.metadata.tta or () for network in networks}
    if len(found) > 1:
        raise UserError(
            "the models name different test-time augmentations: choose by --tta, which takes no name for none"
        )
    return found.pop()


def _smooth(
    probs: NDArray[np.floating[Any]], positions: NDArray[np.float64], smoothing: Smoothing | None
) -> NDArray[np.float64]:
    """Smooths the (N, L) probabilities of one series."""
    if smoothing is not None:
        probs = smooth(probs, positions, np.zeros(len(positions)), smoothing)
    return probs.astype(np.float64)


def _refuse_images(arrays: Sequence[NDArray[Any]]) -> None:
    """Refuses gray values in place of HU: 8 bits hold no air, and no head has only fractions of one HU."""
    if any(array.dtype == np.uint8 for array in arrays):
        found = "uint8"
    elif arrays and all(_has_only_fractions(array) for array in arrays):
        found = "values from 0 to 1"
    else:
        return
    raise UserError(
        f"the slices hold {found}, like an image after a window: expected HU, with air near -1000. Give the "
        "pixels after slope and intercept, as ich.dicom.read_hu does; the model windows them itself"
    )


def _has_only_fractions(array: NDArray[Any]) -> bool:
    return bool(
        array.dtype.kind == "f" and array.size and 0 <= array.min() <= array.max() <= 1 and (array % 1).any()
    )


def _to_pixels(array: NDArray[Any]) -> Pixels:
    if array.ndim != 2 or not array.size:
        raise UserError(f"a slice of HU has the shape {array.shape}: expected (Rows, Columns)")
    if array.dtype == np.int16:
        return np.ascontiguousarray(array)
    if not np.isfinite(array).all():
        raise UserError("a slice of HU holds values that are not numbers")
    pixels: Pixels = np.clip(np.rint(array), AIR_HU, MOST_HU).astype(np.int16)
    return pixels
