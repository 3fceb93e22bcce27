"""Intervals over folds, Holm, detectable differences, classes: against scipy or counts by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from tallies import names_of, noisy, row

from cityseg.metrics import intersection_over_union, mean_iou
from study.analysis import PAPER
from study.statistics import (
    class_statistics,
    corrected_mean,
    detectable_difference,
    holm,
    limiting_classes,
)
from study.tally import class_iou, hits_and_unions, mean_of_folds, miou, pooled_miou, tally

CONFUSIONS = hnp.arrays(np.int64, (4, 3, 3), elements=st.integers(0, 5))


def test_without_correction_the_interval_and_the_test_are_scipys():
    scores = np.array([0.012, 0.031, -0.004, 0.02])
    ours, theirs = corrected_mean(scores, test_train_ratio=0), stats.ttest_1samp(scores, 0)

    assert (ours.interval.low, ours.interval.high) == pytest.approx(
        tuple(theirs.confidence_interval(0.95))
    )
    assert ours.p_value == pytest.approx(theirs[1])


def test_what_the_paper_could_have_claimed_of_its_full_res_mean():
    ours = corrected_mean(np.array(PAPER.full))

    # by hand: sample std 0.014629, times sqrt(1/3 + 1/2), times t(0.975; 2) = 4.30265
    assert ours.mean == pytest.approx(0.655267, abs=1e-6)
    assert ours.std_error == pytest.approx(0.0146289 * math.sqrt(5 / 6), abs=1e-6)
    assert ours.interval.high - ours.mean == pytest.approx(4.30265 * ours.std_error, abs=1e-6)
    assert (ours.interval.low, ours.interval.high) == pytest.approx((0.598, 0.713), abs=5e-4)
    assert ours.detectable == pytest.approx(0.0755, abs=5e-4)
    low = corrected_mean(np.array(PAPER.low)).interval
    assert (low.low, low.high) == pytest.approx((0.632, 0.722), abs=5e-4)


@pytest.mark.parametrize("scores", [[], [0.7], [0.7, math.nan, 0.6]])
def test_too_few_scores_say_nothing_of_an_interval(scores):
    ours = corrected_mean(np.array(scores))

    assert all(
        math.isnan(value)
        for value in (
            ours.std,
            ours.interval.low,
            ours.interval.high,
            ours.p_value,
            ours.detectable,
        )
    )


def test_scores_that_are_all_0_differ_from_0_with_p_1():
    ours = corrected_mean(np.zeros(3))

    assert (ours.p_value, ours.interval.low, ours.interval.high) == (1, 0, 0)


def test_the_detectable_difference_is_the_textbooks():
    """34 pairs and an effect of half a std: power 0.8077775 by G*Power 3.1, as in its manual."""
    assert detectable_difference(1 / math.sqrt(34), 33, power=0.8077775) == pytest.approx(0.5)


def test_a_detectable_difference_of_three_folds_is_found_in_80_of_100_studies():
    """Draws of a shifted t statistic with 2 degrees of freedom, from its definition."""
    rng = np.random.default_rng(0)
    shift = detectable_difference(1.0, 2)
    t = (rng.normal(size=200_000) + shift) / np.sqrt(rng.chisquare(2, 200_000) / 2)

    assert (np.abs(t) > stats.t.ppf(0.975, 2)).mean() == pytest.approx(0.8, abs=0.004)


def test_many_degrees_of_freedom_detect_what_a_z_test_does():
    assert detectable_difference(2.0, math.inf) == pytest.approx(2 * (1.959964 + 0.841621))
    assert detectable_difference(2.0, 1e5) == pytest.approx(
        detectable_difference(2.0, math.inf), rel=1e-4
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """The definition: a row is shown if every set of rows that holds it is rejected."""
    sets = [
        one
        for size in range(1, len(p_values) + 1)
        for one in itertools.combinations(range(len(p_values)), size)
    ]
    closed = [
        max(min(1, len(one) * min(p_values[j] for j in one)) for one in sets if i in one)
        for i in range(len(p_values))
    ]

    assert holm(p_values) == pytest.approx(np.array(closed))


def test_holm_leaves_out_what_could_not_be_tested():
    np.testing.assert_allclose(holm([math.nan, 0.01, 0.04]), [math.nan, 0.02, 0.04])
    assert len(holm([])) == 0


@given(CONFUSIONS)
def test_hits_and_unions_score_as_the_confusion_matrices_do(confusion):
    counts = hits_and_unions(confusion)

    np.testing.assert_array_equal(class_iou(counts), intersection_over_union(confusion))
    np.testing.assert_array_equal(miou(counts), mean_iou(confusion))


def test_mean_of_folds_and_pooled_by_hand():
    """Class 0: 3 of 4 and 1 of 4; class 1: of the second fold alone, 2 of 5; class 2: nowhere."""
    one, other = names_of("ab")
    confusions = np.array([[[3, 0, 0], [1, 0, 0], [0, 0, 0]],
                           [[1, 3, 0], [0, 2, 0], [0, 0, 0]]])  # fmt: skip
    there = row([[one], [other]], [confusions[:1], confusions[1:]])

    # fold 1: class 0 3/4, class 1 0/1; fold 2: 1/4 and 2/5
    assert mean_of_folds(there.totals) == pytest.approx((3 / 8 + (1 / 4 + 2 / 5) / 2) / 2)
    assert pooled_miou(there.totals) == pytest.approx((4 / 8 + 2 / 6) / 2)


@given(st.permutations(range(6)))
def test_the_order_of_frames_changes_nothing(order):
    names, confusions = names_of("abcabc"), noisy(np.random.default_rng(0), 6)
    given_order = row([names[:3], names[3:]], [confusions[:3], confusions[3:]])
    halves = [[i for i in order if i < 3], [i for i in order if i >= 3]]
    shuffled = row([[names[i] for i in half] for half in halves],
                   [confusions[half] for half in halves])  # fmt: skip

    assert shuffled.layout.agrees(given_order.layout)
    np.testing.assert_array_equal(shuffled.counts, given_order.counts)
    np.testing.assert_array_equal(shuffled.layout.city, given_order.layout.city)


def test_the_ratio_of_test_to_training_frames():
    names = names_of("abcdef")
    equal = row([names[:2], names[2:4], names[4:]], [noisy(np.random.default_rng(0), 2)] * 3)
    whole = row([names], [noisy(np.random.default_rng(0), 6)])

    assert equal.layout.test_train_ratio == 1 / 2
    assert math.isnan(whole.layout.test_train_ratio)


def test_a_frame_in_two_folds_is_a_bug():
    frame, counts = names_of("a"), noisy(np.random.default_rng(0), 1)
    with pytest.raises(ValueError, match="2 names, 1 different"):
        tally([(frame, counts), (frame, counts)])


HAND = np.array([
    [[8, 2, 0, 0, 0], [0, 5, 0, 0, 0], [0, 0, 3, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
    [[4, 0, 0, 1, 0], [2, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
])  # fmt: skip
"""IoU: fold 1: 8/10, 5/7, 1; fold 2: 4/7, 2/4, none, 0/1 (predicted only). Class 4 is nowhere."""


def test_a_class_by_hand():
    first, second, third, predicted, nowhere = class_statistics(HAND)

    assert first.iou == pytest.approx((8 / 10 + 4 / 7) / 2)
    assert first.std == pytest.approx((8 / 10 - 4 / 7) / math.sqrt(2))
    assert first.pooled_iou == pytest.approx(12 / 17)
    assert (first.precision, first.recall) == pytest.approx((12 / 14, 12 / 15))
    assert second.pooled_iou == pytest.approx(7 / 11)
    assert [one.folds for one in (first, second, third, predicted, nowhere)] == [2, 2, 1, 0, 0]
    assert [one.share for one in (first, second, third)] == pytest.approx([15 / 27, 9 / 27, 3 / 27])
    assert math.isnan(third.std), "one fold says nothing of a spread"
    assert (predicted.iou, predicted.precision, predicted.share) == (0, 0, 0)
    assert math.isnan(predicted.recall)
    assert math.isnan(nowhere.iou) and math.isnan(nowhere.precision) and math.isnan(nowhere.gain)


def test_what_the_mean_gains_from_a_class_at_the_median_by_hand():
    first, second, third, predicted, _ = class_statistics(HAND)

    # medians 8/10 and 2/4, each of three classes; the mean of folds takes a half of each
    assert second.gain == pytest.approx((8 / 10 - 5 / 7) / 3 / 2)
    assert predicted.gain == pytest.approx(2 / 4 / 3 / 2)
    assert (first.gain, third.gain) == (0, 0)
    assert limiting_classes(class_statistics(HAND)) == [3, 1]
    assert limiting_classes(class_statistics(HAND), most=1) == [3]


def test_folds_without_any_count_have_no_classes():
    assert all(
        math.isnan(one.iou) and math.isnan(one.share) and one.folds == 0
        for one in class_statistics(np.zeros((2, 3, 3), np.int64))
    )


@given(CONFUSIONS)
def test_a_class_raised_to_the_median_gives_the_mean_its_gain(confusion):
    folds = intersection_over_union(confusion)
    for c, one in enumerate(class_statistics(confusion)):
        gains = [raised_mean(fold, c) - raised_mean(fold, None) for fold in folds]
        if not math.isnan(one.gain):
            assert one.gain == pytest.approx(np.mean(gains))


def raised_mean(fold: np.ndarray, c: int | None) -> float:
    """mIoU of a fold with one class raised to the median; 0 for a fold without classes."""
    there = {i: value for i, value in enumerate(fold) if not math.isnan(value)}
    if c in there:
        there[c] = max(there[c], float(np.median(list(there.values()))))
    return sum(there.values()) / len(there) if there else 0.0
