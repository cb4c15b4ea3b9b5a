"""``HeadCTDataModule``: from a folder of DICOM files to batches on the device."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule

from ich.data.cache import CacheReader, build_cache
from ich.data.draws import Draws, draw_held_out, draw_training, find_rows
from ich.data.groups import check_groups
from ich.data.loader import MOST_WORKERS, SliceLoader
from ich.data.on_device import finish_batch, to_images
from ich.data.order import EpochSampler, FixedSampler, Rest, Share
from ich.data.parts import SplitSpec
from ich.data.position import align_progress, measure_rest
from ich.data.shards import ShardReader
from ich.data.slices import Reader, SliceDataset, SliceReader, to_arrays
from ich.data.source import Source, measure_prevalences, require_positions, require_windows
from ich.data.training import TrainingSpec
from ich.image.augment import Augment
from ich.image.augment.transforms import Transform, adapt
from ich.image.lesions import Lesions
from ich.image.window import Window
from ich.index.split import Shares
from ich.machine import count_cores
from ich.remote import is_address, parse_path
from ich.schema import InputSpec, ReadError, UserError, check_thickness
from ich.schema.labels import RSNA_LABELS, LabelSet, require_rsna
from ich.tables import hides_slices
from ich.tables.runs import RunDraw
from ich.tables.slabs import POSITION_COLUMNS, measure_thickness

__all__ = ["HeadCTDataModule", "to_images"]

log = logging.getLogger(__name__)


class HeadCTDataModule(LightningDataModule):
    """Streams DICOM slices as batches for any LightningModule.

    A batch is a ``Batch``: ``image`` (N, C, S, S) float32, windowed and normalized on the device; ``target``
    (N, L) float32, one column per label, NaN where unknown; ``row`` (N,) int64, the slice's row in ``table``.
    With ``input.learnable``, ``hu`` (N, D, S, S) int16 replaces ``image``.

    Args:
        root: Folder of the DICOM files, in any layout, on the disk or at an address, such as ``s3://bucket``.
        shards: Whether ``root`` holds shards, which ``ich shard`` has written, instead of DICOM files.
        input: Input of the network.
        labels: CSV file, long (RSNA) or wide; by default the one in ``root``, except with ``study_labels``.
        study_labels: CSV file with a row for each study, or for each patient of one study. Without ``labels``
            nothing is then known of the slices of positive studies. Batches for training and validation hold
            studies, and also have ``study`` (N,) int64, a slice's study within the batch, and
            ``study_target`` (K, L).
        columns: What the label files call a label or a key that they name otherwise, such as
            ``{"epidural": "EDH", "SOPInstanceUID": "image"}``.
        study_slices: With ``study_labels``, number of slices of a study in a training batch, evenly spaced.
            They differ between epochs. A batch holds as many studies as ``batch_size`` allows.
        series: Have batches hold series, with ``series`` (N,) int64, a slice's series within the batch, and
            ``position`` (N,) in mm. Training takes the runs that this draws, and validation whole series.
        label_set: Labels in these files.
        index_dir: Folder of the index; by default in ``root``, or in the user's cache if ``root`` cannot be
            written to.
        pseudonyms: Keep a keyed hash of PatientID in the index, and so everywhere else. An index with
            pseudonyms keeps them.
        trust_folders: Start without a list of the files if no folder has changed; see ``build_index``.
        cache: Folder for resized slices, which are written there first. Use it for disks that open files
            slowly.
        phantom: Arguments of ``write_phantom``, which first writes to ``root`` unless the phantom exists.
        augment: Changes training slices: an ``Augment``, or any transform of albumentations.
        lesions: Paints hemorrhages into healthy training slices, before ``augment``; for the RSNA's labels.
        split: ``patient``, ``slice`` (which leaks, and only reproduces work that did so), or a CSV file with
            ``part`` and ``PatientID`` or ``SOPInstanceUID``.
        group: ``PatientID``, or ``StudyInstanceUID`` if PatientIDs are missing or the same for all. It
            replaces PatientID in the table, the split and the predictions, so intervals are over it too.
            Studies of one patient may then be in several sets.
        val_fraction: Share of the slices in the validation set, which chooses the epoch.
        test_fraction: Share of the slices in the test set; not used with ``fold``.
        fold: Use this fold, counted from 0, as the test set. A run also takes ``all``, and trains one fold
            after another.
        folds: Number of folds.
        check_pixels: Find slices that are the same under different patients, which needs some reads of each
            file the first time. Such patients go to one set; a split file that separates them is refused.
        limit_slices: Use a sample of whole patients of about this many slices.
        batch_size: Number of slices per batch and process.
        num_workers: Number of threads that read; by default one per core, at most 8.
        thickness: Average much thinner slices to this thickness in mm; see ``ich.tables.slabs``. The row of
            the middle slice then stands for their mean. It is positive if one of them is, and the others are
            in no set. None leaves all slices as they are.
        sampling: ``natural``, or ``balanced`` to favor slices with rare subtypes. Then training batches have
            ``logit_shift`` (N, L). The loss is to be computed on logits plus this shift, so that the logits
            themselves are those of the natural prevalences.
        label_smoothing: Share of each training target that the label's prevalence replaces. Unlike one half
            for all, this keeps the mean of the targets, so rare labels stay calibrated.
        first_sizes: Sizes of the images in the first epochs of the training, one for each, which is cheaper.
            Later epochs and evaluation use ``input.size``.
        unlabeled: Add slices without a label to the training set, unless their patient is in another set.
        views: Times that a slice of the training or validation set comes in a row, augmented anew each time.
        tolerate: Number of unreadable slices to leave out and count before the run stops.
        seed: Random seed for the split, the sample, the sampling order and the augmentation.

    Raises:
        UserError: From ``setup``, for anything that the user must fix in the data.
    """

    def __init__(
        self,
        root: str,
        input: InputSpec,  # noqa: A002 - the configuration's word
        *,
        shards: bool = False,
        labels: str | None = None,
        study_labels: str | None = None,
        columns: Mapping[str, str] | None = None,
        study_slices: int = 16,
        series: RunDraw | None = None,
        label_set: LabelSet = RSNA_LABELS,
        index_dir: str | None = None,
        pseudonyms: bool = False,
        trust_folders: bool = False,
        cache: str | None = None,
        phantom: Mapping[str, Any] | None = None,
        augment: Augment | Transform | None = None,
        lesions: Lesions | None = None,
        split: str = "patient",
        group: str = "PatientID",
        val_fraction: float = 0.15,
        test_fraction: float = 0.15,
        fold: int | str | None = None,
        folds: int = 5,
        check_pixels: bool = False,
        limit_slices: int | None = None,
        batch_size: int = 32,
        num_workers: int | None = None,
        thickness: float | None = None,
        sampling: str = "natural",
        label_smoothing: float = 0.0,
        first_sizes: Sequence[int] = (),
        unlabeled: bool = False,
        views: int = 1,
        tolerate: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"data.batch_size={batch_size}: expected 1 or more")
        if num_workers is not None and num_workers < 0:
            raise UserError(f"data.num_workers={num_workers}: expected 0 or more")
        if cache is not None and is_address(cache):
            raise UserError(
                f"data.cache={cache}: a cache must be a folder on a disk of this machine; to prepare slices "
                "at an address, use ich shard"
            )
        check_thickness("data.thickness", thickness)
        check_groups(split, study_labels, series)
        if lesions is not None:
            require_rsna(label_set.names, "lesions")
        self.source = Source(
            root=parse_path(root),
            labels=labels,
            study_labels=study_labels,
            columns=columns or {},
            label_set=label_set,
            index_dir=Path(index_dir) if index_dir else None,
            pseudonyms=pseudonyms,
            trust_folders=trust_folders,
            phantom=phantom,
            group=group,
            split=SplitSpec(split, Shares(val_fraction, test_fraction, fold, folds, seed)),
            check_pixels=check_pixels,
            limit_slices=limit_slices,
            thickness=thickness,
            unlabeled=unlabeled,
            shards=shards,
        )
        self.input = input
        self.label_set = label_set
        self.cache = Path(cache) if cache else None
        self.batch_size = batch_size
        self.num_workers = min(MOST_WORKERS, count_cores()) if num_workers is None else num_workers
        self.training = TrainingSpec(
            size=input.size,
            augment=adapt(augment, input),
            lesions=lesions,
            sampling=sampling,
            label_smoothing=label_smoothing,
            first_sizes=tuple(first_sizes),
            views=views,
            study_slices=study_slices if study_labels and views == 1 else None,  # views need no labels
            series=series,
            seed=seed,
        )
        self.tolerate = tolerate
        self.seed = seed
        self.predict_sets: tuple[str, ...] = ("val", "test")
        self.predict_limit: int | float | None = None  # batches of each part, or its share; None is all
        self.unread: dict[str, ReadError] = {}
        self.read, self.decoded = 0, 0
        self._epoch = 0  # of a loop without a Trainer
        self._rest: Rest | None = None  # of the epoch in which a run was resumed
        self._index: pd.DataFrame | None = None  # between prepare_data and setup
        self._table: pd.DataFrame | None = None
        self._cached: CacheReader | None = None
        self._window = Window(input)

    @property
    def table(self) -> pd.DataFrame:
        """The index with the label columns and ``part``, one row per slice. Made by ``setup``.

        A slice without any label is in no set (``unlabeled``), and serves only as a neighbor.
        """
        if self._table is None:
            raise RuntimeError("call HeadCTDataModule.setup() first")
        return self._table

    @property
    def labeled(self) -> pd.DataFrame:
        """The rows of the table that are in a set."""
        return self.table[self.table["part"] != "unlabeled"]

    def part(self, name: str) -> pd.DataFrame:
        """Returns the table's rows of ``train``, ``val`` or ``test``."""
        return self.table[self.table["part"] == name]

    @property
    def by_study(self) -> bool:
        """Whether batches for training and validation hold studies, with their targets."""
        return self.training.study_slices is not None

    @property
    def hides_slices(self) -> bool:
        """Whether targets are known of studies only; see ``ich.tables.hides_slices``."""
        return hides_slices(self.labeled, "")

    def prevalences(self, *, by_study: bool = False) -> tuple[float, ...]:
        """Returns the share of positives among known targets of the training set, one per label.

        It is at least ``MIN_PREVALENCE``, so that a label without positives is not ruled out; NaN if nothing
        is known, or if targets of slices are hidden.

        Args:
            by_study: Count studies by their own targets, not slices.
        """
        if self.hides_slices and not by_study:
            return (float("nan"),) * len(self.label_set.names)
        return measure_prevalences(self.part("train"), self.label_set.names, by_study=by_study)

    def measure_thickness(self) -> float | None:
        """Measures the usual step between slices in the training set, mm; None if positions are unknown.

        It is ``thickness`` if that is given. A model averages much thinner slices to it.
        """
        if self.source.thickness is not None:
            return self.source.thickness
        patients = self.table["PatientID"]
        trained = patients.isin(patients[self.table["part"] == "train"].unique())
        return measure_thickness(self.table.loc[trained, list(POSITION_COLUMNS)])

    def prepare_data(self) -> None:
        """Writes the phantom, hashes and cache if asked, and brings the index up to date, in one process."""
        if self._table is None:
            self.source.write_phantom()
            self._index = self.source.read_index()
        if self.source.check_pixels:
            self.setup()  # keeps the hashes, which other processes then only read
        if self.cache is not None:
            self.setup()
            reader, size = self._make_file_reader(), self.input.size
            build_cache(self.cache, reader, self.table, self._arrays, size, self.num_workers)

    def setup(self, stage: str | None = None) -> None:
        """Joins the index to the labels and splits it.

        Args:
            stage: Lightning's stage; every stage needs the same table.
        """
        self._rest = None
        index, self._index = self._index, None  # not kept: it is as large as the table
        if self._table is not None:
            return
        # In the process that has just brought it up to date, a look at each file again would tell no news.
        table = self.source.make_table(self.source.read_index() if index is None else index)
        if "dicom" in self.input.windows:
            require_windows(table)
        if self.training.series is not None:
            require_positions(table)
        self._arrays = to_arrays(table, self.label_set.names)
        self._table = table

    def train_dataloader(self) -> SliceLoader:
        """Returns batches of the training set, in a new order in each epoch."""
        draws = draw_training(self.table, self._arrays, self.training, self.batch_size)
        is_enough = len(draws.rows) > draws.batch_size * self._find_share().of
        return self._load(draws, drop_last=is_enough, find_rest=lambda: self._find_rest())

    def val_dataloader(self) -> SliceLoader:
        """Returns batches of the validation set, in the order of the table; several views are augmented."""
        return self._load_held_out("val")

    def test_dataloader(self) -> SliceLoader:
        """Returns batches of the test set, in the order of the table."""
        return self._load_held_out("test")

    def predict_dataloader(self) -> SliceLoader:
        """Returns batches of ``predict_sets``, in the order of the table, as they are."""
        rows = [self._limit(find_rows(self.table, part)) for part in self.predict_sets]
        return self._load(Draws(np.sort(np.concatenate(rows)), self.batch_size))

    def _load_held_out(self, part: str) -> SliceLoader:
        return self._load(draw_held_out(self.table, part, self._arrays, self.training, self.batch_size))

    def _limit(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if isinstance(limit := self.predict_limit, float):
            return rows[: round(limit * len(rows))]
        return rows if limit is None else rows[: limit * self.batch_size]

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of a loop without a Trainer, which order and augmentation depend on.

        Args:
            epoch: The epoch, from 0. Without this call it is 0 in each pass.
        """
        self._epoch = epoch

    def _current_epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer is not None else self._epoch

    def _find_rest(self) -> Rest | None:
        rest = self._rest
        return rest if rest is not None and rest.epoch == self._current_epoch() else None

    def _find_share(self) -> Share:
        return Share() if self.trainer is None else Share(self.trainer.global_rank, self.trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        """Returns the position in the training set, and the counts, for a checkpoint."""
        counts = {"read": self.read, "decoded": self.decoded}
        return counts if self.trainer is None else counts | asdict(measure_rest(self.trainer, self._rest))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues at this position."""
        self.read, self.decoded = state_dict["read"], state_dict["decoded"]
        rest = Rest(state_dict["epoch"], state_dict["drawn"], state_dict["planned"])
        self._rest = rest if rest.drawn else None

    def align_progress(self) -> None:
        """Has Lightning count the batches of a resumed epoch for this number of processes."""
        if self.trainer is not None:
            align_progress(self.trainer, self._rest)

    def _load(self, draws: Draws, **loading: Any) -> SliceLoader:
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            sampler: EpochSampler = FixedSampler(draws.rows, draws.order)
        else:
            share = self._find_share()
            sampler = EpochSampler(draws.rows, draws.order, lambda: self._current_epoch(), share)
        pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return SliceLoader(
            SliceDataset(self._make_reader(), self._arrays, self.input, draws.training, draws.groups, pinned),
            batch_size=draws.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
            **loading,
        )

    def _make_reader(self) -> Reader:
        if self.cache is None:
            return self._make_file_reader()
        if self._cached is None:
            self._cached = CacheReader(self.cache, self.source.root, self.table, self.input.size)
        return self._cached

    def _make_file_reader(self) -> Reader:
        if self.source.shards:
            return ShardReader(self.source.root, self.table, self.input.size)
        return SliceReader(self.source.root, self._arrays)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Counts the slices that could not be read.

        Raises:
            ReadError: For the first slice over ``tolerate``.
            UserError: If no slice of a batch could be read.
        """
        self.read += batch.pop("read", 0)
        self.decoded += batch.pop("decoded", 0)
        for row, error in batch.pop("unread", []):
            if error.path in self.unread:
                continue
            self.unread[error.path] = error
            if len(self.unread) > self.tolerate:
                raise error
            log.warning("left out row %d: %s (%d of %d)", row, error.code, len(self.unread), self.tolerate)
        if "hu" not in batch:
            raise UserError("no slice of a batch could be read; see the warnings above")
        return batch

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Augments the batch on its device if requested, and windows it unless the model does."""
        return finish_batch(batch, self._window)
