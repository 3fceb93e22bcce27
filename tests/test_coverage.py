"""The coverage study: its simulator has the closed forms, and the record bears what is printed."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import coverage
from benchmarks.coverage import Setting
from benchmarks.simulated import (
    IOU,
    Effects,
    Simulated,
    TruthName,
    corrected_variance_ratio,
    make_layout,
    probits,
    seen_sums,
    simulate,
)
from cityseg.data import CITYSCAPES_TRAIN
from study import cautions
from study.statistics import corrected_mean
from study.tally import class_iou, mean_of_folds

STILL = Effects(city=0, city_class=0, training=0, training_class=0, seed=0, seed_class=0)


def drawn(effects: Effects, studies: int, grouping="frames", folds: int = 3) -> list[Simulated]:
    layout = make_layout(grouping, folds, 0)
    return [
        simulate(layout, effects, 1, np.random.default_rng([seed, 1])) for seed in range(studies)
    ]


@pytest.mark.parametrize("folds", [3, 5, 10])
def test_networks_share_what_their_folds_share(folds):
    """Exactly, not by chance: sums of unit vectors give the covariance."""
    seen = seen_sums(np.full(folds, 100), np.eye(folds))
    covariance = seen @ seen.T

    np.testing.assert_allclose(np.diag(covariance), 1)
    others = covariance[~np.eye(folds, dtype=bool)]
    np.testing.assert_allclose(others, (folds - 2) / (folds - 1))


@pytest.mark.parametrize(("folds", "trained"), [(3, 0.0), (3, 2.0), (10, 0.3)])
def test_nadeau_and_bengios_variance_is_off_by_the_closed_form(folds, trained):
    """Scores of `folds` networks, 3,000 times: the product's estimate over the true variance."""
    rng, sizes = np.random.default_rng(0), np.full(folds, 100)
    draws = rng.standard_normal((folds, 3000))
    scores = np.sqrt(trained) * seen_sums(sizes, draws) + rng.standard_normal((folds, 3000))
    ours = np.mean([corrected_mean(one).std_error ** 2 for one in scores.T])

    assert ours / scores.mean(0).var() == pytest.approx(
        corrected_variance_ratio(folds, trained), rel=0.1
    )


def test_the_closed_form_has_its_known_values():
    """Without training sets 1 + k / (k - 1); three folds are exact at twice the other variance."""
    assert corrected_variance_ratio(3, 0) == pytest.approx(2.5)
    assert corrected_variance_ratio(3, 2) == pytest.approx(1)
    assert corrected_variance_ratio(10, 1e9) == pytest.approx(19 / 810 / 0.9 * 1, rel=1e-3)


def test_without_effects_all_truths_are_the_levels():
    (study,) = drawn(STILL, 1)
    for name in ("networks, new cities", "trainings, new cities"):
        truth = study.truths["v000"][name]
        np.testing.assert_allclose(truth.classes, IOU, atol=1e-6)
        np.testing.assert_allclose(truth.pooled, IOU, atol=1e-6)


def test_points_move_the_score_by_points():
    layout, rng = make_layout("frames", 3, 0), np.random.default_rng(0)
    study = simulate(layout, STILL, 2, rng, gains=(0.0, 1.0))
    one, other = (study.truths[row]["trainings, new cities"].miou for row in ("v000", "v001"))

    assert other - one == pytest.approx(0.01, rel=0.02)
    assert probits(2.0) == 2 * probits(1.0)


@pytest.mark.parametrize("name", ["networks, same cities", "trainings, new cities"])
def test_scores_of_many_studies_come_to_the_truth(name: TruthName):
    """IoU of the frequent classes of 40 studies' counts together; each alone misses by more."""
    studies = drawn(Effects(), 40)
    totals = np.sum([study.tallies["v000"].totals.sum(0) for study in studies], axis=0)
    truths = np.mean([study.truths["v000"][name].pooled for study in studies], axis=0)
    common = coverage.COMMON > 0.5

    np.testing.assert_allclose(class_iou(totals)[common], truths[common], atol=0.012)


def test_what_training_does_is_in_the_spread_as_the_closed_form_says():
    """Of a network's true scores over 200 studies, with nothing but a training effect."""
    effects = replace(STILL, training=1.0)
    truths = [study.truths["v000"]["networks, new cities"].miou for study in drawn(effects, 200)]

    # the mean of 3 networks of correlation 1/2: (1 + 2 / 2) / 3 of one's variance
    assert np.std(truths, ddof=1) == pytest.approx(0.01 * np.sqrt(2 / 3), rel=0.15)


