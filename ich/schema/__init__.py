"""Names that all other modules share: labels, the input, a batch, and the errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, NotRequired, TypedDict

from annotated_types import Interval

from ich.schema.errors import ReadError as ReadError
from ich.schema.errors import UserError as UserError
from ich.schema.formats import Expected

if TYPE_CHECKING:  # importing torch takes seconds, and reading headers does not need it
    from torch import Tensor

__all__ = [
    "BRAINS",
    "DISCLAIMER",
    "LABELS",
    "LABEL_WEIGHTS",
    "MONITOR",
    "NORMALIZATIONS",
    "SUBTYPES",
    "WINDOWS",
    "Batch",
    "InputSpec",
    "ReadError",
    "UserError",
]

SUBTYPES = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""The five subtypes of hemorrhage, spelled and ordered as in the RSNA 2019 label file."""

LABELS = (*SUBTYPES, "any")
"""What a model predicts for a slice; ``any`` is 1 where at least one subtype is."""

LABEL_WEIGHTS = (1 / 7, 1 / 7, 1 / 7, 1 / 7, 1 / 7, 2 / 7)
"""Weights of the RSNA 2019 metric, in the order of ``LABELS``; they sum to 1.

Source: https://www.kaggle.com/c/rsna-intracranial-hemorrhage-detection/overview/evaluation
"""

WINDOWS: Mapping[str, tuple[float, float]] = {
    "brain": (40.0, 80.0),
    "subdural": (80.0, 200.0),
    "soft_tissue": (40.0, 380.0),
    "bone": (600.0, 2800.0),
}
"""Named windows: center and width in HU."""

DISCLAIMER: Final = "Research use only; not a medical device"
"""Shown beside all results."""

SIDES = ("R", "L")
"""Letters at the left and the right edge of a picture: radiologists look at a slice from the feet."""

PLACES = ("root", "labels", "study_labels", "index_dir", "cache", "split", "bank")
"""Settings of the data that may name folders and files, and so patients. Only ``config.yaml`` of a run holds
them as the user wrote them, because the run needs them to resume."""

MONITOR = "val_weighted_log_loss"
"""The logged metric that selects the best epoch; lower is better."""

AIR_HU = -1024
"""HU outside the image: the lowest value of the CT scale."""

NORMALIZATIONS = ("unit", "symmetric", "imagenet", "imagenet_rgb", "max_abs")
"""``unit`` is [0, 1] and ``symmetric`` [-1, 1]. ``imagenet`` uses the mean and deviation of ImageNet's gray
values. ``imagenet_rgb`` uses those of red, green and blue for three windows in turn, as networks of other
programs often do. ``max_abs`` divides HU by the largest magnitude in the slice, and takes no windows."""


MOST_WINDOWS = 16
"""Windows that an input may have."""

BRAINS = ("crop", "channel", "blank")
"""Ways to show a network the brain that ``ich.image.brain`` finds by thresholds. ``crop`` enlarges a square
around it. ``blank`` sets everything outside to air. ``channel`` adds the blanked slice as one more plane."""

RENAMED = {"neighbours": "neighbors", "normalisation": "normalization"}
"""Old names of fields of ``InputSpec``, as in version 0.1 and its files."""


_Window = Annotated[
    str | tuple[Annotated[float, Interval(ge=-1e5, le=1e5)], Annotated[float, Interval(gt=0, le=1e5)]],
    Expected("a name or [center, width] in HU"),
]


