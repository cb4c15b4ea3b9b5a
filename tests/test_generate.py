"""Lesions that are learned from the phantom, and painted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from heads import BRAIN, MM, draw_slice, make, make_bank, read, x, y

from ich.cli import main
from ich.generate import generate_lesions
from ich.generate.diffusion import train_diffusion
from ich.generate.novelty import measure_novelty
from ich.image.lesions import Lesions
from ich.image.lesions.bank import LesionBank, read_bank, write_bank
from ich.image.lesions.head import Head, find_head
from ich.image.lesions.patches import SIZE, STEPS_MM, cut_patch, find_blood, paint_patch
from ich.schema import InputSpec, UserError


def find(hu: np.ndarray) -> Head:
    head = find_head(np.repeat(hu[None], 3, axis=0), MM, 8.0 * np.arange(3))
    assert head is not None
    return head


@pytest.fixture(scope="module")
def bank() -> LesionBank:
    return make_bank()


def test_copies_of_the_training_are_found_and_new_lesions_are_kept() -> None:
    rng = np.random.default_rng(0)

    def draw(number: int) -> np.ndarray:
        return rng.random((number, 2, SIZE, SIZE), np.float32)

    training, held_out = draw(30), draw(40)
    copies = training[:10] + rng.normal(0, 0.05, (10, 2, SIZE, SIZE)).astype(np.float32)
    mirrored = training[10:15, ..., ::-1]
    novelty, new = measure_novelty(np.concatenate([copies, mirrored, draw(200)]), training, held_out)
    assert not new[:15].any()
    assert new[15:].mean() > 0.85  # 95 % of what is drawn as the held-out ones are
    assert novelty.generated == 215
    assert novelty.copies == (~new).sum()
    assert novelty.distance_generated == pytest.approx(novelty.distance_held_out, rel=0.05)


def test_a_lesion_is_cut_out_of_one_head_and_painted_into_another() -> None:
    blood = BRAIN & (np.hypot(x - 70, y - 10) < 28)
    hu = draw_slice()
    hu[blood] = 68
    found = find_blood(find(hu), "epidural")
    assert found is not None
    head = find(hu)
    inside = blood[head.window]
    assert (found & inside).sum() > 0.8 * max(found.sum(), inside.sum())
    patch = cut_patch(head, found, "epidural")
    assert patch.angle == pytest.approx(np.arctan2(60, -10), abs=0.1)
    clean = find(draw_slice())
    painted = paint_patch(clean, patch, "epidural", np.random.default_rng(0))
    change = (painted > 55) & clean.inside
    assert change[1].sum() == pytest.approx(inside.sum(), rel=0.35)
    assert float(np.median(painted[1][change[1]])) == pytest.approx(68, abs=4)
    assert (clean.depth[1][change[1]] < 32).mean() > 0.95
    assert change[1].sum() >= change[0].sum() > 0


def test_lesions_of_a_file_are_painted(tmp_path: Path, bank: LesionBank) -> None:
    write_bank(bank, tmp_path / "lesions.safetensors")
    kept = read_bank(tmp_path / "lesions.safetensors")
    assert kept.metadata == bank.metadata
    np.testing.assert_array_equal(kept.images["epidural"], bank.images["epidural"])
    hu = np.stack([draw_slice()] * 3)
    before = hu.copy()
    lesions = Lesions(
        probability=1, calcifications=0, subtypes=["epidural"], bank=str(tmp_path / "lesions.safetensors")
    )
    assert lesions(hu, (0,), MM, np.array([-5.0, 0.0, 5.0]), healthy=True) == ("epidural",)
    assert float(np.median(hu[(hu - before > 20) & BRAIN])) == pytest.approx(65, abs=4)
    with pytest.raises(UserError, match="exists; name a new file"):
        write_bank(bank, tmp_path / "lesions.safetensors")


def test_a_file_that_is_no_bank_is_refused(tmp_path: Path, bank: LesionBank) -> None:
    path = tmp_path / "lesions.safetensors"
    with pytest.raises(UserError, match=r"lesions.bank=.* is not a file from ich generate"):
        Lesions(bank=str(path))
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="is not a file from ich generate"):
        Lesions(bank=str(path))
    write_bank(bank, tmp_path / "good.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "good.safetensors")
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UserError, match="it has no metadata"):
        Lesions(bank=str(path))
    with safetensors.safe_open(tmp_path / "good.safetensors", "numpy") as file:
        header = file.metadata()
    image, angle = tensors["epidural.image"], tensors["epidural.angle"]
    damaged: list[tuple[dict[str, Any], str]] = [
        ({"epidural.image": image}, "is damaged: it holds epidural.image"),
        ({"epidural.image": image, "epidural.angle": angle * np.nan}, "of epidural do not fit"),
        ({"epidural.image": image[:, :1], "epidural.angle": angle}, "of epidural do not fit"),
    ]
    for changed, message in damaged:
        safetensors.numpy.save_file(changed, path, header)
        with pytest.raises(UserError, match=message):
            Lesions(bank=str(path))
    newer = json.dumps(json.loads(header["ich"]) | {"format": "ich lesions 2"})
    safetensors.numpy.save_file(tensors, path, {"ich": newer})
    with pytest.raises(UserError, match=r"format is .*ich lesions 2"):
        Lesions(bank=str(path))


class Stub:
    """In place of the diffusion model: copies of what it has seen, or the same shapes elsewhere and noisy."""

    def __init__(self, images: torch.Tensor, kinds: torch.Tensor, copies: bool) -> None:
        self.images, self.kinds, self.copies = images, kinds, copies

    def sample(self, kinds: torch.Tensor, generator: torch.Generator, size: int) -> torch.Tensor:
        seen = self.images[self.kinds == kinds[0]]
        found = seen[torch.randint(len(seen), (len(kinds),), generator=generator)]
        if self.copies:
            return found
        contrast = torch.rand((len(kinds), 1, size, size), generator=generator) * 2 - 1
        return torch.cat([found[:, :1].roll(size // 2, -1), contrast], dim=1)


@pytest.mark.parametrize("copies", [False, True])
def test_only_new_lesions_are_written(
    phantom: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    copies: bool,
) -> None:
    data = make(phantom, None, InputSpec(size=64))
    monkeypatch.setattr("ich.generate.train_diffusion", lambda images, kinds, *_: Stub(images, kinds, copies))
    out = tmp_path / "lesions.safetensors"
    if copies:
        with pytest.raises(UserError, match="nothing new was learned"):
            generate_lesions(data, out, license="none", number=20)
        assert not out.exists()
        assert "are copies of lesions in the training set" in caplog.text
        return
    metadata = generate_lesions(data, out, license="none", number=20)
    assert metadata == read_bank(out).metadata
    assert metadata.patients == data.part("train")["PatientID"].nunique()
    assert set(metadata.novelty) <= set(STEPS_MM)
    rows = np.flatnonzero((data.table["part"] == "train").to_numpy())
    lesions = Lesions(probability=1, subtypes=list(metadata.novelty), bank=str(out))
    _, target = read(make(phantom, lesions), rows)
    assert target[:, -1].sum() > data.part("train")["any"].sum()


def test_too_few_lesions_are_refused(phantom: Path, tmp_path: Path) -> None:
    data = make(phantom, None, InputSpec(size=64))
    data._arrays.target[:] = 0
    with pytest.raises(UserError, match=r"too few lesions to learn from .*: 0 and 0 of epidural"):
        generate_lesions(data, tmp_path / "out", license="none")


def test_the_command_writes_lesions(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ich.generate.train_diffusion", lambda images, kinds, *_: Stub(images, kinds, False))
    out = tmp_path / "lesions.safetensors"
    settings = ["--size", "64", "--steps", "2", "--number", "12", "--license", "none"]
    monkeypatch.setattr("sys.argv", ["ich", "generate", str(phantom), str(out), *settings])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert f"wrote {out}" in capsys.readouterr().out
    assert all(np.isfinite(images).all() for images in read_bank(out).images.values())


@pytest.mark.trains
def test_the_diffusion_depends_only_on_its_seed() -> None:
    pytest.importorskip("monai")
    images, kinds = torch.rand(6, 2, 16, 16) * 2 - 1, torch.tensor([0, 0, 0, 1, 1, 1])
    first, same, other = (
        train_diffusion(images, kinds, 2, seed).sample(kinds, torch.Generator().manual_seed(0), 16)
        for seed in (0, 0, 1)
    )
    assert first.shape == images.shape
    assert first.isfinite().all()
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
