"""Trained networks on Hounsfield units."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import DEEP, LIMIT, draw_slices, make_model

from ich.image.window import Window
from ich.model_files.bundle import write_bundle
from ich.networks import TorchNetwork, load_network
from ich.schema import InputSpec, UserError

pytestmark = pytest.mark.trains


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = make_model(DEEP)
    write_bundle(model.metadata, model.state_dict(), tmp_path / "model.zip")
    return tmp_path / "model.zip"


def test_a_network_is_the_model_after_its_windows(bundle: Path) -> None:
    network, model, hu = load_network(bundle, gpus=0), make_model(DEEP), draw_slices(3)
    assert network.metadata == model.metadata
    assert network.input == DEEP
    assert network.sha256 == sha256(bundle.read_bytes()).hexdigest()
    probs, distance, _ = network.run(hu)
    assert network.limit == LIMIT
    assert model.ood is not None
    image = Window(DEEP)(torch.from_numpy(hu))
    with torch.inference_mode():
        np.testing.assert_allclose(probs, model.to_probs(model(image)), rtol=0, atol=1e-5)
        np.testing.assert_allclose(distance, model.ood(model.extract(image)), rtol=1e-5)
    assert probs.dtype == np.float32
    assert np.ptp(probs[:, 5]) > 0.3


def test_the_same_twice_and_in_any_number(bundle: Path) -> None:
    network, hu = load_network(bundle, gpus=0), draw_slices(3)
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
    network = TorchNetwork(make_model(spec, ood=False), "", gpus=0)
    wide, narrow = (np.tile(np.float32(window), (len(hu), 1)) for window in ((40, 400), (40, 80)))
    assert network.limit is None
    assert network.run(hu, wide).distance is None
    assert np.abs(network.run(hu, wide).probs - network.run(hu, narrow).probs).max() > 1e-3
    with pytest.raises(ValueError, match="header's windows"):
        network.run(hu)
    learnable = TorchNetwork(make_model(InputSpec(size=64, learnable=True)), "", gpus=0)
    assert learnable.run(hu).probs.shape == (len(hu), 6)


def test_what_is_not_a_slice_is_refused(bundle: Path) -> None:
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
