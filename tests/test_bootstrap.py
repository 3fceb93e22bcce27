"""The bootstrap: against scipy, all draws enumerated, and what must not change it."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tallies import linear, names_of, noisy, row

from cityseg.errors import InputError
from study.bootstrap import Resampling, estimate, estimate_scores, resample, widest_unit
from study.tally import Tally, mean_of_folds, pooled_miou

WRONG = [0, 1, 4]


def one_fold(wrong: list[int]) -> Tally:
    return row([names_of("a" * len(wrong))], [linear(wrong)])


def drawn(draws: Resampling, tally: Tally) -> np.ndarray:
    return draws.drawn(draws.unit_sums(tally))


def three_folds(seed: int = 0, cities: str = "abcdefghi") -> Tally:
    """Four frames a city, three cities a fold."""
    rng = np.random.default_rng(seed)
    names = names_of([city for city in cities for _ in range(4)])
    return row([names[:12], names[12:24], names[24:]], [noisy(rng, 12) for _ in range(3)])


def test_replicates_are_the_draws_of_one_less_enumerated():
    """Three frames, two draws: nine equally likely pairs."""
    there = one_fold(WRONG)
    scores = 1 - np.array(WRONG) / 10
    exact = Counter(round(float(np.mean(pair)), 9) for pair in itertools.product(scores, repeat=2))
    replicates = mean_of_folds(drawn(resample(there.layout, "frames", 20_000), there))
    ours = Counter(np.round(replicates, 9).tolist())

    assert ours.keys() == exact.keys()
    for score, times in exact.items():
        assert ours[score] / 20_000 == pytest.approx(times / 9, abs=0.012)


def test_the_std_error_of_a_plain_mean_is_the_textbooks():
    """s / sqrt(n), with the sample std: what n draws of n would miss by sqrt((n - 1) / n)."""
    wrong = [0, 1, 4, 2, 2]
    there = one_fold(wrong)
    ours = estimate_scores(there, resample(there.layout, "frames", 50_000)).mean_of_folds

    textbook = np.std(1 - np.array(wrong) / 10, ddof=1) / math.sqrt(5)
    assert ours.std_error == pytest.approx(textbook, rel=0.015)


@pytest.mark.parametrize("sizes", [(12,), (12, 7)])
def test_intervals_are_scipys_of_the_same_replicates(sizes):
    """A skewed mean, and a difference of two; the jackknife by hand."""
    rng = np.random.default_rng(0)
    samples = [rng.lognormal(size=size) for size in sizes]

    def statistic(*data: np.ndarray, axis: int = -1) -> np.ndarray:
        means = [np.mean(sample, axis=axis) for sample in data]
        return means[0] - sum(means[1:])

    theirs = {
        method: stats.bootstrap(samples, statistic, method=method, n_resamples=999, rng=0)
        for method in ("percentile", "BCa")
    }
    jackknives = [
        np.array([
            statistic(*samples[:j], np.delete(sample, i), *samples[j + 1 :])
            for i in range(len(sample))
        ])
        for j, sample in enumerate(samples)
    ]  # fmt: skip
    replicates = theirs["BCa"].bootstrap_distribution
    ours = estimate(float(statistic(*samples)), replicates, jackknives, freedom=11.5)

    for method, interval in (("percentile", ours.percentile), ("BCa", ours.bca)):
        assert (interval.low, interval.high) == pytest.approx(
            tuple(theirs[method].confidence_interval)
        )
    assert ours.std_error == pytest.approx(theirs["BCa"].standard_error)
    assert ours.interval == ours.student and ours.freedom == 11.5
    assert ours.student.high == 1, "no score is higher"


def test_the_printed_interval_is_scipys_t():
    """Frames of like size: a mean of 5 has 4 degrees of freedom."""
    there = one_fold([2, 3, 6, 4, 4])
    ours = estimate_scores(there, resample(there.layout, "frames", 500)).mean_of_folds

    assert ours.freedom == pytest.approx(4)
    theirs = stats.t.interval(0.95, 4, ours.value, ours.std_error)
    assert (ours.interval.low, ours.interval.high) == pytest.approx(theirs)


def test_cities_of_unlike_size_are_as_fewer_like_ones():
    """Frames 1, 2 and 5 in one fold, 3 and 3 in the other: 64 / 30 and 2 less one each."""
    names = names_of("abbccccc" + "dddeee")
    wrong = linear([1] * 14)
    there = row([names[:8], names[8:]], [wrong[:8], wrong[8:]])
    draws = resample(there.layout, "cities", 5)

    assert draws.freedom == pytest.approx(64 / 30 - 1 + 1)
    np.testing.assert_allclose(draws.class_freedom(draws.unit_sums(there)), [64 / 30, 64 / 30])


def test_a_class_of_one_city_has_one_degree_of_freedom():
    counts = np.zeros((4, 2, 2), np.int64)
    counts[:, 0, 0] = 10
    counts[1, 1, 1] = 5
    there = row([names_of("abcd")], [counts])
    draws = resample(there.layout, "cities", 200)

    np.testing.assert_allclose(draws.class_freedom(draws.unit_sums(there)), [3, 1])
    rare = estimate_scores(there, draws).class_pooled[1]
    assert (rare.freedom, rare.interval.low, rare.interval.high) == (1, 1, 1)


def test_without_one_leaves_out_each_city_once():
    there = three_folds()
    whole, draws = there.totals, resample(there.layout, "cities", 1)
    lefts = draws.without_one(draws.unit_sums(there))
    for stratum, left in zip(draws.strata, lefts, strict=True):
        for unit, sums in enumerate(left):
            gone = stratum.frames[stratum.unit == unit]
            fold = there.layout.fold[gone[0]]
            kept = [i for i in np.flatnonzero(there.layout.fold == fold) if i not in gone]
            np.testing.assert_array_equal(sums[fold], there.counts[kept].sum(0))
            others = np.arange(3) != fold
            np.testing.assert_array_equal(sums[others], whole[others])


def test_a_city_is_drawn_as_if_it_were_one_frame():
    rng, cities = np.random.default_rng(0), "abcdef"
    counts = noisy(rng, 12)
    names = names_of([city for city in cities for _ in range(2)])
    twos = row([names[:6], names[6:]], [counts[:6], counts[6:]])
    sums = counts.reshape(6, 2, 4, 4).sum(1)
    ones = row([names[:6:2], names[6::2]], [sums[:3], sums[3:]])
    by_city = drawn(resample(twos.layout, "cities", 50), twos)

    np.testing.assert_array_equal(by_city, drawn(resample(ones.layout, "frames", 50), ones))


def test_cities_that_stand_in_both_folds_are_drawn_once_for_both():
    names, counts = names_of("abcdabcd"), noisy(np.random.default_rng(0), 4)
    there = row([names[:4], names[4:]], [counts, counts])
    draws = resample(there.layout, "cities", 50)
    sums = drawn(draws, there)

    assert len(draws.strata) == 1
    np.testing.assert_array_equal(sums[:, 0], sums[:, 1])


def test_left_over_are_the_units_that_were_not_drawn():
    there = three_folds()
    draws = resample(there.layout, "frames", 20)
    once = [np.minimum(stratum.weights, 1) for stratum in draws.strata]
    drawn_once = np.zeros((20, *there.totals.shape))
    for stratum, weights in zip(draws.strata, once, strict=True):
        drawn_once[:, stratum.folds[0]] = np.tensordot(weights, there.counts[stratum.frames], 1)

    np.testing.assert_array_equal(
        draws.left_over(draws.unit_sums(there)) + drawn_once, [there.totals] * 20
    )
    assert all(stratum.weights.sum(1).tolist() == [11] * 20 for stratum in draws.strata)


def test_pooled_sums_weigh_folds_of_few_units_right():
    """A fold of two frames has one draw, one of four has three: 2/1 and 4/3 of them stand."""
    names = names_of("aabbbb")
    there = row([names[:2], names[2:]], [linear([1, 2]), linear([3, 4, 5, 6])])
    draws = resample(there.layout, "frames", 4000)
    unions = (drawn(draws, there) * draws.scale[:, None, None])[:, :, 1, 0]

    np.testing.assert_allclose(unions[:, 0] * 2, unions[:, 1])
    ours = estimate_scores(there, draws).pooled
    assert ours.value == pytest.approx(1 - 21 / 60)
    assert (ours.percentile.low + ours.percentile.high) / 2 == pytest.approx(ours.value, abs=0.02)


def test_values_are_those_of_all_frames():
    there = three_folds()
    ours = estimate_scores(there, resample(there.layout, "cities", 200))

    assert ours.mean_of_folds.value == mean_of_folds(there.totals)
    assert ours.pooled.value == pooled_miou(there.totals)
    assert np.mean([one.value for one in ours.class_mean]) == pytest.approx(
        ours.mean_of_folds.value
    )
    assert np.mean([one.value for one in ours.class_pooled]) == pytest.approx(ours.pooled.value)
    assert (ours.units, ours.unit) == (9, "cities")


@settings(max_examples=10)
@given(st.permutations(range(3)))
def test_the_folds_numbers_change_nothing(order):
    there = three_folds()
    counts, names = there.counts, np.array(there.layout.names)
    fold = np.array(order)[there.layout.fold]
    layout = there.layout.__class__(tuple(names.tolist()), fold, there.layout.city, 3)
    renamed = Tally(layout, counts)

    ours, theirs = (
        estimate_scores(one, resample(one.layout, "cities", 100)) for one in (there, renamed)
    )
    assert ours.mean_of_folds.percentile.low == pytest.approx(theirs.mean_of_folds.percentile.low)
    assert ours.pooled.bca.high == pytest.approx(theirs.pooled.bca.high)


def test_a_seed_gives_the_same_draws_and_another_others():
    there = three_folds()
    one, same, other = (
        drawn(resample(there.layout, "frames", 10, seed), there) for seed in (0, 0, 1)
    )

    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("unit", ["frames", "cities"])
def test_a_perfect_prediction_scores_1_for_certain(unit):
    """With a class that is nowhere, and one that is in a single frame."""
    names = names_of("aabbccdd")
    confusions = np.zeros((8, 3, 3), np.int64)
    confusions[:, 0, 0] = np.arange(1, 9)
    confusions[5, 1, 1] = 7
    there = row([names[:4], names[4:]], [confusions[:4], confusions[4:]])
    ours = estimate_scores(there, resample(there.layout, unit, 100))

    for one in (ours.mean_of_folds, ours.pooled, ours.class_mean[0], ours.class_pooled[1]):
        assert one.value == one.percentile.low == one.percentile.high == 1
        assert one.bca == one.percentile
        assert one.std_error == 0
    assert ours.class_pooled[1].replicates < 100, "drawn without the frame that has the class"
    assert math.isnan(ours.class_mean[2].value) and math.isnan(ours.class_pooled[2].bca.low)


def test_a_single_city_says_nothing_of_others():
    there = one_fold(WRONG)
    ours = estimate_scores(there, resample(there.layout, "cities", 20)).mean_of_folds

    assert ours.value == mean_of_folds(there.totals)
    assert math.isnan(ours.percentile.low) and math.isnan(ours.std_error)


@pytest.mark.parametrize(
    ("folds", "unit"),
    [
        (["aabbcc", "ddeeff"], "frames"),  # 6 cities in 2 strata: 4 more
        (["aabbcc", "ddeeffgg"], "cities"),
        (["aabbccddeeff", "gg"], "frames"),  # the second fold has one city alone
        (["aabbcc", "abcdeef"], "cities"),  # 6 cities in the one stratum of both folds
    ],
)
def test_cities_are_drawn_where_there_are_enough(folds, unit):
    names = names_of("".join(folds))
    layout = row([names[: len(folds[0])], names[len(folds[0]) :]],
                 [linear([1] * len(cities)) for cities in folds]).layout  # fmt: skip

    assert widest_unit(layout) == unit


def test_counts_of_other_frames_are_refused():
    with pytest.raises(InputError, match=r"cannot be paired.*got 36 frames in 3 folds"):
        resample(one_fold(WRONG).layout, "frames", 5).unit_sums(three_folds())