def test_rows_are_equal_recipes_on_the_same_frames():
    layout, rng = make_layout("cities", 3, 0), np.random.default_rng(0)
    study = simulate(layout, Effects(), 3, rng)
    truths = [truth["trainings, new cities"].miou for truth in study.truths.values()]
    scores = [mean_of_folds(there.totals) for there in study.tallies.values()]

    assert len(set(truths)) == 1 and len(set(scores)) == 3
    assert {there.layout for there in study.tallies.values()} == {layout}


def test_a_setting_measures_what_the_product_prints():
    setting = Setting("trainings", "frames", 3, studies=4)
    tallied = coverage.Tallied()
    coverage.measure_trainings(setting, tallied)
    again = coverage.Tallied()
    coverage.measure_trainings(setting, again)

    assert tallied.record() == again.record(), "a setting's seed fixes all"
    assert tallied.counts["t holds trainings, same cities"][1] == 4


RECORD = coverage.read_record()


def of(kind: coverage.Kind, **wanted: object) -> list[dict]:
    """Entries of the record whose setting has these values."""
    wanted = {"kind": kind, **wanted}
    return [one for one in RECORD if wanted.items() <= one["setting"].items()]


def test_every_setting_is_in_the_record_and_every_number_in_the_text():
    text = coverage.RECORD.parents[1].joinpath("coverage.md").read_text()

    assert {Setting(**one["setting"]) for one in RECORD} == set(coverage.SETTINGS)
    assert len(RECORD) == len(coverage.SETTINGS)
    for line in coverage.tables(RECORD).split("\n"):
        assert line in text


@pytest.mark.parametrize("grouping", ["frames", "cities"])
@pytest.mark.parametrize("folds", [3, 5, 10])
def test_what_is_said_of_folds_is_the_records(grouping, folds):
    name = f"t holds {coverage.CLAIMS['t'][grouping]}"
    held = [coverage.share(one, name) for one in of("trainings", grouping=grouping, folds=folds)]

    ours = cautions.BY_FOLDS[grouping][folds]
    assert (ours.least, ours.most) == pytest.approx((min(held), max(held)), abs=0.0051)
    assert len(held) == len(coverage.TRAININGS)


def test_students_t_is_the_best_of_the_three_methods():
    """Why it is printed: of all scores over cities it holds most nearly 95 %."""
    kinds = ("mIoU", "common classes", "rare classes")
    off = {
        method: np.mean(
            [
                abs(coverage.share(one, f"cities, {kind}, {method} holds") - 0.95)
                for one in of("intervals")
                for kind in kinds
                if f"cities, {kind}, {method} holds" in one["counts"]
            ]
        )
        for method in coverage.METHODS
    }

    assert min(off, key=lambda method: off[method]) == "student"


@pytest.mark.parametrize("grouping", coverage.GROUPINGS)
@pytest.mark.parametrize("folds", coverage.FOLDS)
def test_what_is_said_of_tests_is_the_records(grouping, folds):
    cities = len(CITYSCAPES_TRAIN)
    rejected = {
        one["setting"]["training"]: coverage.share(one, "both reject")
        for one in of("tests", grouping=grouping, folds=folds, cities=cities)
    }

    ours = cautions.REJECTED[grouping][folds]
    assert (ours.usual, ours.most) == pytest.approx(
        (rejected["usual"], rejected["strong"]), abs=0.0051
    )


def test_what_is_said_of_frames_in_folds_of_few_cities_is_the_records():
    (one,) = of("intervals", grouping="cities", folds=10)

    held = coverage.share(one, "frames, mIoU, student holds")
    assert cautions.OVER_FRAMES[10] == pytest.approx(held, abs=0.0051)


def test_cities_that_are_few_need_no_caution():
    """Down to six, where the bootstrap begins to draw whole ones; 100 studies tell 0.04."""
    held = [
        coverage.share(one, f"cities, {kind}, student holds")
        for one in of("intervals")
        for kind in ("mIoU", "common classes", "rare classes")
    ]

    assert min(one["setting"]["cities"] for one in of("intervals")) == 6
    assert np.nanmin(held) > 0.92


@pytest.mark.parametrize("training", ["usual", "strong"])
def test_the_correction_leaves_the_luck_of_the_trainings(training):
    """What the table of rows says of the corrected score."""
    (one,) = of("selection", training=training)

    assert one["values"]["corrected above the recipe, points"]["mean"] > 0.3
    assert (
        one["values"]["naive above the recipe, points"]["mean"]
        > (one["values"]["corrected above the recipe, points"]["mean"])
    )
