"""What a run reads and writes at its end, and how often it looks at the data's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import call

import ich.data.source
import ich.model_files.checkpoint
import ich.train.scores
from ich.model_files.durable import DurableIO
from ich.models import SliceNet, hash_weights, load_slice_net

pytestmark = pytest.mark.trains

TINY = [
    *("input.size=32", "model.backbone=test_resnet", "model.pretrained=false", "trainer.gpus=0"),
    *("data.num_workers=0", "data.batch_size=48", "trainer.max_epochs=1", "logger=csv", "run_dir=run"),
]


@pytest.fixture
def arguments(phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return ["train", "data=rsna", f"data.root={phantom}", *TINY]


def note(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, noted: list[Any], what: Any) -> None:
    """Lets a function note each of its calls."""
    function: Callable[..., Any] = getattr(place, name)

    def noting(*args: Any, **kwargs: Any) -> Any:
        noted.append(what(*args))
        return function(*args, **kwargs)

    monkeypatch.setattr(place, name, noting)


def test_the_best_checkpoint_is_read_once_and_written_once_and_memory_agrees(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    nets: list[SliceNet] = []
    note(
        monkeypatch,
        DurableIO,
        "save_checkpoint",
        calls,
        lambda io, content, path, *_: f"write {Path(path).name}",
    )
    note(monkeypatch, ich.model_files.checkpoint, "load_checkpoint", calls, lambda path: f"read {path.name}")
    note(monkeypatch, ich.train.scores, "predict_parts", nets, lambda net, *_: calls.append("end") or net)
    assert call(*arguments) == 0
    assert calls == ["write best.ckpt", "write last.ckpt", "read best.ckpt", "end", "write best.ckpt"]
    (memory,), file = nets, load_slice_net("run/checkpoints/best.ckpt")
    assert memory.metadata == file.metadata
    assert None not in (file.metadata.decisions, file.metadata.ood, file.metadata.training)
    assert hash_weights(memory) == hash_weights(file)
    ours, theirs = memory.state_dict(), file.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    "more", [[], ["data.check_pixels=true", "data.cache=cache"]], ids=["plain", "cached"]
)
def test_the_folder_is_looked_at_once(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    roots: list[Path] = []
    note(monkeypatch, ich.data.source, "build_index", roots, lambda root, *_: root)
    assert call(*arguments, *more) == 0
    assert len(roots) == 1
