"""Rows against each other: a row with itself, clear cases, brute force, and the winner's curse."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tallies import linear, names_of, noisy, row

from cityseg.errors import InputError
from study.bootstrap import Unit, resample
from study.comparison import Comparison, compare, correct_selection
from study.statistics import holm
from study.tally import Tally, mean_of_folds, miou
from study.verdicts import others_shown

CITIES = [city for city in "abcdefghi" for _ in range(10)]
NAMES = names_of(CITIES)
FOLDS = [NAMES[:30], NAMES[30:60], NAMES[60:]]


def scored(scores: np.ndarray) -> Tally:
    """Frames of these scores (0-1, n = 90): the mIoU of any is their mean."""
    wrong = np.round((1 - scores) * 50_000).astype(int)
    confusions = linear(wrong, 100_000)
    return row(FOLDS, [confusions[:30], confusions[30:60], confusions[60:]])


def base_scores(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 0.7, 90)


def compared(*rows: np.ndarray, unit: Unit = "cities") -> tuple[Comparison, ...]:
    tallies = {f"v{i:03d}": scored(scores) for i, scores in enumerate(rows)}
    return compare(tallies, "v000", resample(tallies["v000"].layout, unit, 1000))


def test_a_row_is_no_better_than_itself():
    (ours,) = compared(base_scores(), base_scores())

    assert (ours.difference, ours.p_value, ours.adjusted) == (0, 1, 1)
    assert (ours.interval.low, ours.interval.high) == (0, 0)
    assert not ours.is_shown
    assert ours.verdict.startswith("No difference of v001 to v000 is shown: 0.0 points")


def test_a_row_that_is_better_in_every_frame_is_better():
    rng = np.random.default_rng(1)
    base = base_scores()
    (ours,) = compared(base, base + 0.05 + rng.normal(0, 0.01, 90))

    assert ours.difference == pytest.approx(0.05, abs=0.005)
    assert ours.is_shown and ours.interval.low > 0
    assert ours.verdict.startswith("v001 is better than v000 by 4.9 points")
    assert "after Holm over 1 row)" in ours.verdict
    assert "with 3 folds differences under" in ours.verdict


def test_turned_around_the_difference_is_too():
    rows = {"v000": scored(base_scores()), "v001": scored(base_scores(1))}
    draws = resample(rows["v000"].layout, "cities", 500)
    (one,), (other,) = compare(rows, "v000", draws), compare(rows, "v001", draws)

    assert one.difference == -other.difference
    assert one.p_value == other.p_value
    assert one.interval.low == pytest.approx(-other.interval.high)


def test_each_test_and_interval_is_the_one_of_scipy():
    """Scores are means of frames: differences by fold have a t test, by frames a normal one."""
    base, other = base_scores(), base_scores(1)
    (ours,) = compared(base, other, unit="frames")
    by_fold = (other - base).reshape(3, 30).mean(1)
    by_frame = np.sqrt((((other - base).reshape(3, 30).std(1, ddof=1)) ** 2 / 30).sum()) / 3
    plain = stats.ttest_rel(other.reshape(3, 30).mean(1), base.reshape(3, 30).mean(1))

    assert ours.difference == pytest.approx(by_fold.mean(), abs=1e-5)
    correction = math.sqrt((1 / 3 + 1 / 2) * 3)
    assert ours.by_fold.p_value == pytest.approx(
        2 * stats.t.sf(abs(plain.statistic) / correction, 2), rel=1e-3
    )
    assert ours.by_unit.std_error == pytest.approx(by_frame, rel=0.08)
    normal = 2 * stats.norm.sf(abs(by_fold.mean()) / by_frame)
    assert ours.unit_p_value == pytest.approx(normal, abs=0.05)


def test_the_pairing_takes_out_what_frames_have_in_common():
    base = base_scores()
    (ours,) = compared(base, base + 0.01 * np.random.default_rng(1).normal(size=90), unit="frames")
    alone = base.reshape(3, 30).std(1, ddof=1).mean() / math.sqrt(90)

    assert ours.by_unit.std_error < alone / 3


def test_both_must_reject_and_the_wider_interval_is_given():
    """Better by the same in each fold on average, but by a few cities alone."""
    base = base_scores()
    gain = np.where(np.isin(CITIES, ["a", "d", "g"]), 0.06, 0.0)
    (ours,) = compared(base, base + gain)

    assert ours.by_fold.p_value < 0.01
    assert ours.unit_p_value > 0.1
    assert ours.p_value == ours.unit_p_value
    assert ours.interval == ours.by_unit.student
    assert not ours.is_shown


def test_the_rows_are_adjusted_for_being_many():
    rows = [base_scores(), *(base_scores(seed) + 0.02 for seed in range(1, 5))]
    ours = compared(*rows)

    assert [one.row for one in ours] == ["v001", "v002", "v003", "v004"]
    np.testing.assert_array_equal(
        [one.adjusted for one in ours], holm([one.p_value for one in ours])
    )
    assert {one.compared for one in ours} == {4}


def test_equal_rows_are_told_apart_in_few_studies():
    """A true null: p is at most 0.05 in no more than 5 of 100 studies; 40 here, so seldom 6."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(40):
        one, other = rng.normal(0.6, 0.05, (2, 90)).clip(0, 1)
        hits += compared(one, other)[0].is_shown

    assert hits <= 5