@dataclass(frozen=True)
class InputSpec:
    """What a network sees of a slice. It is stored in the checkpoint.

    Attributes:
        size: Height and width of the image in pixels.
        neighbors: Number of slices taken on either side of the slice, in order of position.
        windows: Each a name from ``WINDOWS``, a pair ``(center, width)`` in HU, or ``"dicom"`` for the window
            in the slice's own header. Every slice gives one channel per window. Empty with
            ``normalization="max_abs"``, and only then.
        normalization: One of ``NORMALIZATIONS``.
        learnable: Whether centers and widths are parameters of the model, which then takes HU.
        brain: One of ``BRAINS``; None shows the slice as it is.
        brain_hu: Value that the brain of each slice is shifted to (``ich.image.scale``), usually 35 HU; None
            leaves HU as they are.

    Raises:
        UserError: If a value is not allowed.
    """

    size: int = 256
    neighbors: int = 0
    windows: tuple[_Window, ...] = ("brain", "subdural", "soft_tissue")
    normalization: str = "imagenet"
    learnable: bool = False
    brain: str | None = None
    brain_hu: float | None = None

    def __post_init__(self) -> None:
        given = (self.windows,) if isinstance(self.windows, str) else self.windows  # one by its name
        windows = tuple(w if isinstance(w, str) else _pair(w) for w in given)
        object.__setattr__(self, "windows", windows)
        if not 16 <= self.size <= 1024:
            raise UserError(f"input.size={self.size}: expected 16 to 1024 pixels")
        if not 0 <= self.neighbors <= 16:
            raise UserError(f"input.neighbors={self.neighbors}: expected 0 to 16")
        if len(windows) > MOST_WINDOWS:
            raise UserError(f"input.windows holds {len(windows)} windows: expected at most {MOST_WINDOWS}")
        if self.normalization not in NORMALIZATIONS:
            raise UserError(
                f"input.normalization={self.normalization}: expected one of {', '.join(NORMALIZATIONS)}"
            )
        for window in windows:
            if isinstance(window, str) and window not in (*WINDOWS, "dicom"):
                known = ", ".join((*WINDOWS, "dicom"))
                raise UserError(
                    f"input.windows holds {window!r}: expected one of {known}, or [center, width] in HU"
                )
        if (self.normalization == "max_abs") != (not windows):
            raise UserError(
                f"input.windows={list(windows)} with input.normalization={self.normalization}: max_abs "
                "takes no windows, and every other normalization needs at least one"
            )
        if self.normalization == "imagenet_rgb" and len(windows) != 3:
            raise UserError(f"input.windows={list(windows)}: imagenet_rgb needs three windows")
        self._check_brain()
        if self.learnable and (not windows or "dicom" in windows):
            raise UserError("input.learnable=true needs named windows or [center, width]")

    def _check_brain(self) -> None:
        if self.brain is not None and self.brain not in BRAINS:
            raise UserError(f"input.brain={self.brain}: expected null or one of {', '.join(BRAINS)}")
        if self.brain_hu is None:
            return
        if not 20 <= self.brain_hu <= 45:
            raise UserError(f"input.brain_hu={self.brain_hu:g}: expected null or 20 to 45 HU, usually 35")
        if "dicom" in self.windows:
            raise UserError(f"input.brain_hu={self.brain_hu:g} shifts HU: no window may be dicom")

    @property
    def slices(self) -> int:
        """Number of slices in one input: the slice itself and its neighbors."""
        return 2 * self.neighbors + 1

    @property
    def shows_slices(self) -> bool:
        """Whether a network sees slices as they are, at its size."""
        return self.brain is None and self.brain_hu is None

    @property
    def depth(self) -> int:
        """Number of planes in one input: its slices, and with ``brain="channel"`` one of only the brain."""
        return self.slices + (self.brain == "channel")

    @property
    def in_chans(self) -> int:
        """Number of channels that the backbone takes."""
        return self.depth * max(1, len(self.windows))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """Builds what ``to_dict`` returned, in this version or an earlier one."""
        return cls(**{RENAMED.get(name, name): value for name, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for a checkpoint that loads with ``weights_only=True``."""
        return asdict(self) | {"windows": [w if isinstance(w, str) else list(w) for w in self.windows]}


def _pair(window: Any) -> tuple[float, float]:
    try:
        center, width = (float(value) for value in window)
    except (TypeError, ValueError):
        raise UserError(f"input.windows holds {window!r}: expected [center, width] in HU") from None
    if not width > 0:
        raise UserError(f"input.windows holds {window!r}: the width must be above 0 HU")
    return center, width


def check_seed(name: str, seed: Any) -> None:
    """Refuses a seed that some random generator cannot take; NumPy's old one has 32 bits.

    Args:
        name: The setting's name, for the message.
        seed: Its value.

    Raises:
        UserError: If it is not a whole number from 0 to 4294967295.
    """
    if not (isinstance(seed, int) and 0 <= seed <= 2**32 - 1):
        raise UserError(f"{name}={seed}: expected a whole number from 0 to {2**32 - 1}")


def check_thickness(name: str, thickness: Any) -> None:
    """Refuses an impossible thickness of slices in mm; None averages no slices.

    Args:
        name: The setting's name, for the message.
        thickness: Its value.

    Raises:
        UserError: If it is not a number above 0 and up to 20, because thicker slices of a head are not made.
    """
    if thickness is not None and not (isinstance(thickness, int | float) and 0 < thickness <= 20):
        raise UserError(f"{name}={thickness}: expected mm above 0 and up to 20")


def check_threads(threads: Any) -> None:
    """Refuses an impossible number of threads; None leaves the number open.

    Raises:
        UserError: If it is not a whole number, 1 or more.
    """
    if threads is not None and not (isinstance(threads, int) and threads >= 1):
        raise UserError(f"threads={threads}: expected 1 or more")


UNFINISHED = (
    "the batch holds HU as it was read, because the hooks of HeadCTDataModule did not run: give the Trainer "
    "datamodule=data instead of dataloaders, or in a loop of your own call ich.data.to_images(batch, data)"
)
"""What is wrong with a batch of a loader whose data module a Trainer does not know."""


class Batch(TypedDict):
    """What ``HeadCTDataModule`` gives a LightningModule, after the transfer to the device.

    After the transfer a batch has ``image`` (``hu`` with learnable windows). Before it, a batch travels as
    ``hu``, which is a third of the size.
    """

    image: NotRequired[Tensor]  # (N, C, S, S) float32, windowed and normalized
    hu: NotRequired[Tensor]  # (N, D, S, S) int16, Hounsfield units, D = InputSpec.depth
    window: NotRequired[Tensor]  # (N, 2) float32, the header's center and width in HU, on request
    window_changes: NotRequired[Tensor]  # (N, 16, 2) float32, beside ``hu``: of random windows in training
    target: Tensor  # (N, L) float32, 0 or 1 for each label; in training also between them; NaN where unknown
    logit_shift: NotRequired[Tensor]  # (N, L) float32, to add to logits in training; of balanced sampling
    study: NotRequired[Tensor]  # (N,) int64, the slice's study in the batch, from 0; with labels of studies
    study_target: NotRequired[Tensor]  # (K, L) float32, beside ``study``; NaN where unknown
    series: NotRequired[Tensor]  # (N,) int64, the slice's series in the batch, from 0; with batches of series
    position: NotRequired[Tensor]  # (N,) float32, mm along the slice normal, beside ``series``
    row: Tensor  # (N,) int64, the slice's row in the data module's table
