"""Model metadata: the description of a model in a checkpoint, a bundle or an exported network.

A bundle or an exported network can hold several models, the members of an ensemble.

Metadata may come from a file of unknown origin. They are data, without names of files or addresses. They name
a class only if the backbone is not a timm model, and that class is imported only if the user trusts it. The
types of the fields say what they may hold.

Later versions add fields that may be missing, so older files can be read. A file with an unknown field is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from ich import __version__
from ich.calibration import Decision, Level, NotFitted, order_decisions
from ich.calibration.smoothing import Smoothing, order_smoothing
from ich.schema import LABELS, RENAMED, InputSpec, UserError
from ich.schema.formats import (
    STRICT,
    ChosenBy,
    Count,
    Digest,
    Expected,
    Explanation,
    NotNegative,
    Positive,
    Share,
    Text,
    check_keys,
    read_plain,
    show,
    to_plain,
)
from ich.schema.labels import RSNA_LABELS, LabelSet

__all__ = [
    "ModelArguments",
    "ModelMetadata",
    "OodReference",
    "Origin",
    "OwnBackbone",
    "Recalibration",
    "Training",
    "Versions",
    "read_metadata",
]

Rate = Annotated[float, Interval(ge=0, lt=1), Expected("a number from 0 to below 1")]
BACKBONE = r"^[A-Za-z0-9_]{1,99}(\.[A-Za-z0-9_]{1,99}){0,9}$"
Backbone = Annotated[
    str,
    Expected("the name of a timm model, or the dotted name of a class or function", pattern=BACKBONE),
]


def _is_width(value: int) -> bool:
    return value % 4 == 0


@dataclass(frozen=True)
class Versions:
    """Versions of the libraries that wrote a file."""

    ich: Text
    torch: Text
    timm: Text


@dataclass(frozen=True)
class OwnBackbone:
    """How to build a backbone that is not a timm model.

    Attributes:
        arguments: Plain values by name; None if the backbone was given as an object.
    """

    arguments: Mapping[str, Any] | None


@dataclass(frozen=True)
class ModelArguments:
    """The arguments that build the network; see ``ich.models.SliceNet``.

    ``own`` is None for a timm model. Otherwise ``backbone`` is the dotted name of a class or function.
    ``pool`` is None in files of older versions.
    """

    backbone: Backbone
    input: InputSpec
    drop_rate: Rate
    drop_path_rate: Rate
    link: Text
    channels_last: bool
    own: OwnBackbone | None = None
    pool: Literal["last"] | None = None


@dataclass(frozen=True)
class SeriesArguments:
    """The arguments that build a network over series; see ``ich.models.series.SeriesNet``."""

    kind: Annotated[str, Expected("gru or transformer", pattern="^(gru|transformer)$")]
    width: Annotated[int, Interval(ge=8, le=1024), Expected("a multiple of 4 from 8 to 1024", _is_width)]
    layers: Annotated[int, Interval(ge=1, le=8), Expected("a whole number from 1 to 8")]
    drop_rate: Rate


@dataclass(frozen=True)
class Training:
    """Summary of a training, without names of patients and folders.

    It has no times, so an interrupted run ends with the same summary.

    Attributes:
        patients: Patients of the training set.
        studies: Studies of the training set.
        slices: Slices of the training set.
        positives: Slices of the training set with each label.
        epochs: Epochs of the run.
        best_epoch: From 0.
        val_log_loss: Weighted log loss by slice; None where it is not a number.
        test_log_loss: The same; None also where the data have no test set.
        phantom: Whether the data are synthetic.
    """

    patients: Count
    studies: Count
    slices: Count
    positives: Mapping[str, Count]
    epochs: Count
    best_epoch: Count
    val_log_loss: NotNegative | None
    test_log_loss: NotNegative | None
    phantom: bool


@dataclass(frozen=True)
class Origin:
    """The weights that a training began with, or that were imported. Random weights have no origin.

    Attributes:
        weights: What they are, without the name of a file.
        license: Their license, as their source or the user states it; None where none is stated.
        sha256: SHA-256 of their file; None where timm loaded them from the hub.
    """

    weights: Explanation
    license: Explanation | None
    sha256: Digest | None

    def describe(self) -> str:
        """Says in words where weights come from."""
        digest = f", SHA-256 {self.sha256}" if self.sha256 else ""
        return f"{self.weights}, license {self.license or 'not known'}{digest}"


@dataclass(frozen=True)
class OodReference:
    """The data that out-of-distribution detection was fitted on."""

    studies: Count
    patients: Count


@dataclass(frozen=True)
class Recalibration:
    """The studies of a site that calibration and operating points were fitted to; it names no patient.

    Attributes:
        site: Name of the site, as its user gave it; empty if none was given.
        studies: Number of the studies.
        patients: Number of their patients.
        positives: Studies with each label.
    """

    site: Annotated[Text, Expected("a text on one line of at most 200 characters", str.isprintable)]
    studies: Count
    patients: Count
    positives: Mapping[str, Count]


def _choose_ood(found: Mapping[str, Any]) -> str:
    return "NotFitted" if "missing" in found else "OodReference"


@dataclass(frozen=True)
class ModelMetadata:
    """Metadata of a model.

    Fields are None before the end of a run, and if a user's own trainer or an older version made the file.

    Attributes:
        model: The arguments that build the network.
        format: Name and version of this format.
        version: The version of ich that made the model.
        labels: What the model predicts, in the order of its outputs.
        trained_on: ``hash_slices`` of the training set.
        prevalences: The share of its known slices that have each label; None where none is known.
        series: The network over series, where it improves the predictions.
        smoothing: For each label, how its probabilities are averaged over neighboring slices, before slices
            are pooled and calibrated. It was fitted on the validation set.
        thickness: The usual step between its slices, mm; see ``ich.tables.slabs``. Much thinner slices are
            averaged to it. None averages nothing.
        decisions: By level, what was fitted on the validation set.
        ood: What out-of-distribution detection was fitted on, or why there is none.
        training: What the run was.
        origin: The weights that the model began with, also before an earlier training; None for random ones.
        tta: Test-time augmentations that ``decisions`` were fitted with, and that prediction uses by default.
        recalibration: The studies of a site that ``decisions`` were fitted to after the run.
    """

    __pydantic_config__ = STRICT

    format: Literal["ich slice classifier 3"] = field(default="ich slice classifier 3", kw_only=True)
    version: Text = field(default=__version__, kw_only=True)
    labels: LabelSet = field(default=RSNA_LABELS, kw_only=True)
    model: ModelArguments
    trained_on: Digest | None = None
    prevalences: Mapping[str, Share | None] | None = None
    series: SeriesArguments | None = None
    smoothing: Smoothing | None = None
    thickness: Positive | None = None
    decisions: Mapping[Level, Decision] | None = None
    ood: Annotated[OodReference | NotFitted, ChosenBy(_choose_ood, "fields")] | None = None
    training: Training | None = None
    origin: Origin | None = None
    tta: tuple[Text, ...] | None = None
    recalibration: Recalibration | None = None

    def __post_init__(self) -> None:
        names = self.labels.names
        if self.prevalences is not None:
            check_keys(self.prevalences, names, "prevalences")
        if self.training is not None:
            check_keys(self.training.positives, names, "training.positives")
        if self.smoothing is not None:
            object.__setattr__(self, "smoothing", order_smoothing(self.smoothing, names))
        if self.recalibration is not None:
            check_keys(self.recalibration.positives, names, "recalibration.positives")
        if self.decisions is not None:  # in the order of the labels, which files need not keep
            object.__setattr__(self, "decisions", order_decisions(self.decisions, names, "decisions"))

    def to_plain(self) -> dict[str, Any]:
        """Returns plain values, without what is None; fit for JSON and for a checkpoint that loads safely."""
        found = {name: value for name, value in to_plain(self).items() if value is not None}
        # Through JSON, as pickle tells equal texts from one text, and files are to have the same bytes.
        plain: dict[str, Any] = json.loads(json.dumps(found))
        return plain


def read_metadata(found: Any, source: str) -> ModelMetadata:
    """Makes metadata of the plain values that a checkpoint holds.

    Args:
        found: Content of the file in their place.
        source: Name of the file, for messages.

    Raises:
        UserError: If they have another format, or a field is missing, unknown or not of its type.
    """
    found = upgrade(found)
    if not isinstance(found, dict) or found.get("format") != ModelMetadata.format:
        stated = show(found.get("format")) if isinstance(found, dict) else "no metadata"
        raise UserError(
            f"{source} is another kind of checkpoint: found {stated}, expected {ModelMetadata.format!r}. "
            "`ich import` makes a bundle of weights that another program trained"
        )
    return read_plain(ModelMetadata, found, source)


def upgrade(found: Any) -> Any:
    """Brings plain metadata of an earlier version to the names of today; anything else stays as it is."""
    stated = found.get("format") if isinstance(found, dict) else None
    if stated == "ich slice classifier 2":  # it had no origin
        return found | {"format": ModelMetadata.format}
    return _rename(found) if stated == "ich slice classifier 1" else found


def _rename(found: dict[str, Any]) -> dict[str, Any]:
    """Brings metadata of version 1 to the names of today."""
    found = {"ood" if name == "likeness" else name: value for name, value in found.items()}
    if found.get("labels") == list(LABELS):  # the only ones then, and a list of their names
        found["labels"] = to_plain(RSNA_LABELS)
    model = found.get("model")
    if isinstance(model, dict) and isinstance(spec := model.get("input"), dict):
        found["model"] = model | {"input": {RENAMED.get(name, name): value for name, value in spec.items()}}
    return found | {"format": ModelMetadata.format}


def upgrade_file(found: dict[str, Any], newest: str, *older: str) -> dict[str, Any]:
    """Brings the fields of a file that holds metadata of an ensemble to the names of today.

    Args:
        found: Content of the file.
        newest: The format of today.
        older: Formats that are read too. Early ones had a single model, under ``card`` or ``metadata``.
    """
    found = dict(found)
    if found.get("format") in older:
        found["format"] = newest
        for name in ("card", "metadata"):
            if name in found:
                found["ensemble"] = {"members": [found.pop(name)]}
    ensemble = found.get("ensemble")
    if isinstance(ensemble, dict) and isinstance(members := ensemble.get("members"), list):
        found["ensemble"] = ensemble | {"members": [upgrade(member) for member in members]}
    return found
