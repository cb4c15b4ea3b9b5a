from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from ich.models.losses import FocalLoss, SoftmaxCrossEntropy, WeightedBCE, prevalence_logits
from ich.schema import LABEL_WEIGHTS

NAN = float("nan")
LOSSES = [WeightedBCE(), FocalLoss(), FocalLoss(gamma=0.5, alpha=0.25), SoftmaxCrossEntropy()]


def batch(n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(-1, 2, (n, 6)).astype(np.float32))
    return logits, torch.from_numpy(rng.integers(0, 2, (n, 6)).astype(np.float32))


@pytest.mark.parametrize("loss", [WeightedBCE(), FocalLoss(gamma=0)])
def test_weighted_bce_is_scikit_learns_log_loss_over_the_label_file(loss: nn.Module) -> None:
    logits, target = batch()
    rows = logits.double().sigmoid().flatten().numpy()  # one row a slice and label, as in the RSNA CSV
    weights = np.tile([1, 1, 1, 1, 1, 2], len(target))
    expected = log_loss(target.flatten().numpy(), rows, sample_weight=weights)
    assert loss(logits, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_loss_is_torchvisions(alpha: float | None) -> None:
    logits, target = batch()
    entries = sigmoid_focal_loss(logits, target, alpha=-1 if alpha is None else alpha, gamma=2)
    expected = (entries * torch.tensor(LABEL_WEIGHTS)).sum(dim=1).mean()
    torch.testing.assert_close(FocalLoss(gamma=2, alpha=alpha)(logits, target), expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_target_between_0_and_1_has_the_mean_of_both_losses(loss: nn.Module) -> None:
    logits, target = batch(1)
    mixed = 0.25 * target + 0.75 * (1 - target)
    expected = 0.25 * loss(logits, target) + 0.75 * loss(logits, 1 - target)
    torch.testing.assert_close(loss(logits, mixed), expected)


def test_softmax_cross_entropy_by_hand() -> None:
    logits, target = batch()
    exp = np.exp(logits.double().numpy())
    probs = np.clip(exp / exp.sum(axis=1, keepdims=True), 1e-7, 1 - 1e-7)
    expected = -(target.numpy() * np.log(probs)).sum(axis=1).mean()
    assert SoftmaxCrossEntropy()(logits, target).item() == pytest.approx(expected, rel=1e-6)
    sure = torch.tensor([[100.0, 0, 0, 0, 0, 0]])
    wrong = torch.tensor([[0.0, 1, 0, 0, 0, 1]])
    assert SoftmaxCrossEntropy()(sure, wrong).item() == pytest.approx(-2 * np.log(1e-7), rel=1e-6)
    assert SoftmaxCrossEntropy()(logits, torch.zeros_like(target)).item() == 0


@pytest.mark.parametrize("loss", [WeightedBCE(), FocalLoss(gamma=0)])
def test_unknown_entries_do_not_count(loss: nn.Module) -> None:
    logits = torch.zeros(2, 6, requires_grad=True)
    target = torch.tensor([[1, NAN, NAN, NAN, NAN, 1], [NAN, 0, NAN, NAN, NAN, NAN]])
    value = loss(logits, target)
    value.backward()
    assert value.item() == pytest.approx(np.log(2))
    # Known weights are 1/7, 2/7 and 1/7, so 1/4, 1/2 and 1/4 of the loss.
    expected = torch.zeros(2, 6)
    expected[0, 0], expected[0, 5], expected[1, 1] = -1 / 8, -1 / 4, 1 / 8
    torch.testing.assert_close(logits.grad, expected)


def test_softmax_averages_over_slices_with_a_known_target() -> None:
    logits, target = batch(4)
    partly = target.clone()
    partly[2:] = NAN
    loss = SoftmaxCrossEntropy()
    torch.testing.assert_close(loss(logits, partly), loss(logits[:2], target[:2]))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_unknown_targets_gives_zero_and_no_gradient(loss: nn.Module) -> None:
    logits = batch(3)[0].requires_grad_()
    value = loss(logits, torch.full((3, 6), NAN))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_half_precision_and_large_logits_stay_finite(loss: nn.Module, scale: float) -> None:
    logits, target = batch()
    low = (logits * scale).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(low, target.bfloat16())
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(low.detach().float(), target))
    assert low.grad is not None
    assert low.grad.isfinite().all()


def test_prevalence_logits_start_at_the_constant_predictor() -> None:
    # RSNA 2019 by slice; the constant predictor at these prevalences scores 0.232 there.
    prevalences = torch.tensor([[0.0041, 0.048, 0.035, 0.048, 0.063, 0.144]])
    logits = prevalence_logits(prevalences[0])
    torch.testing.assert_close(logits.sigmoid(), prevalences[0])
    assert WeightedBCE()(logits.unsqueeze(0), prevalences).item() == pytest.approx(0.232, abs=0.001)


def test_prevalence_logits_of_labels_without_positives_negatives_or_both() -> None:
    logits = prevalence_logits([0.0, 1.0, NAN])
    torch.testing.assert_close(logits, torch.tensor([-9.21024, 9.21024, 0.0]))
