"""Confusion counts are exact, and every score is what it says, by hand and by invariants."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from cityseg.config import Config
from cityseg.confusion import (
    confusion_counts,
    confusion_with_void,
    counts_at_once,
    counts_of_one,
)
from cityseg.evaluate import evaluate, full_prediction
from cityseg.inputs import MEAN, STD, ValBatch
from cityseg.labels import IGNORE, NUM_CLASSES
from cityseg.metrics import intersection_over_union, mean_iou, pixel_accuracy
from cityseg.model import UNet
from cityseg.scoring import score

LENGTH = 60
targets = arrays(np.uint8, LENGTH, elements=st.sampled_from([0, 1, 2, 7, 18, IGNORE]))
predictions = arrays(np.uint8, LENGTH, elements=st.sampled_from([0, 1, 2, 5, 18]))
batches_of_labels = arrays(np.uint8, (2, 3, 4, 5), elements=st.sampled_from([0, 1, 18, IGNORE]))
with_void = arrays(np.uint8, LENGTH, elements=st.sampled_from([0, 1, 2, 5, 18, IGNORE]))


def count(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(prediction)[None], torch.from_numpy(target)[None]
    return confusion_counts(*batch)[0].numpy()


@given(batches_of_labels)
def test_both_forms_of_counting_agree(batch: np.ndarray):
    """A GPU counts all frames at once, a CPU one after another."""
    prediction, target = (torch.from_numpy(part) for part in batch)
    prediction = prediction.where(prediction != IGNORE, 3)
    one_by_one = torch.stack(
        [counts_of_one(*pair) for pair in zip(prediction, target, strict=True)]
    )
    assert torch.equal(counts_at_once(prediction, target), one_by_one)
    assert int(one_by_one.sum()) == int((target != IGNORE).sum())


def hand_counted() -> np.ndarray:
    """5 pixels of class 0, 4 of class 1, none of class 2, which is predicted once."""
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    confusion[:3, :3] = [[3, 2, 0], [1, 2, 1], [0, 0, 0]]
    return confusion


def test_counts_and_scores_of_a_hand_counted_matrix():
    target = np.array([[0, 0, 0, 0, 0, IGNORE], [1, 1, 1, 1, IGNORE, IGNORE]], np.uint8)
    prediction = np.array([[0, 0, 0, 1, 1, 2], [0, 1, 1, 2, 0, 1]], np.uint8)
    confusion = count(prediction, target)
    np.testing.assert_array_equal(confusion, hand_counted())
    iou = intersection_over_union(confusion)
    assert iou[:3].tolist() == [3 / 6, 2 / 6, 0]
    assert np.isnan(iou[3:]).all()
    assert mean_iou(confusion) == pytest.approx((3 / 6 + 2 / 6 + 0) / 3, abs=1e-15)
    assert pixel_accuracy(confusion) == 5 / 9


def test_void_predictions_miss_their_label_and_accuse_no_class():
    target = np.array([0, 0, 0, 1, IGNORE], np.uint8)
    prediction = np.array([0, 0, IGNORE, 1, IGNORE], np.uint8)
    confusion = confusion_with_void(prediction, target)
    assert confusion.shape == (19, 20) and confusion.sum() == 4
    assert intersection_over_union(confusion)[:2].tolist() == [2 / 3, 1]
    assert mean_iou(confusion) == pytest.approx((2 / 3 + 1) / 2)
    assert pixel_accuracy(confusion) == 3 / 4


def test_scores_of_nothing_are_nan():
    nothing = np.zeros((2, 19, 19), np.int64)
    for scores in (intersection_over_union(nothing), mean_iou(nothing), pixel_accuracy(nothing)):
        assert np.isnan(scores).all() and len(scores) == 2
    assert score(nothing).to_json()["miou"] is None
    assert np.isnan(mean_iou(nothing[0])) and np.isnan(pixel_accuracy(nothing[0]))


def test_scores_are_exact_beyond_what_float32_holds():
    """One full-resolution frame is 2^21 pixels; float32 counts are wrong beyond 2^24."""
    ones = torch.ones(3, dtype=torch.uint8)
    assert confusion_counts(ones[None], ones[None]).dtype == torch.int64
    assert confusion_with_void(ones.numpy(), ones.numpy()).dtype == np.int64
    large = hand_counted() * (2**40 + 1)
    assert pixel_accuracy(large) == 5 / 9
    np.testing.assert_array_equal(mean_iou(large), mean_iou(hand_counted()))


def test_a_set_is_scored_by_its_sum_not_by_the_mean_of_its_frames():
    """Frame one: class 0 right on 1 of 1. Frame two: class 0 right on 1 of 4, all else class 1."""
    frames = np.zeros((2, 19, 19), np.int64)
    frames[0, 0, 0] = 1
    frames[1, 0, :2] = [1, 3]
    scores = score(frames)
    assert (scores.iou["road"], scores.iou["sidewalk"]) == (2 / 5, 0)
    assert scores.miou == pytest.approx(1 / 5)
    assert mean_iou(frames).mean() == pytest.approx((1 + 1 / 8) / 2)  # what it must not be


@given(predictions, targets, st.integers(0, LENGTH))
def test_counts_of_the_whole_are_the_sum_of_the_parts(prediction, target, cut):
    parts = count(prediction[:cut], target[:cut]) + count(prediction[cut:], target[cut:])
    np.testing.assert_array_equal(count(prediction, target), parts)
    assert parts.sum() == np.count_nonzero(target != IGNORE)


@given(predictions, targets, st.permutations(range(LENGTH)))
def test_the_order_of_pixels_does_not_matter(prediction, target, order):
    np.testing.assert_array_equal(
        count(prediction, target), count(prediction[order], target[order])
    )


@given(predictions, targets, st.permutations(range(NUM_CLASSES)))
def test_renaming_classes_moves_their_scores_along(prediction, target, order):
    renamed = np.append(np.array(order, np.uint8), np.full(237, IGNORE, np.uint8))
    before, after = count(prediction, target), count(renamed[prediction], renamed[target])
    np.testing.assert_array_equal(
        intersection_over_union(after)[order], intersection_over_union(before)
    )
    np.testing.assert_allclose(mean_iou(after), mean_iou(before), rtol=1e-14)


@given(with_void, targets)
def test_both_ways_of_counting_agree_but_for_the_void(prediction, target):
    void = confusion_with_void(prediction, target)
    named = prediction != IGNORE
    np.testing.assert_array_equal(void[:, :19], count(prediction[named], target[named]))
    np.testing.assert_array_equal(void.sum(1), np.bincount(target, minlength=256)[:19])


@given(with_void, targets)
def test_iou_is_that_of_the_two_sets_of_pixels(prediction, target):
    """An oracle by definition: |label and prediction| / |label or prediction|, where labelled."""
    iou = intersection_over_union(confusion_with_void(prediction, target))
    labelled = target != IGNORE
    for c in range(NUM_CLASSES):
        is_label, is_predicted = (target == c) & labelled, (prediction == c) & labelled
        either = np.count_nonzero(is_label | is_predicted)
        both = np.count_nonzero(is_label & is_predicted)
        np.testing.assert_array_equal(iou[c], both / either if either else np.nan)


@given(with_void, targets)
def test_scores_lie_between_none_and_all(prediction, target):
    confusion = confusion_with_void(prediction, target)
    iou, mean = intersection_over_union(confusion), mean_iou(confusion)
    assert np.isnan(mean) == (not (target != IGNORE).any())
    if not np.isnan(mean):
        assert 0 <= np.nanmin(iou) <= mean + 1e-12 and mean - 1e-12 <= np.nanmax(iou) <= 1


class Oracle(UNet):
    """A network that is told the answer: the first channel of its input is the train id."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, image: Tensor) -> Tensor:
        train_ids = ((image[:, 0] * STD[0] + MEAN[0]) * 255).round().long()
        return 20 * torch.nn.functional.one_hot(train_ids, 19).permute(0, 3, 1, 2).float()


