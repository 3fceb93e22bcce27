"""Every class of a row, against scikit-learn on the label and prediction of every pixel."""

import math
from typing import Any

import numpy as np
import pytest
from fake_study import FOLDS, finish, make_study
from sklearn.metrics import jaccard_score, precision_score, recall_score

from cityseg.cell import Confusion, Counts, write_confusion
from cityseg.labels import CLASS_NAMES, IGNORE, NUM_CLASSES
from study import analysis, evidence, sheets
from study.classes import ClassScores, class_scores
from study.counts import OBJECTIVES
from study.space import Objective
from study.store import Study

ABSENT = 18
"""Neither labelled nor predicted."""
PREDICTED = 17
"""Only predicted, in the second fold."""
PIXELS = 400


def labels_and_predictions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8[3, 2, pixels] each, of two frames in each of three folds; most is right.

    Class 16 is in the first fold alone.
    """
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 16, (3, 2, PIXELS)).astype(np.uint8)
    target[0, :, :20] = 16
    prediction = np.where(rng.random(target.shape) < 0.7, target, rng.integers(0, 16, target.shape))
    prediction[1, 0, :7] = PREDICTED
    target[:, :, -30:] = IGNORE
    return target, prediction.astype(np.uint8)


def counted(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """int64[2, 19, 19] of the frames of one fold."""
    counts = np.zeros((2, NUM_CLASSES, NUM_CLASSES), np.int64)
    for frame in range(2):
        there = target[frame] != IGNORE
        np.add.at(counts[frame], (target[frame][there], prediction[frame][there]), 1)
    return counts


@pytest.fixture
def study(tmp_path) -> Study:
    """All folds done; each of the four scores is of its own seed, in the order of OBJECTIVES."""
    study = make_study(tmp_path / "results")
    maps = [labels_and_predictions(seed) for seed in range(4)]
    for fold in (1, 2, 3):
        finish(study, fold)
        low, full, last_low, last_full = (
            counted(target[fold - 1], prediction[fold - 1]) for target, prediction in maps
        )
        best, last = Counts(2, low, full), Counts(4, last_low, last_full)
        write_confusion(study.cell(0, fold).confusion, Confusion(FOLDS[fold - 1], best, last))
    return study


def classes(study: Study, objective: Objective, intervals: bool = True) -> ClassScores:
    variant = analysis.read_variant(study)
    table = evidence.interval_table(variant) if intervals else None
    return class_scores(analysis.fold_table(variant), objective, table)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_precision_recall_and_iou_are_scikit_learns(study, objective):
    target, prediction = labels_and_predictions(list(OBJECTIVES).index(objective))
    there = target != IGNORE
    true, predicted = target[there], prediction[there]
    options: dict[str, Any] = {
        "labels": range(NUM_CLASSES), "average": None, "zero_division": np.nan,
    }  # fmt: skip
    ours = classes(study, objective)

    for field, theirs in {
        "precision": precision_score(true, predicted, **options),
        "recall": recall_score(true, predicted, **options),
    }.items():
        mine = [getattr(one, field) for one in ours.statistics]
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    for fold in range(3):
        true, predicted = target[fold][there[fold]], prediction[fold][there[fold]]
        of_fold: dict[str, Any] = {**options, "zero_division": 0}
        iou = jaccard_score(true, predicted, **of_fold)
        occurs = np.isin(np.arange(NUM_CLASSES), np.union1d(true, predicted))
        np.testing.assert_allclose(ours.iou[fold], np.where(occurs, iou, np.nan), rtol=1e-12)
    shares = np.bincount(target[there], minlength=NUM_CLASSES) / there.sum()
    np.testing.assert_allclose([one.share for one in ours.statistics], shares)


def test_absent_and_only_predicted_classes_are_as_the_official_rule_has_them(study):
    ours = classes(study, "best_full")
    absent, predicted, rare = (ours.statistics[c] for c in (ABSENT, PREDICTED, 16))

    assert math.isnan(absent.iou) and math.isnan(absent.precision) and math.isnan(absent.gain)
    assert math.isnan(ours.intervals[ABSENT].low)
    assert (predicted.iou, predicted.folds) == (0, 0)
    assert np.isnan(ours.iou[:, PREDICTED]).tolist() == [True, False, True]
    assert rare.folds == 1
    assert rare.iou == ours.iou[0, 16], "the mean of the one fold that has it"
    text = sheets.class_text(ours).set_index("Class")
    assert set(text.loc[CLASS_NAMES[ABSENT]]) == {"–", "0.0000", "0/3"}
    assert text["Folds"][CLASS_NAMES[16]] == "1/3"


def test_the_classes_that_limit_the_mean_by_brute_force(study):
    ours = classes(study, "best_full")
    gains = []
    for c in range(NUM_CLASSES):
        raised = ours.iou.copy()
        for fold in raised:
            if not math.isnan(fold[c]):
                fold[c] = max(fold[c], np.nanmedian(fold))
        gains.append(np.nanmean(raised, 1).mean() - np.nanmean(ours.iou, 1).mean())

    assert ours.limiting == sorted(range(NUM_CLASSES), key=lambda c: -gains[c])[:3]
    assert PREDICTED in ours.limiting, "it scores 0 in the mean of its fold"
    words = f"{CLASS_NAMES[ours.limiting[0]]} ({max(gains):+.4f})"
    assert words in sheets.class_caption(ours)


def test_each_classs_interval_is_the_bootstraps(study):
    ours = classes(study, "last_low")
    table = evidence.interval_table(analysis.read_variant(study))
    assert table is not None

    theirs = table.scores[2].estimates.class_mean
    assert ours.unit == "frames"
    for c in (0, 5, 16):
        assert ours.intervals[c] == theirs[c].interval
        assert ours.intervals[c].low <= ours.statistics[c].iou <= ours.intervals[c].high
    assert "by a bootstrap of single frames" in sheets.class_caption(ours)


def test_while_folds_are_missing_the_classes_are_of_those_there(study):
    study.cell(0, 3).confusion.unlink()
    ours = classes(study, "best_full")

    assert np.isnan(ours.iou[2]).all()
    assert ours.statistics[0].iou == pytest.approx(ours.iou[:2, 0].mean())
    assert math.isnan(ours.intervals[0].low)
    assert "its interval needs all folds" in sheets.class_caption(ours)


def test_without_any_fold_nothing_is_known(tmp_path):
    ours = classes(make_study(tmp_path / "results"), "best_full", intervals=False)

    assert all(math.isnan(one.iou) and one.folds == 0 for one in ours.statistics)
    assert ours.limiting == []
    assert sheets.limits(ours) == []


def test_the_csv_has_all_that_is_known_of_a_class(study):
    numbers = sheets.class_numbers([classes(study, objective) for objective in OBJECTIVES])
    ours = classes(study, "last_full")

    assert len(numbers) == 4 * NUM_CLASSES
    line = numbers.iloc[3 * NUM_CLASSES + 5]
    assert line["precision"] == ours.statistics[5].precision
    assert line["labelled_folds"] == 3
    assert line["student_high"] == ours.intervals[5].high
    assert numbers["limits"].iloc[3 * NUM_CLASSES :].to_numpy().nonzero()[0].tolist() == sorted(
        ours.limiting
    )