def test_one_fold_gives_no_test():
    names, rng = names_of("aabbcc"), np.random.default_rng(0)
    rows = {name: row([names], [noisy(rng, 6)]) for name in ("v000", "v001")}
    (ours,) = compare(rows, "v000", resample(rows["v000"].layout, "cities", 50))

    assert math.isnan(ours.p_value) and math.isnan(ours.adjusted) and not ours.is_shown
    assert ours.interval == ours.by_unit.student, "what is known is given"
    assert "no test possible" in ours.verdict


def test_verdicts_in_words():
    (ours,) = compared(base_scores(), base_scores(1))
    t = replace(ours.by_fold, p_value=0.004, detectable=0.009)
    better = replace(ours.by_unit, value=0.013, std_error=0.001)
    shown = replace(ours, by_fold=t, by_unit=better, adjusted=0.0123, compared=7)

    low, high = shown.interval.low * 100, shown.interval.high * 100
    assert shown.verdict == (
        f"v001 is better than v000 by 1.3 points (95 % interval {low:.1f} to {high:.1f},"
        " p = 0.012 after Holm over 7 rows); with 3 folds differences under 0.9 points could not"
        " be seen"
    )
    worse = replace(shown, by_unit=replace(better, value=-0.013), adjusted=0.0002)
    assert worse.verdict.startswith("v001 is worse than v000 by 1.3 points")
    assert "p < 0.001" in worse.verdict
    unclear = replace(worse, adjusted=0.3, unit_adjusted=0.2)
    assert unclear.verdict.startswith("No difference of v001 to v000 is shown: -1.3 points")
    assert "networks" not in unclear.verdict


def test_other_rows_that_are_shown_to_be_better_are_named_three_at_most():
    (ours,) = compared(base_scores(), base_scores(1))
    gain = replace(ours.by_unit, value=0.0391)
    better = [replace(ours, row=f"v00{i}", by_unit=gain, adjusted=0.01) for i in range(1, 6)]
    unclear = replace(better[0], adjusted=0.06)
    worse = replace(better[0], by_unit=replace(gain, value=-0.1))

    assert others_shown([]) == others_shown([unclear, worse]) == []
    (said,) = others_shown([unclear, better[1], worse])
    assert said == "Also shown to be better than v000: v002 (by 3.9 points)."
    (said,) = others_shown(better)
    assert "v003 (by 3.9 points), 2 more." in said


def test_a_verdict_tells_what_holds_for_these_networks_alone():
    """Far apart in every frame, but by very different amounts in the folds."""
    base = base_scores()
    gain = np.repeat([0.01, 0.05, 0.12], 30)
    (ours,) = compared(base, base + gain)

    assert not ours.is_shown
    assert ours.verdict.startswith("No difference of v001 to v000 is shown: 6.0 points")
    assert "; these very networks do differ on other cities (p < 0.001 after Holm)" in ours.verdict
    alone = replace(ours, by_fold=replace(ours.by_fold, interval=ours.by_unit.student))
    assert " of this row alone, p = " in alone.verdict


