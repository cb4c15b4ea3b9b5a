"""Transforms of albumentations that a user brings, through the data module and the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from numpy.typing import NDArray
from test_resume import Killed, call, command, require_same

from ich.data import HeadCTDataModule
from ich.evaluation_report.run import read_run
from ich.image.augment.transforms import HIGH_HU, LOW_HU, UserTransform
from ich.models import SliceClassifier
from ich.schema import InputSpec, UserError

Image = NDArray[Any]


class Own(A.ImageOnlyTransform):
    """A user's own transform; keeps what it is given, in the class, as the transform itself is copied."""

    given: list[Image] = []  # noqa: RUF012 - shared on purpose

    def apply(self, img: Image, **params: Any) -> Image:
        self.given.append(img.copy())
        return img


class GlobalNoise(A.ImageOnlyTransform):
    def apply(self, img: Image, **params: Any) -> Image:
        return (img * np.random.uniform(0.5, 1)).astype(np.float32)  # noqa: NPY002 - the global one


class CropsAir(A.ImageOnlyTransform):
    """Returns another shape for slices alone that hold air, as a made-up one does not."""

    def apply(self, img: Image, **params: Any) -> Image:
        return img[1:] if (img == 0).mean() > 0.1 else img


class Divides(A.ImageOnlyTransform):
    def apply(self, img: Image, **params: Any) -> Image:
        with np.errstate(invalid="ignore"):
            return (img / img) if (img == 0).any() else img


def halve(image: Image, **params: Any) -> Image:
    return image / 2


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    Own.given.clear()
    yield
    Own.given.clear()


def make(phantom: Path, augment: Any, neighbors: int = 0, **settings: Any) -> HeadCTDataModule:
    settings = {"num_workers": 0, "batch_size": 16} | settings
    spec = InputSpec(size=32, neighbors=neighbors)
    datamodule = HeadCTDataModule(str(phantom), spec, augment=augment, **settings)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def read_training(phantom: Path, augment: Any, neighbors: int = 0, **settings: Any) -> Image:
    """(slices, D, S, S) HU of an epoch."""
    loader = make(phantom, augment, neighbors, **settings).train_dataloader()
    return torch.cat([batch["hu"].clone() for batch in loader]).numpy()


def pipeline() -> A.Compose:
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.OneOf([A.Affine(rotate=(-20, 20), p=1), A.ElasticTransform(p=1)], p=0.7),
            A.GaussNoise(std_range=(0, 0.002), per_channel=True),
            A.CoarseDropout(p=0.3),
        ]
    )


def test_a_transform_gets_the_slice_and_its_neighbors_as_channels_from_0_to_1(phantom: Path) -> None:
    datamodule = make(phantom, Own(p=1), neighbors=1)
    Own.given.clear()  # what it was tried on
    batch = next(iter(datamodule.train_dataloader()))
    plain = next(iter(make(phantom, None, neighbors=1).train_dataloader()))
    assert torch.equal(batch["row"], plain["row"])
    for image, hu in zip(Own.given, plain["hu"].numpy(), strict=True):
        assert (image.shape, image.dtype) == ((32, 32, 3), np.float32)
        assert 0 <= image.min() < image.max() <= 1
        held = hu.transpose(1, 2, 0).clip(-1024, 3071)
        np.testing.assert_allclose(image * 4095 - 1024, held, atol=1e-3)
    assert torch.equal(batch["hu"], plain["hu"].clip(-1024, 3071))


def test_neighbors_move_together(phantom: Path) -> None:
    plain = read_training(phantom, None, neighbors=2)
    moved = read_training(phantom, A.Compose([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)]), neighbors=2)
    np.testing.assert_array_equal(moved, plain[..., ::-1, ::-1].clip(LOW_HU, HIGH_HU))
    turned = read_training(phantom, A.Affine(rotate=(-30, 30), p=1), neighbors=1)
    plain = read_training(phantom, None, neighbors=1)
    alike = (plain[:, 0] == plain[:, 1]).all(axis=(1, 2))  # at the end of a stack its last slice repeats
    assert alike.any()
    np.testing.assert_array_equal(turned[alike, 0], turned[alike, 1])
    assert (turned != plain).any(axis=(1, 2, 3)).mean() > 0.9


