"""Losses against torch's own, against counts by hand and against the set function they extend."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cityseg.config import Loss
from cityseg.losses import (
    Criterion,
    CrossEntropy,
    HardPixels,
    all_pixels,
    criterion_of,
    cross_entropy,
    dice,
    lovasz_softmax,
    median_frequency_weights,
)

CENSUS = np.array([[90, 10, 0], [40, 0, 40]] + [[0] * 3] * 2) @ np.eye(3, 19, dtype=np.int64)
CENSUS = CENSUS.astype(np.int64)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1},
    {"class_weights": "median_frequency"},
    {"ohem": True},
    {"cross_entropy": 0, "dice": 1},
    {"cross_entropy": 0, "lovasz": 1},
    {
        "dice": 0.5, "lovasz": 2, "ohem": True, "label_smoothing": 0.2,
        "class_weights": "median_frequency",
    },
]  # fmt: skip


def ids(settings: dict[str, Any]) -> str:
    return "+".join(settings) or "plain"


def drawn(seed: int = 0, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels of a batch of 2 frames of 7x9, some of them ignored."""
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 19, 7, 9, generator=random)
    target = torch.randint(0, 19, (2, 7, 9), dtype=torch.uint8, generator=random)
    target[torch.rand(2, 7, 9, generator=random) < ignored] = 255
    return logits, target


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_torchs(smoothing: float, weighted: bool):
    logits, target = drawn()
    weights = torch.rand(19, generator=torch.Generator().manual_seed(1)) if weighted else None
    theirs = torch.nn.CrossEntropyLoss(weights, ignore_index=255, label_smoothing=smoothing)
    ours = CrossEntropy(torch.ones(19) if weights is None else weights, smoothing, all_pixels)
    torch.testing.assert_close(ours(logits, target), theirs(logits, target.long()))
    if not weighted and not smoothing:
        torch.testing.assert_close(cross_entropy(logits, target), theirs(logits, target.long()))


def test_weights_are_the_median_frequency_over_the_classes_own():
    """By hand: class 0 is 130 of the 180 pixels of its two frames, class 1 is 10 of 100, class 2 is
    40 of 80; the median is 0.5. The rest are on no frame."""
    weights = median_frequency_weights(CENSUS)
    torch.testing.assert_close(weights[:3], torch.tensor([0.5 / (130 / 180), 5.0, 1.0]))
    assert (weights[3:] == 1).all()
    assert (median_frequency_weights(np.zeros((2, 19), np.int64)) == 1).all()


def hard(own: list[float], threshold: float, min_kept: float) -> list[bool]:
    """2.0 stands for a pixel without a label."""
    probabilities = torch.tensor(own)[None, None]
    chosen = HardPixels(threshold, min_kept)(probabilities, probabilities < 2)
    return chosen.flatten().tolist()


def test_hard_pixels_by_hand():
    own = [0.9, 0.1, 0.8, 0.65, 2.0]
    assert hard(own, 0.7, 0.2) == [False, True, False, True, False]
    assert hard(own, 0.7, 0.6) == [False, True, True, True, False]  # three of five, at least
    assert hard(own, 0.05, 0.2) == [False, True, False, False, False]
    assert hard(own, 0.05, 1.0) == [True, True, True, True, False]  # all that have a label
    assert hard([2.0, 2.0], 0.7, 1.0) == [False, False]
    assert hard([0.9, 0.9], 0.7, 0.5) == [True, True]  # equally hard ones share their fate


def test_mined_cross_entropy_is_the_mean_over_the_hard_pixels():
    logits, target = drawn()
    own = logits.log_softmax(1).gather(1, target.clamp(max=18).long()[:, None])[:, 0]
    hardest = own[target != 255].sort().values[: round(0.3 * target.numel())]
    ours = criterion_of(Loss(ohem=True, ohem_threshold=0, ohem_min_kept=0.3))(logits, target)
    torch.testing.assert_close(ours, -hardest.mean())


def test_dice_by_counts():
    """With certain predictions it is the Dice coefficient of two sets: 1 - mean of 2 |A B| / (|A| +
    |B|) over the classes of the labels."""
    target = torch.tensor([[[0, 0, 0, 1, 1, 255]]], dtype=torch.uint8)
    said = torch.tensor([[[0, 0, 1, 1, 2, 0]]])
    logits = 100.0 * torch.nn.functional.one_hot(said, 19).permute(0, 3, 1, 2)
    wanted = 1 - (2 * 2 / (2 + 3) + 2 * 1 / (2 + 2)) / 2
    assert float(dice(logits, target)) == pytest.approx(wanted)


