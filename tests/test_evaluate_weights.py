"""``ich evaluate --checkpoint``: only the model that made the predictions is taken for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import call
from predictions import keep_any, make_table

from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier, hash_weights, load_slice_net
from ich.schema import InputSpec, UserError
from ich.tables import WEIGHTS_COLUMN, read_predictions, write_table

UNCHECKED = "do not name the weights"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models that differ in their weights alone."""
    folder = tmp_path_factory.mktemp("bundles")
    paths = {}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        model = SliceClassifier("test_resnet", input=InputSpec(size=64), pretrained=False).net
        paths[name] = folder / f"{name}.zip"
        write_bundle(model.metadata, model.state_dict(), paths[name])
    return paths


def write_predictions(path: Path, *, patients: int = 8, **weights: str) -> Path:
    """A predictions table; ``weights_sha256`` is its column, which is absent without it."""
    write_table(keep_any(make_table(patients=patients)).assign(**weights), path)
    return path


def evaluate(*arguments: object) -> int:
    return call("evaluate", *map(str, arguments), "--replicates", "5")


def name_weights(bundle: Path) -> dict[str, str]:
    return {WEIGHTS_COLUMN: hash_weights(load_slice_net(bundle))}


def test_another_model_is_refused(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (name_weights(bundle) for bundle in bundles.values())
    path = write_predictions(tmp_path / "table.csv", **a)
    assert evaluate(path, "--checkpoint", bundles["b"]) == 2
    printed = capsys.readouterr().err
    assert f"{bundles['b']} did not make the predictions" in printed
    assert f"{b[WEIGHTS_COLUMN][:12]}..." in printed
    assert f"{a[WEIGHTS_COLUMN][:12]}..." in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "evaluation").exists()


def test_the_model_that_made_them_is_taken(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_predictions(tmp_path / "table.csv", **name_weights(bundles["a"]))
    assert evaluate(path, "--checkpoint", bundles["a"]) == 0
    assert UNCHECKED not in capsys.readouterr().out
    assert UNCHECKED not in (tmp_path / "evaluation/report.html").read_text(encoding="utf-8")


def test_validation_of_another_model_is_refused(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Operating points of one model mean nothing for another."""
    a, b = (name_weights(bundle) for bundle in bundles.values())
    path = write_predictions(tmp_path / "table.csv", **a)
    other = write_predictions(tmp_path / "val.csv", patients=4, **b)
    assert evaluate(path, "--val", other) == 2
    printed = capsys.readouterr().err
    assert f"{other} is from another model than the predictions" in printed
    assert f"{a[WEIGHTS_COLUMN][:12]}..." in printed
    assert f"{b[WEIGHTS_COLUMN][:12]}..." in printed
    unnamed = write_predictions(tmp_path / "unnamed.csv", patients=4)
    assert evaluate(unnamed, "--val", other, "--out", tmp_path / "unnamed") == 2
    assert "holds all slices" in capsys.readouterr().err


@pytest.mark.parametrize("weights", [{}, {WEIGHTS_COLUMN: ""}])
def test_what_cannot_be_checked_is_said(
    weights: dict[str, str],
    bundles: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_predictions(tmp_path / "table.csv", **weights)
    assert evaluate(path, "--checkpoint", bundles["a"]) == 0
    assert UNCHECKED in capsys.readouterr().out
    assert UNCHECKED in (tmp_path / "evaluation/report.html").read_text(encoding="utf-8")
    assert evaluate(path) == 0
    assert UNCHECKED not in (tmp_path / "evaluation/report.html").read_text(encoding="utf-8")


def test_slices_of_several_models_name_no_weights(bundles: dict[str, Path], tmp_path: Path) -> None:
    named = [name_weights(bundle)[WEIGHTS_COLUMN] for bundle in bundles.values()]
    table = make_table(patients=8)
    table[WEIGHTS_COLUMN] = [named[n % 2] for n in range(len(table))]
    write_table(table, tmp_path / "table.csv")
    assert evaluate(tmp_path / "table.csv", "--checkpoint", bundles["a"]) == 2


def test_a_mean_takes_the_checkpoint_of_any_of_its_models(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Where models are only compared, the report is of the first."""
    paths = [write_predictions(tmp_path / f"{name}.csv", **name_weights(bundles[name])) for name in "ab"]
    assert evaluate(*paths, "--checkpoint", bundles["b"]) == 2
    assert evaluate(*paths, "--checkpoint", bundles["a"]) == 0
    assert evaluate(*paths, "--ensemble", "--checkpoint", bundles["b"]) == 0


def test_the_hash_is_of_every_tensor_and_of_nothing_else(bundles: dict[str, Path], tmp_path: Path) -> None:
    model = load_slice_net(bundles["a"])
    before = hash_weights(model)
    assert before == hash_weights(load_slice_net(bundles["a"]))
    model.metadata = replace(model.metadata, decisions={})
    model.backbone.to(memory_format=torch.contiguous_format)
    assert hash_weights(model) == before
    for name, tensor in model.state_dict().items():
        kept = tensor.clone()
        tensor += 1
        assert hash_weights(model) != before, name
        tensor.copy_(kept)
    assert hash_weights(model) == before


def test_a_name_that_is_not_a_sha256_is_refused(tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "table.csv", **{WEIGHTS_COLUMN: "resnet"})
    with pytest.raises(UserError, match="values that are not SHA-256"):
        read_predictions(path)
