"""Gaps between epochs, resolutions and losses, against pandas and scipy on what lies on disk."""

import math

import numpy as np
import pandas as pd
import pytest
from fake_study import FOLDS, finish, make_study
from scipy import stats

from cityseg.cell import Confusion, Counts, Epoch, write_confusion, write_epochs
from cityseg.metrics import mean_iou
from study import analysis, sheets
from study.analysis import CellScores
from study.counts import Choice, Resolution
from study.gaps import Gap, GapTable, gap_table
from study.store import Study

BEST_EPOCHS = {1: 2, 2: 3, 3: 1}


@pytest.fixture
def study(tmp_path) -> Study:
    """One row, all folds done; four scores and two losses that differ from fold to fold."""
    study = make_study(tmp_path / "results")
    rng = np.random.default_rng(0)
    for fold in (1, 2, 3):
        epochs = [
            Epoch(i, float(train), float(val), 0.1, 0.1, 1e-4, 1.0, 1.0, 1.0)
            for i, (train, val) in enumerate(rng.uniform(0.5, 2, (4, 2)), 1)
        ]
        write_epochs(study.cell(0, fold).epochs, epochs)
        finish(study, fold)
        low, full, last_low, last_full = (
            rng.integers(0, 9, (2, 19, 19)) + 20 * np.eye(19, dtype=np.int64) for _ in range(4)
        )
        best = Counts(BEST_EPOCHS[fold], low, full)
        confusion = Confusion(FOLDS[fold - 1], best, Counts(4, last_low, last_full))
        write_confusion(study.cell(0, fold).confusion, confusion)
    return study


def gaps(study: Study, ratio: float = 0.5) -> GapTable:
    table = gap_table(analysis.fold_table(analysis.read_variant(study)), ratio)
    assert table is not None
    return table


def losses(study: Study, epoch_of: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Validation and training loss of an epoch of each fold."""
    rows = [
        pd.read_csv(study.cell(0, fold).epochs).set_index("epoch").loc[epoch]
        for fold, epoch in epoch_of.items()
    ]
    return (np.array([row["val_loss"] for row in rows]),
            np.array([row["train_loss"] for row in rows]))  # fmt: skip


def assert_gap(gap: Gap, one: np.ndarray, other: np.ndarray) -> None:
    assert gap.first_mean == pytest.approx(one.mean())
    assert gap.second_mean == pytest.approx(other.mean())
    assert gap.difference.mean == pytest.approx((one - other).mean())
    # Nadeau and Bengio: the plain t interval, wider by sqrt((1/3 + 1/2) / (1/3))
    plain = stats.ttest_rel(one, other).confidence_interval()
    half = (plain.high - plain.low) / 2 * math.sqrt((1 / 3 + 1 / 2) * 3)
    interval = gap.difference.interval
    assert (interval.high - interval.low) / 2 == pytest.approx(half)


def of_cell(cell: CellScores, name: tuple[Choice, Resolution]) -> np.ndarray:
    score = cell.score(*name)
    assert score is not None
    return score.confusion


def test_scores_differ_by_epoch_and_by_resolution(study):
    folds = analysis.fold_table(analysis.read_variant(study))
    scores = {
        name: np.array([float(mean_iou(of_cell(cell, name))) for cell in folds.cells])
        for name in analysis.SCORE_COLUMNS
    }
    table = gaps(study)

    low, full = table.epoch_choice
    assert_gap(low, scores["best", "low"], scores["last", "low"])
    assert_gap(full, scores["best", "full"], scores["last", "full"])
    best, last = table.resolution
    assert_gap(best, scores["best", "low"], scores["best", "full"])
    assert_gap(last, scores["last", "low"], scores["last", "full"])
    assert (full.first, full.second) == ("best epoch, full-res", "last epoch, full-res")


def test_losses_are_of_the_scored_epochs(study):
    best, last = gaps(study).generalisation

    assert_gap(best, *losses(study, BEST_EPOCHS))
    assert_gap(last, *losses(study, dict.fromkeys(BEST_EPOCHS, 4)))
    assert best.first == "best epoch, validation loss"


def test_a_lost_table_of_epochs_leaves_the_losses_unknown(study):
    study.cell(0, 2).epochs.unlink()
    table = gaps(study)

    assert math.isnan(table.generalisation[0].difference.mean)
    assert not math.isnan(table.epoch_choice[0].difference.mean)
    assert sheets.gap_text(table)["First"].tolist()[-1] == "–"


def test_a_row_with_a_fold_to_come_has_no_gaps(study):
    study.cell(0, 3).confusion.unlink()

    assert gap_table(analysis.fold_table(analysis.read_variant(study)), 0.5) is None


def test_the_gaps_are_printed_with_what_they_mean(study):
    table = gaps(study)
    text, caption = sheets.gap_text(table), sheets.gap_caption(table)
    numbers = sheets.gap_numbers(table)

    assert len(text) == len(numbers) == len(table.all) == 6
    assert text["Gap"][1] == "best epoch, full-res / last epoch, full-res"
    for printed, full in zip(text["Differ by"], numbers["difference"], strict=True):
        assert float(printed) == pytest.approx(full, abs=6e-5)
        assert printed[0] in "+-"
    assert "flattery and a better network together" in caption
    assert "augmented samples" in caption
    assert set(numbers["data"]) == {analysis.SYNTHETIC}