def brute_force(likelihood: np.ndarray, target: np.ndarray) -> float:
    """The Lovasz extension by its definition, as an integral of the set function over levels: of
    each class, the mean Jaccard loss of the pixels whose error is above a level of 0 to 1."""
    losses = []
    for c in np.unique(target):
        own = target == c
        errors = np.abs(own - likelihood[c])
        levels = np.unique([0, *errors])
        loss = 0.0
        for low, high in itertools.pairwise(levels):
            wrong = errors > low
            loss += (high - low) * wrong.sum() / (own | wrong).sum()
        losses.append(loss)
    return float(np.mean(losses))


@pytest.mark.parametrize("seed", range(5))
def test_lovasz_is_the_extension_of_the_jaccard_loss(seed: int):
    logits, target = drawn(seed)
    labelled = (target != 255).numpy()
    likelihood = logits.double().softmax(1).numpy().transpose(1, 0, 2, 3)[:, labelled]
    wanted = brute_force(likelihood, target.numpy()[labelled])
    assert float(lovasz_softmax(logits, target)) == pytest.approx(wanted, rel=1e-5)


@given(st.integers(0, 1000))
def test_lovasz_of_certain_predictions_is_1_minus_the_mean_jaccard(seed: int):
    random = np.random.default_rng(seed)
    target, said = random.integers(0, 3, (2, 1, 4, 5))
    target[random.random(target.shape) < 0.2] = 255
    classes = [c for c in range(3) if (target == c).any()]
    labelled = target != 255
    jaccard = [
        ((target == c) & (said == c)).sum() / (((target == c) | (said == c)) & labelled).sum()
        for c in classes
    ]
    logits = 200.0 * torch.nn.functional.one_hot(torch.from_numpy(said), 19).permute(0, 3, 1, 2)
    loss = float(lovasz_softmax(logits, torch.from_numpy(target.astype(np.uint8))))
    assert loss == pytest.approx(1 - np.mean(jaccard) if classes else 0.0, abs=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_what_lies_under_ignored_labels_plays_no_part(settings: dict[str, Any]):
    criterion = criterion_of(Loss(**settings), CENSUS)
    logits, target = drawn()
    other = logits.clone()
    other.permute(0, 2, 3, 1)[target == 255] = torch.randn(19)
    logits.requires_grad_()
    loss = criterion(logits, target)
    torch.testing.assert_close(criterion(other, target), loss.detach(), rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.isfinite().all() and gradient.any()
    assert not gradient.permute(0, 2, 3, 1)[target == 255].any()


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_a_batch_without_a_label_costs_0_and_moves_nothing(settings: dict[str, Any]):
    logits, target = drawn()
    logits.requires_grad_()
    loss = criterion_of(Loss(**settings), CENSUS)(logits, torch.full_like(target, 255))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_a_perfect_prediction_costs_the_least_there_is(settings: dict[str, Any]):
    """0; with smoothed labels, what the best prediction, the smoothed label itself, costs."""
    _, target = drawn()
    smoothing = settings.get("label_smoothing", 0.0)
    least, logits = 0.0, 300.0 * _one_hot(target)
    if ids(settings) == "label_smoothing":
        share = _one_hot(target) * (1 - smoothing) + smoothing / 19
        logits = share.log()
        right, wrong = 1 - smoothing * 18 / 19, smoothing / 19
        least = -right * math.log(right) - 18 * wrong * math.log(wrong)
    if ids(settings) == "label_smoothing" or not smoothing:
        loss = float(criterion_of(Loss(**settings), CENSUS)(logits, target))
        assert loss == pytest.approx(least, abs=1e-6)


def _one_hot(target: torch.Tensor) -> torch.Tensor:
    there = target.masked_fill(target == 255, 0).long()
    return torch.nn.functional.one_hot(there, 19).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_losses_of_half_precision_are_computed_in_float32(settings: dict[str, Any]):
    """Within autocast, too: only the rounding of the logits themselves may show."""
    criterion: Criterion = criterion_of(Loss(**settings), CENSUS)
    logits, target = drawn()
    half = logits.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(half, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, criterion(half.float(), target), rtol=0, atol=0)


def test_a_mixture_is_the_sum_of_its_weighted_parts():
    logits, target = drawn()
    mixed = criterion_of(Loss(cross_entropy=0.5, dice=2, lovasz=3))(logits, target)
    parts = 0.5 * cross_entropy(logits, target) + 2 * dice(logits, target)
    torch.testing.assert_close(mixed, parts + 3 * lovasz_softmax(logits, target))


def test_without_any_part_it_is_the_papers_cross_entropy_to_the_bit():
    logits, target = drawn()
    assert torch.equal(criterion_of(Loss())(logits, target), cross_entropy(logits, target))
