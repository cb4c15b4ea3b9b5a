"""The run that made a predictions table: its settings and its sets, in words.

From the run's ``config.yaml``, only settings that name no file or folder are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ich.schema import RENAMED, UserError
from ich.schema.labels import LabelSet
from ich.schema.shares import show_percent
from ich.tables import restore_texts


@dataclass(frozen=True)
class Run:
    """The run behind a table; empty if nothing is known.

    Attributes:
        settings: Settings by name, both in words.
        parts: Number of slices and patients of each part of the split.
        leaky: Whether slices were split without regard to patients.
        phantom: Whether the data are synthetic.
        labels: What the model predicts; None where it is not known.
    """

    settings: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    leaky: bool = False
    phantom: bool = False
    labels: LabelSet | None = None


def read_run(folder: Path) -> Run:
    """Reads the description of a run from its folder; missing or damaged items are left out."""
    config = _read_config(folder / "config.yaml")
    settings = {}
    for name, describe in _SETTINGS.items():
        try:
            settings[name] = describe(config)
        except (KeyError, TypeError, AttributeError, ValueError):
            continue
    data = config.get("data")
    data = data if isinstance(data, dict) else {}
    return Run(
        settings,
        _read_parts(folder / "split.csv"),
        data.get("split") == "slice",
        bool(data.get("phantom")),
        _read_labels(config),
    )


def _read_labels(config: dict[str, Any]) -> LabelSet | None:
    try:
        return LabelSet(**{key: value for key, value in config["labels"].items() if key != "_target_"})
    except (KeyError, TypeError, AttributeError, UserError):
        return None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _read_parts(path: Path) -> dict[str, tuple[int, int]]:
    try:
        split = restore_texts(pd.read_csv(path, dtype="str", keep_default_na=False))
        grouped = split.groupby("part", sort=False)["PatientID"]
    except (OSError, ValueError, KeyError):
        return {}
    return {str(part): (len(patients), patients.nunique()) for part, patients in grouped}


def describe_input(given: Mapping[str, Any]) -> str:
    """Describes the input of a network in words, by the plain values of an ``InputSpec``."""
    spec = {RENAMED.get(name, name): value for name, value in given.items()}
    windows = ", ".join(
        window if isinstance(window, str) else f"center {window[0]:g}, width {window[1]:g} HU"
        for window in spec["windows"]
    )
    slices = 2 * int(spec["neighbors"]) + 1
    return (
        f"{spec['size']} by {spec['size']} pixels, {slices} slice{'s' * (slices > 1)}, "
        f"windows: {windows or 'none'}, normalization: {spec['normalization']}"
    )


def _describe_start(config: dict[str, Any]) -> str:
    pretrain = config.get("pretrain") or {}
    first = _describe_weights(config["model"] | (pretrain.get("model") or {}))
    if not pretrain:
        return first
    target = str((pretrain.get("model") or {}).get("_target_"))
    how = "without labels on slices" if target.endswith(".SelfSupervised") else "on synthetic head CT"
    return f"{first}, then pretrained {how}"


def _describe_weights(model: dict[str, Any]) -> str:
    digest = model.get("weights_sha256")
    if model.get("init_from"):
        return "the weights of another model of this program"
    if model.get("weights_file"):
        return f"all weights of the backbone from a user's file, SHA-256 {digest or 'not known'}"
    if model["pretrained"]:
        place = f" from an installed package, SHA-256 {digest}" if digest else ""
        return f"published weights of the backbone{place}"
    return "random"


def _describe_split(config: dict[str, Any]) -> str:
    data = config["data"]
    if data["split"] not in ("patient", "slice"):
        return "by a user's file"
    if data.get("fold") == "all":
        each = f"{data['folds']} folds, each the test set of one model"
        return f"by {data['split']}, {each}, seed {data['seed']}"
    if data.get("fold") is not None:
        return f"by {data['split']}, fold {data['fold']} of {data['folds']} held out, seed {data['seed']}"
    shares = (
        f"{show_percent(data['val_fraction'])} validation set, {show_percent(data['test_fraction'])} test set"
    )
    return f"by {data['split']}, {shares}, seed {data['seed']}"


def _describe_labels(config: dict[str, Any]) -> str:
    data, model = config["data"], config["model"]
    if not data.get("study_labels"):
        return "of slices"
    return f"of studies{' and slices' if data.get('labels') else ''}, pooled by {model['study_pool']}"


def _describe_augmentation(config: dict[str, Any]) -> str:
    augment = config["augment"]
    if not augment:
        return "none"
    if not augment["_target_"].startswith("ich."):
        return ", ".join(_list_targets(augment))
    words = (
        f"{k} {v:g}"
        for k, v in augment.items()
        if isinstance(v, float | int) and not isinstance(v, bool) and v
    )
    return ", ".join(words)


def _list_targets(node: Any) -> list[str]:
    """Names what a part of the configuration builds, without what only holds other parts."""
    if not isinstance(node, dict | list):
        return []
    inner = [
        name for part in (node.values() if isinstance(node, dict) else node) for name in _list_targets(part)
    ]
    own = [node["_target_"].rpartition(".")[2]] if isinstance(node, dict) and "_target_" in node else []
    return inner or own


def _describe_optimizer(config: dict[str, Any]) -> str:
    optim = config["optim"]
    return (
        f"{optim['name']}, learning rate {optim['lr']:g}, weight decay {optim['weight_decay']:g}, "
        f"{optim['schedule']} schedule"
    )


def _describe_backbone(config: dict[str, Any]) -> str:
    backbone = config["model"]["backbone"]
    return str(backbone["_target_"] if isinstance(backbone, dict) else backbone)


_SETTINGS: dict[str, Callable[[dict[str, Any]], str]] = {
    "backbone": _describe_backbone,
    "input": lambda config: describe_input(config["input"]),
    "start": _describe_start,
    "augmentation": _describe_augmentation,
    "loss": lambda config: str(config["loss"]["_target_"]).rpartition(".")[2],
    "optimizer": _describe_optimizer,
    "epochs": lambda config: str(int(config["trainer"]["max_epochs"])),
    "batch size": lambda config: str(int(config["data"]["batch_size"])),
    "sampling": lambda config: str(config["data"]["sampling"]),
    "labels": _describe_labels,
    "split": _describe_split,
    "seed": lambda config: str(int(config["seed"])),
}
