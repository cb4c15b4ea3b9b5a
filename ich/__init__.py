"""Intracranial hemorrhage detection in head CT.

The modules read from top to bottom like the flow of the data. Each imports only from a lower floor.

    schema             1  labels, InputSpec, results and codes, ranges of HU, the error types
    remote             1  files and folders at an address, such as s3://bucket/folder
    files              1  complete files that only their owner can read
    progress           1  work on many files with a bar; printing to a terminal or a pipe
    machine            1  cores, memory and open files of this process; whether the model hub answers
    log                2  the log of a program: lines on standard error, lines of JSON in a file
    dicom              2  one file: header, stored pixels -> HU
    phantom            2  synthetic head-CT studies as real DICOM
    image              2  HU -> image: windows, augmentation, resizing
    tables             2  the index and the predictions table; which images are one stack
    calibration        2  calibrated probabilities; operating points; out-of-distribution reference
    folders            2  a folder with results of one setting only
    report             2  drawing toolkit: figures; documents as pages, for print, as slides
    index              3  folder -> index; label CSV; split; data quality; identical pixels
    model_files        3  checkpoint, bundle, metadata: what a file says of its model
    data               4  slice dataset and HeadCTDataModule
    models             4  SliceNet and SliceClassifier, losses, metrics, optimizers
    evaluate           4  predictions table -> figures with intervals; the RSNA's submission
    explore            4  a data set -> a page that shows what is in it
    sweeps             4  jobs of a multirun -> a page that ranks them
    studies            4  files, archives, media -> studies -> the series that is read
    generate           5  lesions learned from a data set, for the augmentation
    networks           5  trained networks, by PyTorch or as ONNX: HU -> probabilities; export
    explain            5  heat maps as arrays and pictures
    outputs            6  a study's result -> JSON, tables, page, DICOM report, key images
    evaluation_report  6  documents, pictures and galleries of an evaluation
    predict            7  models and studies -> results
    recalibrate        7  results and labels of a site -> a model fitted to it
    train              7  configuration -> run folder, with Lightning's Trainer
    doctor             7  a machine: what it has, what limits a run, and the settings for it
    quantize           8  a model -> the same in int8, and what that changes
    demo               8  a first try without data: trains on the phantom, reads an archive of it
    serve              8  the service beside a PACS: receives, reads, answers, shows
    cli                9  the commands of `ich`: arguments in, exit codes out

The names of ``HOMES`` are the public API, with those in ``__all__`` of the modules that ``docs/api.md``
lists. The rest is internal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; a program imports each name when it first uses it
    from ich.data import HeadCTDataModule as HeadCTDataModule
    from ich.dicom import read_hu as read_hu
    from ich.evaluate.submission import write_submission as write_submission
    from ich.evaluation_report import write_evaluation as write_evaluation
    from ich.explore import write_exploration as write_exploration
    from ich.index import build_index as build_index
    from ich.model_files.bundle import write_bundle as write_bundle
    from ich.models import SliceClassifier as SliceClassifier
    from ich.models import SliceNet as SliceNet
    from ich.models import load_slice_net as load_slice_net
    from ich.networks import load_network as load_network
    from ich.networks.export import export_onnx as export_onnx
    from ich.phantom import write_phantom as write_phantom
    from ich.predict import Predictor as Predictor
    from ich.predict.run import predict_folder as predict_folder
    from ich.recalibrate import write_recalibrated as write_recalibrated
    from ich.schema import InputSpec as InputSpec
    from ich.schema import ReadError as ReadError
    from ich.schema import UserError as UserError
    from ich.schema.labels import LabelSet as LabelSet
    from ich.schema.results import StudyResult as StudyResult
    from ich.studies import find_studies as find_studies
    from ich.tables import read_predictions as read_predictions
    from ich.train.trainer import build_trainer as build_trainer
    from ich.train.trainer import fit as fit

__version__ = "0.2.0"

HOMES = {
    "HeadCTDataModule": "ich.data",
    "InputSpec": "ich.schema",
    "LabelSet": "ich.schema.labels",
    "Predictor": "ich.predict",
    "ReadError": "ich.schema",
    "SliceClassifier": "ich.models",
    "SliceNet": "ich.models",
    "StudyResult": "ich.schema.results",
    "UserError": "ich.schema",
    "build_index": "ich.index",
    "build_trainer": "ich.train.trainer",
    "export_onnx": "ich.networks.export",
    "find_studies": "ich.studies",
    "fit": "ich.train.trainer",
    "load_network": "ich.networks",
    "load_slice_net": "ich.models",
    "predict_folder": "ich.predict.run",
    "read_hu": "ich.dicom",
    "read_predictions": "ich.tables",
    "write_bundle": "ich.model_files.bundle",
    "write_evaluation": "ich.evaluation_report",
    "write_exploration": "ich.explore",
    "write_phantom": "ich.phantom",
    "write_recalibrated": "ich.recalibrate",
    "write_submission": "ich.evaluate.submission",
}
"""The public names of the package, with the modules that define them."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
