"""A first try without data: a model trains on the phantom, and reads an archive of other heads.

Each step is a command of its own, which is printed. What an earlier call has finished is not done again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from ich.demo.ahead import drawing_ahead
from ich.demo.comparison import Comparison, compare, read_truth
from ich.files import replacing
from ich.folders import prepare_folder, refusing_unwritable
from ich.outputs import INDEX
from ich.phantom.archive import write_archive
from ich.schema import UserError
from ich.train import main as train

STUDIES = 20
"""Number of studies in the archive, each of another kind."""

SIZE = 192
"""Rows and columns of their slices."""

SEED = 30
"""Seed of the archive. With it, seven of twelve whole heads have a hemorrhage, and each subtype is there."""

OUTPUTS = ("page", "sr", "sc")

VERSION = 1
"""Version of the content of the folder; a demo of another version is refused."""

TRAINING = "training.json"
"""File with the settings of the training that the caller gave."""


class Demo(NamedTuple):
    """What a demo has left.

    Attributes:
        model: The bundle of the model.
        archive: Folder with the studies.
        page: The list of results, as a page.
        comparisons: The truth of each study, and its result.
    """

    model: Path
    archive: Path
    page: Path
    comparisons: list[Comparison]


def write_demo(out: Path, *, studies: int = STUDIES, settings: Sequence[str] = ()) -> Demo:
    """Trains a model on the phantom, and reads studies of other heads with it.

    ``out`` then holds ``training`` (the phantom for training), ``run``, ``model.zip``, ``archive`` and
    ``results``. After an interruption, the same call continues.

    Args:
        out: A new folder, or the folder of an earlier call with the same arguments.
        studies: Number of studies to read.
        settings: Settings of the training, which replace those of the default run.

    Raises:
        UserError: If ``studies`` is less than 1, or ``out`` holds other files or a demo of other arguments.
        SystemExit: If a setting of the training is wrong, after a message, or if the training is stopped.
    """
    if studies < 1:
        raise UserError(f"--studies {studies}: expected 1 or more")
    run, model, archive, results = (out / name for name in ("run", "model.zip", "archive", "results"))
    with refusing_unwritable(out):
        prepare_folder(out, {"demo": VERSION})
        _keep_settings(out / TRAINING, settings, begun=(run / "config.yaml").is_file())
    numbers = {"patients": studies, "size": SIZE, "seed": SEED}
    is_trained = (run / "metrics.json").is_file()
    with nullcontext() if is_trained or archive.exists() else drawing_ahead(archive, numbers):
        _train(run, out / "training", settings)
    # Later than the training, which sets how the threads of PyTorch wait, before its import.
    from ich.networks.bundling import bundle_models
    from ich.predict import Predictor
    from ich.predict.folder import PAGES
    from ich.predict.run import predict_folder

    _tell(2, "Writes the trained model to one file", "bundle", run, model)
    if not model.exists():
        bundle_models([run], model)
    options = [word for name, value in numbers.items() for word in (f"--{name}", value)]
    _tell(3, "Writes the archive of a department", "phantom", archive, "--archive", *options)
    write_archive(archive, **numbers)
    words = ["predict", model, archive, "--out", results, "--write", *OUTPUTS]
    _tell(4, "Reads each study of the archive with the model", *words)
    summary = predict_folder(Predictor.load(model), [archive], results, OUTPUTS)
    return Demo(model, archive, results / PAGES / INDEX, compare(read_truth(archive), summary.results))


def _keep_settings(path: Path, settings: Sequence[str], *, begun: bool) -> None:
    """Keeps the settings of the training. Until it has begun they may change, because some may be wrong."""
    if begun and json.loads(path.read_text(encoding="utf-8")) != list(settings):
        raise UserError(
            f"{path.parent} holds a demo with other settings of its training: give those that {path} lists "
            "with --train, or name a new folder"
        )
    with replacing(path) as partial:
        partial.write_text(json.dumps(list(settings), indent=2) + "\n", encoding="utf-8")


def _train(run: Path, data: Path, settings: Sequence[str]) -> None:
    """Trains, continues a training that was interrupted, or leaves one that is finished."""
    new = [f"data.root={data}", f"run_dir={run}", *settings]
    words = [f"ckpt_path={run}"] if (run / "config.yaml").is_file() else new
    _tell(1, "Writes synthetic head CT, and trains a model on it", "train", *words)
    if not (run / "metrics.json").is_file():
        train(words)


def _tell(number: int, what: str, *words: object) -> None:
    command = shlex.join(map(str, ["ich", *words]))
    print(f"\nStep {number} of 4. {what}:\n  {command}", flush=True)