def test_rows_of_other_folds_are_refused():
    rows = {
        "v000": scored(base_scores()),
        "v001": row([NAMES], [noisy(np.random.default_rng(0), 90)]),
    }
    with pytest.raises(InputError, match="same frames in the same folds"):
        compare(rows, "v000", resample(rows["v000"].layout, "frames", 5))


@pytest.mark.parametrize("unit", ["frames", "cities"])
def test_one_row_alone_keeps_its_score(unit):
    names, rng = names_of(CITIES), np.random.default_rng(0)
    only = row([names[:30], names[30:]], [noisy(rng, 30), noisy(rng, 60)])
    ours = correct_selection({"v000": only}, resample(only.layout, unit, 200))

    assert ours.corrected == ours.naive == mean_of_folds(only.totals)
    assert ours.interval.low < ours.corrected < ours.interval.high
    assert ours.chosen == {"v000": 1.0}


def noise_rows(rows: int, seed: int) -> dict[str, Tally]:
    rng = np.random.default_rng(seed)
    return {f"v{i:03d}": scored(rng.normal(0.6, 0.1, 90).clip(0, 1)) for i in range(rows)}


def test_the_best_of_rows_that_are_noise_comes_down_to_the_truth():
    """20 rows of true score 0.6: the best of each of 10 studies is above, the corrected is not."""
    naive, corrected = [], []
    for seed in range(10):
        rows = noise_rows(20, seed)
        ours = correct_selection(rows, resample(rows["v000"].layout, "frames", 300))
        naive.append(ours.naive)
        corrected.append(ours.corrected)
        assert ours.corrected < ours.naive
        assert ours.interval.low < 0.6 < ours.interval.high

    assert np.mean(naive) > 0.615
    assert np.mean(corrected) == pytest.approx(0.6, abs=0.006)


def test_for_linear_scores_the_correction_is_that_of_the_paper():
    """Tsamardinos et al. 2018, algorithm 5, written out frame by frame."""
    rows = noise_rows(8, 0)
    draws = resample(rows["v000"].layout, "frames", 2000)
    matrix = np.array([1 - tally.counts[:, 1, 0] / 100_000 for tally in rows.values()])
    assert matrix.max() == 0, "every frame has the same union"
    frames = np.array([miou(tally.counts) for tally in rows.values()])
    weights = np.zeros((2000, 90))
    for stratum in draws.strata:
        weights[:, stratum.frames] = stratum.weights
    out_of_bag = []
    for weight in weights:
        picked = np.argmax([np.average(f, weights=weight) for f in frames])
        out_of_bag.append(
            np.mean(
                [frames[picked][k : k + 30][weight[k : k + 30] == 0].mean() for k in (0, 30, 60)]
            )
        )
    ours = correct_selection(rows, draws)

    assert ours.corrected == pytest.approx(np.mean(out_of_bag), abs=5e-4)
    assert ours.naive - ours.corrected > 5e-3, "what the tolerance must not hide"


def test_a_clear_winner_loses_nothing():
    rows = {"v000": scored(base_scores()), "v001": scored(base_scores() + 0.2)}
    ours = correct_selection(rows, resample(rows["v000"].layout, "cities", 100))

    assert (ours.best, ours.chosen["v001"]) == ("v001", 1.0)
    assert ours.corrected == ours.naive


def test_rows_of_perfect_predictions_have_no_curse():
    perfect = scored(np.ones(90))
    ours = correct_selection(
        {"v000": perfect, "v001": perfect}, resample(perfect.layout, "cities", 50)
    )

    assert (ours.best, ours.corrected, ours.interval.low, ours.interval.high) == ("v000", 1, 1, 1)


def test_where_nothing_can_be_drawn_nothing_is_corrected():
    names = names_of("aaa")
    only = row([names], [noisy(np.random.default_rng(0), 3)])
    ours = correct_selection({"v000": only}, resample(only.layout, "cities", 5))

    assert math.isnan(ours.corrected) and math.isnan(ours.interval.low)
    assert ours.naive == mean_of_folds(only.totals)