@pytest.mark.races
def test_changes_depend_only_on_seed_epoch_and_slice(phantom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = pipeline()
    first = read_training(phantom, transform, neighbors=1)
    for workers in (1, 2):
        again = read_training(phantom, pipeline(), neighbors=1, num_workers=workers)
        np.testing.assert_array_equal(again, first)
    transform(image=np.zeros((8, 8, 1), np.float32))  # somebody else draws from it meanwhile
    np.testing.assert_array_equal(read_training(phantom, transform, neighbors=1), first)
    assert not np.array_equal(read_training(phantom, transform, neighbors=1, seed=1), first)
    monkeypatch.setattr(HeadCTDataModule, "_current_epoch", lambda self: 1)
    assert not np.array_equal(read_training(phantom, transform, neighbors=1), first)


def test_slices_and_parts_of_a_transform_draw_on_their_own() -> None:
    hu = np.zeros((64, 1, 16, 16), np.int16)
    hu[:, :, 0, 0] = 1000
    both = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    UserTransform(both, 16, 1)(hu, [(0, 0, row, 0) for row in range(len(hu))])
    corners = [tuple(np.argwhere(slices[0] == 1000)[0]) for slices in hu]
    assert set(corners) == {(0, 0), (0, 15), (15, 0), (15, 15)}


def test_air_comes_in_where_a_slice_moves_and_hu_are_rounded() -> None:
    hu = np.full((1, 2, 32, 32), 40, np.int16)
    UserTransform(A.Affine(translate_px=8, p=1), 32, 2)(hu, [(0,)])
    assert set(np.unique(hu)) == {-1024, 40}
    brighter = np.array([[[[-1024, 0], [40, 3071]]]], np.int16)
    limits = {"brightness_limit": (0.01, 0.01), "contrast_limit": (0, 0)}
    UserTransform(A.RandomBrightnessContrast(**limits, p=1), 2, 1)(brighter, [(0,)])
    np.testing.assert_array_equal(brighter, [[[[-983, 41], [81, 3071]]]])  # 40.95 HU more


@pytest.mark.parametrize(
    ("transform", "neighbors", "message"),
    [
        (A.ToSepia(p=0.01), 2, r"ToSepia does not work on \(32, 32, 5\) float32.*leave it out \(ToSepia"),
        (A.OneOf([A.Blur(), A.ChromaticAberration()]), 0, "ChromaticAberration does not work on"),
        (A.Compose([A.MaskDropout(p=0.1)]), 0, "MaskDropout does not work on .*missing keys: {'mask'}"),
        (
            A.Compose([A.HorizontalFlip()], bbox_params=A.BboxParams("coco", ["size"])),
            0,
            r"Compose\(HorizontalFlip\) does not work on",
        ),
        (A.Compose([A.ImageCompression(p=0.01)]), 0, "ImageCompression rounds to 8 bits, .* 16 HU"),
        (A.Equalize(), 1, "Equalize rounds to 8 bits"),
        (
            A.Compose([A.Normalize()]),
            1,
            "Normalize gives values from -2.1.* expected 0 to 1 for -1024 to 3071",
        ),
        (
            A.RandomCrop(24, 32),
            0,
            r"RandomCrop returned \(24, 32, 1\) float32, expected \(32, 32, 1\) float32",
        ),
        (A.Compose([A.HorizontalFlip(), A.FromFloat()]), 0, r"FromFloat returned \(32, 32, 1\) uint8"),
        (ToTensorV2(), 0, "ToTensorV2 returned a Tensor"),
        (A.Compose([A.CenterCrop3D(size=(1, 1, 1))]), 0, "CenterCrop3D does not take an image"),
        (GlobalNoise(p=0.01), 0, "GlobalNoise gives two results for one seed; .* self.random_generator"),
        ("flip", 0, "='flip': expected an ich.image.augment.Augment or a transform of albumentations"),
        (A.HorizontalFlip, 0, "=.*HorizontalFlip'>: expected"),
    ],
)
def test_what_does_not_work_on_slices_is_refused_at_the_start_by_name(
    tmp_path: Path, transform: Any, neighbors: int, message: str
) -> None:
    with pytest.raises(UserError, match=f"^augment.*{message}"):
        HeadCTDataModule(str(tmp_path), InputSpec(size=32, neighbors=neighbors), augment=transform)


@pytest.mark.skipif(
    not hasattr(A.NoOp(), "invalid_args"), reason="older versions of albumentations only warn"
)
def test_an_argument_that_a_transform_does_not_have_is_named(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="speed"):
        transform = A.Compose([A.HorizontalFlip(speed=3)])
    with pytest.raises(UserError, match="augment: HorizontalFlip has no argument speed"):
        HeadCTDataModule(str(tmp_path), InputSpec(size=32), augment=transform)


@pytest.mark.parametrize(
    "transform",
    [
        A.Compose([A.RandomCrop(24, 24), A.Resize(32, 32)]),
        A.RandomResizedCrop(size=(32, 32)),
        A.Compose([A.FromFloat(dtype="uint8"), A.Equalize(), A.ToFloat()]),
        A.SelectiveChannelTransform([A.Blur()], channels=[0]),
        A.ReplayCompose([A.SomeOf([A.Blur(), A.RandomGamma()], n=1)]),
        A.Lambda(image=halve),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_whatever_ends_in_a_slice_is_taken(phantom: Path, transform: Any) -> None:
    batch = next(iter(make(phantom, transform, neighbors=1).train_dataloader()))
    assert (batch["hu"].shape, batch["hu"].dtype) == ((16, 3, 32, 32), torch.int16)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.Compose([A.NoOp(), CropsAir(p=1)]), r"augment: Compose\(NoOp, CropsAir\) returned \(31, 32, 1\)"),
        (Divides(p=1), "augment: Divides returned values that are not finite"),
    ],
)
def test_an_error_on_some_slices_is_one_message(phantom: Path, transform: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(make(phantom, transform, num_workers=2).train_dataloader())


@pytest.mark.trains
def test_preset_trains_on_the_command_line_and_resumes_to_the_bit(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    preset = ["input.neighbors=1", "augment=albumentations", "+augment.p=0.9"]
    assert call(monkeypatch, command(phantom, "run_dir=whole", *preset)) == 0
    Path("mine/augment").mkdir(parents=True)
    Path("mine/augment/own.yaml").write_text("defaults: [albumentations]\np: 0.9\n")
    program, *settings = command(phantom, "run_dir=cut", "input.neighbors=1", "augment=own")
    step = SliceClassifier.training_step

    def stop_in_second_epoch(self: SliceClassifier, batch: Any, batch_idx: int) -> Any:
        if self.trainer.current_epoch == 1 and batch_idx == 1:
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SliceClassifier, "training_step", stop_in_second_epoch)
        with pytest.raises(Killed):
            call(monkeypatch, [program, "--config-dir=mine", *settings])
    assert call(monkeypatch, ["train.py", "ckpt_path=cut"]) == 0
    require_same(Path("whole"), Path("cut"))
    names = "HorizontalFlip, Affine, RandomBrightnessContrast, GaussNoise, CoarseDropout"
    assert read_run(Path("cut")).settings["augmentation"] == names


@pytest.mark.parametrize(
    ("transforms", "trusted", "message"),
    [
        ("[{_target_:albumentations.ToSepia}]", "", "augment: ToSepia does not work on"),
        (
            "[{_target_:albumentations.HorizontalFlip,p:2}]",
            "",
            "(HorizontalFlip'|transforms).* p Input should be less",
        ),
        ("[{_target_:albumentations.Flip}]", "", "albumentations.Flip is not installed here"),
        ("3", "", "augment cannot be built: albumentations.Compose: "),
        ("[{_target_:test_own_augmentation.GlobalNoise}]", "", "GlobalNoise is not on the list"),
        (
            "[{_target_:test_own_augmentation.GlobalNoise}]",
            "test_own_augmentation.",
            "augment: GlobalNoise gives two results for one seed",
        ),
    ],
)
def test_a_wrong_transform_is_one_message_on_the_command_line_and_leaves_nothing(
    phantom: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    transforms: str,
    trusted: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["augment=albumentations", f"augment.transforms={transforms}", f"trusted=[{trusted}]"]
    assert call(monkeypatch, command(phantom, "run_dir=out", "input.neighbors=2", *own)) == 2
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert re.search(message, record.getMessage())
    assert "\n" not in record.getMessage()
    assert not Path("out").exists()
