from __future__ import annotations

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut
from torchvision.transforms.functional import normalize

from ich.image.window import Window, apply_window, window_batch
from ich.schema import WINDOWS, InputSpec, UserError

PAIRS = [*WINDOWS.values(), (35.5, 71.0), (-600.0, 1500.0)]


def hu_batch(n: int = 2, depth: int = 1) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).integers(-1500, 4000, (n, depth, 12, 10), dtype=np.int16)
    )


@pytest.mark.parametrize(("center", "width"), PAIRS)
@pytest.mark.parametrize(("function", "offset"), [("LINEAR_EXACT", 0.0), ("LINEAR", 1.0)])
def test_apply_window_is_pydicoms(center: float, width: float, function: str, offset: float) -> None:
    header = Dataset()
    header.WindowCenter, header.WindowWidth = center + offset / 2, width + offset
    header.VOILUTFunction = function
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsStored, header.PixelRepresentation = 16, 1
    hu = np.arange(-2000, 4001, dtype=np.int16)
    expected = (apply_voi_lut(hu, header) + 32768) / 65535
    np.testing.assert_allclose(apply_window(torch.from_numpy(hu), center, width), expected, atol=1e-6)


def test_apply_window_by_hand() -> None:
    hu = torch.tensor([-1024, 0, 20, 40, 80, 3000], dtype=torch.int16)
    assert apply_window(hu, 40, 80).tolist() == [0, 0, 0.25, 0.5, 1, 1]
    assert apply_window(hu.half(), 40, 80).dtype == torch.float32


def test_channels_are_ordered_by_slice_then_window() -> None:
    spec = InputSpec(neighbors=1, windows=("brain", (100.0, 400.0)), normalization="unit")
    hu = hu_batch(depth=3)
    image = Window(spec)(hu)
    assert image.shape == (2, spec.in_chans, 12, 10)
    assert image.dtype == torch.float32
    for channel, (depth, pair) in enumerate(
        [(d, pair) for d in range(3) for pair in (WINDOWS["brain"], (100.0, 400.0))]
    ):
        torch.testing.assert_close(image[:, channel], apply_window(hu[:, depth], *pair))


@pytest.mark.parametrize(
    ("normalization", "low", "high"),
    [("unit", 0.0, 1.0), ("symmetric", -1.0, 1.0), ("imagenet", -0.449 / 0.226, 0.551 / 0.226)],
)
def test_normalizations(normalization: str, low: float, high: float) -> None:
    hu = torch.tensor([-1000, 40, 1000]).reshape(1, 1, 1, 3)
    image = Window(InputSpec(windows=("brain",), normalization=normalization))(hu)
    torch.testing.assert_close(image.flatten(), torch.tensor([low, (low + high) / 2, high]))


def test_three_windows_are_normalized_like_red_green_and_blue() -> None:
    hu = hu_batch(depth=3)
    plain, colored = (
        Window(InputSpec(neighbors=1, normalization=name))(hu) for name in ("unit", "imagenet_rgb")
    )
    for each in (slice(0, 3), slice(3, 6), slice(6, 9)):
        expected = normalize(plain[:, each], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(colored[:, each], expected)
    with pytest.raises(UserError, match="imagenet_rgb needs three windows"):
        InputSpec(windows=("brain",), normalization="imagenet_rgb")


def test_max_abs_divides_each_slice_by_its_peak() -> None:
    hu = torch.zeros(2, 3, 4, 4, dtype=torch.int16)
    hu[0, 0, 0, 0], hu[0, 0, 1, 1] = -1024, 512
    hu[1, 2, 0, 0] = -32768  # has no positive twin in int16
    image = Window(InputSpec(neighbors=1, windows=(), normalization="max_abs"))(hu)
    assert image.shape == hu.shape
    assert image[0, 0, 0, 0] == -1
    assert image[0, 0, 1, 1] == 0.5
    assert image[1, 2, 0, 0] == -1
    assert image[0, 1:].count_nonzero() == 0


def test_header_window_is_each_samples_own() -> None:
    window = Window(InputSpec(neighbors=1, windows=("dicom", "brain"), normalization="unit"))
    hu = hu_batch(depth=3)
    image = window(hu, torch.tensor([[30.0, 100.0], [500.0, 2000.0]]))
    for depth in range(3):
        torch.testing.assert_close(image[0, 2 * depth], apply_window(hu[0, depth], 30.0, 100.0))
        torch.testing.assert_close(image[1, 2 * depth], apply_window(hu[1, depth], 500.0, 2000.0))
        torch.testing.assert_close(image[:, 2 * depth + 1], apply_window(hu[:, depth], *WINDOWS["brain"]))
    with pytest.raises(ValueError, match="header_window"):
        window(hu)


def test_changes_move_each_samples_windows_alike_in_all_its_slices() -> None:
    window = Window(InputSpec(neighbors=1, windows=("dicom", "brain"), normalization="unit"))
    hu, header = hu_batch(depth=3), torch.tensor([[30.0, 100.0], [500.0, 2000.0]])
    changes = torch.tensor([[[5.0, 2.0], [-10.0, 1.0], [9.0, 9.0]], [[0.0, 1.0], [10.0, 0.5], [9.0, 9.0]]])
    image = window(hu, header, changes)
    for depth in range(3):
        torch.testing.assert_close(image[0, 2 * depth], apply_window(hu[0, depth], 35.0, 200.0))
        torch.testing.assert_close(image[0, 2 * depth + 1], apply_window(hu[0, depth], 30.0, 80.0))
        torch.testing.assert_close(image[1, 2 * depth], apply_window(hu[1, depth], 500.0, 2000.0))
        torch.testing.assert_close(image[1, 2 * depth + 1], apply_window(hu[1, depth], 50.0, 40.0))
    torch.testing.assert_close(window_batch(window, hu, header, changes), image, rtol=0, atol=0)


def test_a_fixed_window_has_no_state_and_a_learnable_one_only_its_parameters() -> None:
    assert not Window(InputSpec()).state_dict()
    assert set(Window(InputSpec(learnable=True)).state_dict()) == {"shift", "log_scale"}


def test_a_learnable_window_starts_as_asked_and_finds_another() -> None:
    hu = hu_batch(n=4) // 8  # -187 to 500 HU
    wanted = apply_window(hu, 80.0, 200.0)
    window = Window(InputSpec(windows=("brain",), normalization="unit", learnable=True))
    torch.testing.assert_close(window(hu), apply_window(hu, *WINDOWS["brain"]))
    optimizer = torch.optim.Adam(window.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (window(hu) - wanted).square().mean().backward()
        optimizer.step()
    assert window.center.item() == pytest.approx(80, abs=1)
    assert window.width.item() == pytest.approx(200, abs=2)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize(
    "spec", [InputSpec(), InputSpec(windows=("dicom",)), InputSpec(windows=(), normalization="max_abs")]
)
def test_a_batch_is_windowed_as_its_slices_are(count: int, spec: InputSpec) -> None:
    hu = hu_batch(n=5)[:count]
    header = torch.tensor([[40.0, 80.0], [50.0, 350.0], [600.0, 2800.0], [0.0, 1.0], [80.0, 200.0]])[:count]
    torch.testing.assert_close(
        window_batch(Window(spec), hu, header), Window(spec)(hu, header), rtol=0, atol=0
    )


def test_a_single_slice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, D, H, W\)"):
        Window(InputSpec())(torch.zeros(1, 8, 8))
