"""A heat map follows what the network does, of whatever backbone; the command writes it with its slice."""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from command import call
from scipy.stats import spearmanr
from torch import nn

from ich.dicom import read_hu
from ich.explain import METHODS, explain, explain_finely
from ich.explain.drawing import draw_heat
from ich.explain.grids import find_grid
from ich.explain.inside import end_inside, find_inside
from ich.image.resize import resize_hu, restore_size
from ich.model_files.bundle import write_bundle
from ich.models import SliceClassifier, SliceNet, load_slice_net
from ich.report.heat import CONTOURS
from ich.schema import DISCLAIMER, LABELS, InputSpec, UserError

BACKBONES = {
    "test_resnet": 64,
    "test_efficientnet": 64,
    "test_convnext": 64,
    "test_byobnet": 64,
    "test_vit": 160,  # continues with the class token only
    "test_vit3": 160,
    "test_mambaout": 64,
    "baseline_cnn": 64,  # none of timm's own
}


def make(backbone: str = "test_resnet", seed: int = 0, **spec) -> SliceNet:
    torch.manual_seed(seed)
    spec = InputSpec(**{"size": BACKBONES[backbone], **spec})
    model = SliceClassifier(backbone, input=spec, pretrained=False).net
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: no longer the identity
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model.eval()