def batch(seeds: list[int], wrong: int = 0) -> ValBatch:
    """Frames of classes 0 to 5, a fifth ignored, of whose pixels `wrong` a frame are mistaken."""
    random = [np.random.default_rng(seed) for seed in seeds]
    answer = np.stack([r.integers(0, 6, (32, 64)) for r in random]).astype(np.uint8)
    target = answer.copy()
    target[:, :7] = IGNORE
    image = torch.from_numpy(answer)[:, None].repeat(1, 3, 1, 1)
    image[:, :, -1, :wrong] = (image[:, :, -1, :wrong] + 1) % 6
    labels = torch.from_numpy(target)
    return ValBatch([f"f{seed}" for seed in seeds], image, labels, list(labels))


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_perfect_prediction_scores_1_by_every_score(config: Config, wrong: int):
    """With an uneven last batch, ignored pixels and absent classes; one wrong pixel is below 1."""
    batches = [batch([1, 2], wrong), batch([3, 4], wrong), batch([5], wrong)]
    found = evaluate(Oracle(), batches, config, torch.device("cpu"))
    assert found.names == ["f1", "f2", "f3", "f4", "f5"]
    for counts in (found.low, found.full):
        assert counts.dtype == np.int64 and counts.shape == (5, 19, 19)
        assert counts.sum() == 5 * 25 * 64
        scores = score(counts)
        present = list(scores.iou.values())[:6]
        every = [scores.miou, scores.pixel_accuracy, *mean_iou(counts), *pixel_accuracy(counts)]
        every += [present[i] for i in range(6)] if wrong == 0 else [min(present)]
        assert np.isnan(list(scores.iou.values())[6:]).all()
        assert all(value == 1 for value in every) if wrong == 0 else all(v < 1 for v in every)
    assert found.loss < 1e-6 if wrong == 0 else found.loss > 1e-3


def test_logits_are_upsampled_before_the_choice_of_class():
    """By hand: bilinear weights 1, 3/4, 1/4, 0; in the third pixel class 0 has 4/4, class 1 3/4.

    Upsampling the chosen classes instead would give 0 0 1 1.
    """
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 1.0]]])
    assert full_prediction(logits, 1, 4).tolist() == [[0, 0, 0, 1]]
