"""Trained networks on Hounsfield units."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ich.bundle import write_bundle
from ich.calibration.likeness import Likeness
from ich.models import SliceClassifier
from ich.networks import TorchNetwork, load_network
from ich.phantom import draw_patient
from ich.schema import LABELS, InputSpec, UserError
from ich.window import Window

DEEP = InputSpec(size=64, neighbours=1)


def draw_slices(depth: int, size: int = 64) -> NDArray[np.int16]:
    """(N, D, S, S) HU of a phantom's study, each slice with its neighbours."""
    hu = draw_patient(3, 0, size)[0].hu
    around = np.arange(len(hu))[:, None] + np.arange(depth) - depth // 2
    return hu[around.clip(0, len(hu) - 1)]


def make_model(spec: InputSpec, *, likeness: bool = True, **settings: Any) -> SliceClassifier:
    """A model of random weights, whose probabilities for the slices of a phantom are all over the place."""
    torch.manual_seed(0)
    model = SliceClassifier("test_resnet", input=spec, pretrained=False, **settings).eval()
    hu = torch.from_numpy(draw_slices(spec.depth, spec.size))
    with torch.inference_mode():
        x = hu if spec.learnable else Window(spec)(hu, torch.tensor([[40.0, 80.0]]))
        features = model.extract(x)
    scale, middle = features.std(dim=0) + 1e-3, features.mean(dim=0)
    with torch.no_grad():
        weight = torch.randn(len(LABELS), len(scale)) / scale / len(scale) ** 0.5
        model.get_parameter("head.1.weight").copy_(weight)
        model.get_parameter("head.1.bias").copy_(-weight @ middle)
    if likeness:
        directions = torch.linalg.qr(torch.randn(len(scale), 4)).Q.T
        variance = scale.square().mean()
        model.likeness = Likeness(middle, directions, variance.expand(4), variance, torch.tensor(2.5))
    return model


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = make_model(DEEP, likeness=False)
    write_bundle(model.card, model.state_dict(), tmp_path / "model.zip")
    return tmp_path / "model.zip"


def test_a_network_is_the_model_after_its_windows(bundle: Path) -> None:
    network, model, hu = load_network(bundle, gpus=0), make_model(DEEP, likeness=False), draw_slices(3)
    assert network.card == model.card
    assert network.input == DEEP
    assert network.sha256 == sha256(bundle.read_bytes()).hexdigest()
    probs, distance = network.run(hu)
    assert (network.limit, distance) == (None, None)
    image = Window(DEEP)(torch.from_numpy(hu))
    with torch.inference_mode():
        np.testing.assert_allclose(probs, model.to_probs(model(image)), atol=1e-6)
    assert probs.dtype == np.float32
    assert np.ptp(probs[:, 5]) > 0.3


def test_distances_are_those_of_the_model() -> None:
    model, hu = make_model(DEEP), draw_slices(3)
    network = TorchNetwork(model, "", gpus=0)
    assert network.limit == 2.5
    assert model.likeness is not None
    with torch.inference_mode():
        distance = model.likeness(model.extract(Window(DEEP)(torch.from_numpy(hu))))
    np.testing.assert_allclose(network.run(hu).distance, distance, rtol=1e-5)


def test_the_same_twice_and_in_any_number() -> None:
    network, hu = TorchNetwork(make_model(DEEP), "", gpus=0), draw_slices(3)
    every, again = network.run(hu), network.run(hu)
    np.testing.assert_array_equal(every.probs, again.probs)
    np.testing.assert_array_equal(every.distance, again.distance)
    for step in (1, 5):
        parts = [network.run(hu[start : start + step]) for start in range(0, len(hu), step)]
        for name in ("probs", "distance"):
            one = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_allclose(one, getattr(every, name), rtol=0, atol=1e-5)


def test_windows_of_the_header_and_learnable_ones() -> None:
    hu = draw_slices(1)
    spec = InputSpec(size=64, windows=("dicom", "brain"))
    network = TorchNetwork(make_model(spec, likeness=False), "", gpus=0)
    wide, narrow = (np.tile(np.float32(window), (len(hu), 1)) for window in ((40, 400), (40, 80)))
    assert network.limit is None
    assert network.run(hu, wide).distance is None
    assert np.abs(network.run(hu, wide).probs - network.run(hu, narrow).probs).max() > 1e-3
    with pytest.raises(ValueError, match="header's windows"):
        network.run(hu)
    learnable = TorchNetwork(make_model(InputSpec(size=64, learnable=True)), "", gpus=0)
    assert learnable.run(hu).probs.shape == (len(hu), 6)


def test_what_is_no_slice_is_refused(bundle: Path) -> None:
    network, hu = load_network(bundle, gpus=0), draw_slices(3)
    for wrong in (hu[:0], hu[:, :1], hu[..., :32], hu.astype(np.float32)):
        with pytest.raises(ValueError, match=r"expected int16 HU of shape \(N, 3, 64, 64\)"):
            network.run(wrong)


def test_weights_that_give_no_number_are_an_error(tmp_path: Path) -> None:
    model = make_model(DEEP)
    torch.nn.init.constant_(model.get_parameter("head.1.bias"), float("nan"))
    with pytest.raises(UserError, match="it is damaged"):
        TorchNetwork(model, "", gpus=0).run(draw_slices(3))


def test_threads_and_gpus_that_there_are_not(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="threads=0: expected 1 or more"):
        load_network(bundle, threads=0)
    with pytest.raises(UserError, match="gpus=2: this machine has"):
        load_network(bundle, gpus=2)
    with pytest.raises(UserError, match="nothing to load"):
        load_network(tmp_path / "run")