def make_images(model: SliceNet, count: int = 3) -> torch.Tensor:
    noise = torch.randn(count, model.input.in_chans, 16, 16, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(noise, (model.input.size, model.input.size), mode="bicubic")


def correlate(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.mean([spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]))


@pytest.mark.trains
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_maps_of_any_backbone(backbone: str, method: str) -> None:
    model = make(backbone)
    x = make_images(model)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        logits = model(x)
        maps = torch.stack([explain(model, x, label, method) for label in LABELS])  # (6, N, S, S)
    assert maps.shape == (6, *x.shape[:1], *x.shape[2:])
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert maps.min() >= 0
    peaks = maps.amax(dim=(2, 3))
    assert set(peaks.unique().tolist()) <= {0.0, 1.0}
    assert peaks.any()
    assert not all(torch.equal(map_, maps[0]) for map_ in maps[1:])
    # The model is as it was, hooks and gradients included.
    assert torch.equal(model(x), logits)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    alone = explain(model, x[1:2], LABELS[int(peaks[:, 1].argmax())], method, grid=find_grid(model, x))
    torch.testing.assert_close(alone[0], maps[int(peaks[:, 1].argmax()), 1], rtol=0, atol=0.02)


SIZE, SIDE = 64, 16  # pixels and cells a side


class Halves(nn.Module):
    """Adds up brightness: for ``epidural`` over the left half of an image, for ``any`` over the right."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(1, 1, 3, 2, 1, bias=False) for _ in range(2)]
        self.backbone = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(SIDE * SIDE, len(LABELS), bias=False)
        for convolution in convolutions:
            nn.init.constant_(convolution.weight, 1 / 9)
        left = (torch.arange(SIDE) < SIDE // 2).float().repeat(SIDE)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.weight[LABELS.index("epidural")] = left
            self.head.weight[LABELS.index("any")] = 1 - left

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def draw_blobs(count: int, seed: int):
    """Noise (N, 1, S, S) with a blob in each half or not; its place (N, 2, 2); if it is there (N, 2)."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.3 * torch.randn(count, 1, SIZE, SIZE, generator=generator)
    target = torch.randint(0, 2, (count, 2), generator=generator).float()
    low = torch.tensor([[SIZE // 8, SIZE // 8], [SIZE // 8, SIZE * 5 // 8]])
    places = low + torch.randint(0, SIZE // 4, (count, 2, 2), generator=generator)
    half = SIZE // 16
    for n, side in target.nonzero().tolist():
        row, column = places[n, side].tolist()
        image[n, 0, row - half : row + half, column - half : column + half] += 2
    return image, places, target


def test_peak_is_where_the_evidence_is() -> None:
    model = Halves().eval()
    image, places, target = draw_blobs(64, seed=5)
    cell = SIZE / find_grid(model, image).layout.side
    for side, label in enumerate(("epidural", "any")):
        heat = explain(model, image, label)
        shown = target[:, side] == 1
        peaks = heat[shown].flatten(1).argmax(dim=1)
        distance = torch.stack([peaks // SIZE, peaks % SIZE], dim=1) - places[shown, side]
        assert len(distance) > 20
        assert distance.abs().max() <= cell


def test_another_label_and_other_weights_give_another_map() -> None:
    model, other = Halves().eval(), Halves().eval()
    with torch.no_grad():
        other.head.weight.copy_(model.head.weight.flip(0))  # the first label is epidural, the last is any
    image, _, target = draw_blobs(64, seed=6)
    both = image[target.all(dim=1)]
    left, right = explain(model, both, "epidural"), explain(model, both, "any")
    assert (left.amax(dim=(1, 2)) == 1).all()
    assert (right.amax(dim=(1, 2)) == 1).all()
    # A map is linear between the middles of cells, so that a part of a cell reaches over the middle.
    border = SIZE // SIDE
    assert left[..., SIZE // 2 + border :].max() == 0
    assert right[..., : SIZE // 2 - border].max() == 0
    torch.testing.assert_close(explain(other, both, "any"), left)
    torch.testing.assert_close(explain(other, both, "epidural"), right)
    torch.testing.assert_close(explain(model, both + 0.01, "any"), right, rtol=0, atol=0.02)


def test_grid_of_a_convolution_is_laid_where_it_looks() -> None:
    """Convolutions that halve the size look half a pixel to the upper left, of their input, each time."""

    class Halving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(
                nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.head = nn.Linear(8, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.backbone(x))

    torch.manual_seed(0)
    model = Halving().eval()
    for convolution in model.backbone[:2]:
        nn.init.ones_(convolution.weight)
    down, right = find_grid(model, torch.randn(2, 1, 64, 64)).shift
    assert (down, right) == (pytest.approx(-1.5, abs=0.1), pytest.approx(-1.5, abs=0.1))


def test_tokens_of_a_patch_are_where_it_was_cut_from() -> None:
    grid = find_grid(make("test_vit"), make_images(make("test_vit")))
    assert (grid.layout.side, grid.layout.prefix, grid.shift) == (10, 1, (0.0, 0.0))
    assert grid.name == "blocks.5.norm1"  # the class token alone goes on after the last block


def test_learnable_windows_are_explained_from_their_image() -> None:
    model = make(neighbors=1, learnable=True)
    hu = torch.randint(-100, 200, (2, 3, 64, 64), dtype=torch.int16)
    maps = torch.stack([explain(model, model.window(hu), label) for label in LABELS])
    assert maps.shape == (6, 2, 64, 64)
    assert maps.max() == 1


class Flat(nn.Module):
    """Sees no place."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x)


@pytest.mark.parametrize(
    ("model", "label", "method", "kind", "message"),
    [
        (Flat().eval(), "any", METHODS[0], UserError, "no heat map of Sequential"),
        (make(windows=["brain"]), "all", METHODS[0], UserError, "label=all: expected one of epidural"),
        (make(windows=["brain"]), "any", "magic", UserError, "method=magic: expected one of hirescam"),
        (make(windows=["brain"]).train(), "any", METHODS[0], ValueError, r"call model\.eval\(\)"),
    ],
)
def test_a_network_that_cannot_be_explained_is_an_error(
    model, label: str, method: str, kind: type, message: str
) -> None:
    with pytest.raises(kind, match=message):
        explain(model, torch.zeros(1, 1, 64, 64), label, method)


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(64, 64, 48), (60, 90, 45), (90, 60, 128), (64, 64, 64)]
)
def test_a_map_goes_back_to_the_place_that_it_came_from(rows: int, columns: int, size: int) -> None:
    hu = np.full((rows, columns), -1000, dtype=np.int16)
    hu[rows // 4 : rows // 4 + 10, columns // 2 : columns // 2 + 10] = 1000
    back = restore_size((resize_hu(hu, size) > 0).astype(np.float32), rows, columns)
    assert back.shape == hu.shape
    overlap = ((back > 0.5) & (hu > 0)).sum() / ((back > 0.5) | (hu > 0)).sum()
    assert overlap > 0.6


def test_drawing_reads_without_color() -> None:
    heat = cv2.GaussianBlur(np.eye(40, dtype=np.float32)[:, ::-1], (0, 0), 6)
    figure = draw_heat(np.zeros((40, 40), np.int16), heat / heat.max(), "slice 3: any", spacing=(1.0, 0.5))
    texts = [figure.get_suptitle(), figure.get_supxlabel()]
    assert texts == ["slice 3: any", f"{DISCLAIMER}."]
    _, covered, bar = figure.axes
    assert covered.get_aspect() == 2
    assert [line.get_linestyle() for line in bar.lines] == list(CONTOURS.values())
    assert len(covered.collections) == 2
    nothing = draw_heat(np.zeros((40, 40), np.int16), 0 * heat, "slice 4: any")
    assert nothing.axes[1].get_title() == "no evidence for the label"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a network that takes each slice with its neighbors."""
    model = make(neighbors=1, windows=["brain", "dicom"])
    write_bundle(model.metadata, model.state_dict(), tmp_path / "model.zip")
    return tmp_path / "model.zip"


@pytest.fixture
def series(phantom: Path, tmp_path: Path) -> list[Path]:
    """The files of a series from bottom to top, in a folder of their own."""
    folder = tmp_path / "ZQMARK series"
    folder.mkdir()
    slices: dict[str, list[tuple[float, Path]]] = {}
    for path in sorted((phantom / "stage_2_train").iterdir()):
        with pydicom.config.disable_value_validation():
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            slices.setdefault(str(ds.SeriesInstanceUID), []).append((ds.ImagePositionPatient[2], path))
    found = sorted(next(iter(slices.values())))[:5]
    return [
        Path((folder / path.name).write_bytes(path.read_bytes()) and folder / path.name) for _, path in found
    ]


def test_command_writes_pictures_arrays_and_a_list(
    checkpoint: Path, series: list[Path], tmp_path: Path, capsys
) -> None:
    folder, out = series[0].parent, tmp_path / "out"
    (folder / "cut.dcm").write_bytes(series[0].read_bytes()[:-100])
    assert (
        call(
            "explain", str(checkpoint), str(folder), "--all", "--label", "any", "subdural", "--out", str(out)
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "5 slices" in printed
    assert "truncated: 1" in printed
    numbers = [f"{n:04d}" for n in range(5)]
    pictures = {f"{number}_{label}.png" for number in numbers for label in ("any", "subdural")}
    arrays = {f"{number}.npz" for number in numbers}
    assert {path.name for path in out.iterdir()} == {
        *pictures,
        *arrays,
        *("slices.csv", "refused.csv", "settings.json", ".lock"),
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in (out, *out.iterdir()))
    assert not (folder / ".ich").exists()
    listed = pd.read_csv(out / "slices.csv")
    assert [Path(path) for path in listed["path"]] == series
    model = load_slice_net(checkpoint)
    for number, path in enumerate(series):
        with pydicom.config.disable_value_validation():
            ds = pydicom.dcmread(path)
        with np.load(out / f"{number:04d}.npz") as found:
            assert set(found) == {"any", "subdural", "probs", "spacing", "orientation", "position"}
            assert found["any"].shape == (ds.Rows, ds.Columns)
            assert found["any"].dtype == np.float32
            np.testing.assert_allclose(found["spacing"], ds.PixelSpacing)
            np.testing.assert_allclose(found["orientation"], ds.ImageOrientationPatient)
            np.testing.assert_allclose(found["position"], ds.ImagePositionPatient)
            np.testing.assert_allclose(found["probs"][5], listed["prob_any"][number], rtol=1e-5)
            heat = torch.from_numpy(found["any"])
        # Prepared as in prediction: with its neighbors, the last slice repeated.
        rows = [max(number - 1, 0), number, min(number + 1, 4)]
        hu = torch.from_numpy(np.stack([read_hu(series[row]) for row in rows]))[None]
        header = torch.tensor(
            [[float(np.atleast_1d(ds[k].value)[0]) for k in ("WindowCenter", "WindowWidth")]]
        )
        image = model.window(hu, header)
        np.testing.assert_allclose(
            model.to_probs(model(image))[0, 5].item(), listed["prob_any"][number], 1e-4
        )
        inside = find_inside(read_hu(path), "any")
        expected, _ = end_inside(explain_finely(model, image, "any")[0].numpy(), inside)
        assert correlate(torch.from_numpy(expected)[None], heat[None]) > 0.95
    for path in out.iterdir():
        if path.suffix != ".csv":
            assert b"ZQMARK" not in path.read_bytes()
            assert ds.PatientID.encode() not in path.read_bytes()


def test_a_slice_on_its_own_is_its_own_neighbor(checkpoint: Path, series: list[Path], tmp_path: Path) -> None:
    for number, path in enumerate(series[:2]):
        twice = [str(path), str(path)]
        assert call("explain", str(checkpoint), *twice, "--out", str(tmp_path / f"out{number}")) == 0
    one, two = (pd.read_csv(tmp_path / f"out{number}" / "slices.csv") for number in range(2))
    assert len(one) == len(two) == 1
    assert (tmp_path / "out0" / "0000_any.png").is_file()
    both = call("explain", str(checkpoint), *map(str, series[:2]), "--out", str(tmp_path / "out"))
    assert both == 0
    assert pd.read_csv(tmp_path / "out" / "slices.csv")["prob_any"][0] != pytest.approx(
        one["prob_any"][0], abs=0
    )


def test_pixels_that_cannot_be_read_are_refused(
    checkpoint: Path, series: list[Path], tmp_path: Path, damage, capsys
) -> None:
    damage(series[4])
    assert call("explain", str(checkpoint), str(series[0].parent), "--out", str(tmp_path / "out")) == 0
    assert "3 slices" in capsys.readouterr().out  # its neighbor cannot be prepared without it
    refused = pd.read_csv(tmp_path / "out" / "refused.csv")
    assert refused["path"].tolist() == [str(series[4])]
    assert call("explain", str(checkpoint), str(series[4]), "--out", str(tmp_path / "none")) == 2
    assert "none of 1 slices can be read" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "no file may be DICOM"),
        (["text"], "not_dicom 1"),
    ],
)
def test_without_readable_slices_there_is_one_message(
    checkpoint: Path, monkeypatch, capsys, paths: list[str], message: str
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    Path("empty").mkdir()
    Path("text").write_text("text " * 99)
    assert call("explain", str(checkpoint), *paths) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("explained").exists()


def test_a_folder_in_use_is_refused(checkpoint: Path, series: list[Path], capsys) -> None:
    assert call("explain", str(checkpoint), str(series[0]), "--out", str(checkpoint.parent)) == 2
    assert "is not empty" in capsys.readouterr().err


def draw_head(skull: bool) -> np.ndarray:
    """A round head with a scalp, on a table, with or without a skull around the brain."""
    rows, columns = np.mgrid[:256, :256]
    far = np.hypot(rows - 120, columns - 128)
    hu = np.full((256, 256), -1000, np.int16)
    hu[far < 90] = 40  # the scalp, 10 pixels wide
    hu[(far < 80) & skull] = 1000
    hu[far < 70] = 30
    hu[225:230] = 200  # a table
    return hu


@pytest.mark.parametrize(
    ("label", "skull", "farthest"), [("any", True, 80), ("any", False, 90), ("fracture", True, 90)]
)
def test_a_map_and_its_peak_stay_where_evidence_can_lie(label: str, skull: bool, farthest: int) -> None:
    hu = draw_head(skull)
    rows, columns = np.mgrid[:256, :256]
    far = np.hypot(rows - 120, columns - 128)
    heat = np.clip(1 - abs(columns - 212) / 60, 0, 1).astype(np.float32)  # its peak lies in the scalp
    ended, strays = end_inside(heat, find_inside(hu, label))
    assert far[ended > 0].max() <= farthest  # neither in air nor on the table
    assert ended.max() == 1
    assert far.ravel()[ended.argmax()] <= farthest
    assert not strays
    inner = heat[far < 60]
    np.testing.assert_allclose(ended[far < 60], inner / heat[ended > 0].max())


def test_a_map_with_its_evidence_in_air_is_doubted() -> None:
    inside = find_inside(draw_head(True), "any")
    heat = np.zeros((256, 256), np.float32)
    heat[2, 2], heat[120, 128] = 1, 0.4
    ended, strays = end_inside(heat, inside)
    assert strays
    assert ended[2, 2] == 0
    heat[120, 128] = 0
    ended, strays = end_inside(heat, inside)
    assert strays
    assert not ended.any()
    assert end_inside(np.zeros_like(heat), inside)[1] is False
