"""Evidence read from a study on disk, and how it is told in tables."""

import io

import numpy as np
import pandas as pd
import pytest
from fake_study import (
    FOLDS,
    add_row,
    finish,
    make_study,
    make_study_of_rows,
)
from rich.console import Console

from cityseg.cell import Confusion, Counts, write_confusion
from study import analysis, analyze, evidence, tables, verdicts
from study.analysis import OBJECTIVES
from study.evidence import ComparisonTable, IntervalTable
from study.space import Search
from study.store import Study


@pytest.fixture
def done(tmp_path) -> Study:
    """One row, all folds done; four scores that differ."""
    study = make_study(tmp_path / "results", search=Search(variants=3))
    finish_by_chance(study, 0)
    return study


def finish_by_chance(study: Study, variant: int) -> None:
    """All folds of a row, with four scores that differ from each other and from other rows'."""
    rng = np.random.default_rng(variant)
    for fold in (1, 2, 3):
        finish(study, fold, variant=variant)
        low, full, last_low, last_full = (
            rng.integers(0, 9, (2, 19, 19)) + 20 * np.eye(19, dtype=np.int64) for _ in range(4)
        )
        counts = Confusion(FOLDS[fold - 1], Counts(2, low, full), Counts(4, last_low, last_full))
        write_confusion(study.cell(variant, fold).confusion, counts)


@pytest.fixture
def rows(tmp_path) -> Study:
    return make_study_of_rows(tmp_path / "results")


def intervals(study: Study) -> IntervalTable:
    table = evidence.interval_table(analysis.read_variant(study))
    assert table is not None
    return table


def comparisons(study: Study) -> ComparisonTable:
    table = evidence.comparison_table(analysis.variant_table(study))
    assert table is not None
    return table


def test_the_scores_are_those_of_table_1(done):
    folds = analysis.fold_table(analysis.read_variant(done))
    table = intervals(done)

    assert [score.objective for score in table.scores] == list(OBJECTIVES)
    for score in table.scores:
        miou = folds.miou(*OBJECTIVES[score.objective])
        assert score.spread == analysis.spread(miou)
        assert score.corrected.mean == pytest.approx(miou.mean())
        assert score.estimates.mean_of_folds.value == pytest.approx(miou.mean())
        assert score.corrected.std == pytest.approx(score.spread.std * np.sqrt(3 / 2))
        one = analysis.class_table(folds, *OBJECTIVES[score.objective])
        assert [c.iou for c in score.classes] == pytest.approx([s.mean for s in one.spreads])


def test_a_row_with_a_fold_to_come_has_no_intervals(tmp_path):
    study = make_study(tmp_path / "results")
    finish(study, 1)
    finish(study, 3)

    assert evidence.interval_table(analysis.read_variant(study)) is None


def test_the_table_says_what_was_drawn(done):
    table = intervals(done)
    text, caption = verdicts.interval_text(table), verdicts.interval_caption(table)

    assert text.columns[1:].tolist() == list(tables.FOLD_HEADINGS.values())[:4]
    mean, *ends = (float(text["Full-Res mIoU"][i]) for i in (0, 3, 4, 5, 6))
    assert ends[0] < mean < ends[1]
    assert ends[2] < mean < ends[3]
    assert text["Statistic"][5] == "Frames: 95 % from"
    assert "a bootstrap of single frames (6)" in caption
    assert "The frames are of 2 cities, too few" in caption
    assert analysis.SYNTHETIC in caption
    assert "misses its mean" not in caption


def test_an_interval_that_misses_its_mean_is_said_to(rows):
    """Cars are in half of the frames: draws without them score other classes."""
    assert "misses its mean" in verdicts.interval_caption(intervals(rows))


def test_the_csv_of_intervals_has_every_class_and_ends(done):
    table = intervals(done)
    numbers = verdicts.interval_numbers(table)

    assert len(numbers) == 4 * 20
    first = numbers[(numbers["objective"] == "last_full") & (numbers["class"] == "mIoU")].iloc[0]
    score = table.scores[3]
    assert first["t_low"] == score.corrected.interval.low
    assert first["mean_bca_high"] == score.estimates.mean_of_folds.bca.high
    assert first["pooled_percentile_low"] == score.estimates.pooled.percentile.low
    car = numbers[(numbers["objective"] == "best_low") & (numbers["class"] == "car")].iloc[0]
    assert (car["recall"], car["folds"]) == (table.scores[0].classes[13].recall, 3)
    assert car["pooled"] == table.scores[0].estimates.class_pooled[13].value


def test_the_best_row_comes_first_and_is_not_shown_to_be_better(rows):
    table = comparisons(rows)

    assert [one.row for one in table.comparisons] == ["v002", "v001"]
    by_rank = {row.number: row.difference.mean for row in table.rows.rows}
    assert table.comparisons[0].difference == pytest.approx(by_rank[2])
    caption = verdicts.comparison_caption(table)
    assert caption.startswith("No difference of v002 to v000 is shown: 2.2 points (95 % interval")
    assert verdicts.comparison_text(table)["To base"].tolist() == ["+0.0222", "+0.0111"]


def test_the_rows_are_compared_by_the_studys_objective(done):
    for variant in (1, 2):
        add_row(done, variant, {"train.lr": 1e-3 * variant})
        finish_by_chance(done, variant)
    table = comparisons(done)
    best = table.rows.best

    assert best is not None
    assert table.selection.naive == pytest.approx(best.spread("best_full").mean)
    differences = {f"v00{row.number}": row.difference.mean for row in table.rows.rows}
    assert {one.row for one in table.comparisons} == {"v001", "v002"}
    for one in table.comparisons:
        assert one.difference == pytest.approx(differences[one.row])


def test_of_many_comparisons_the_first_are_printed(rows):
    table = comparisons(rows)

    assert verdicts.comparison_text(table, 1)["Row"].tolist() == ["v002"]
    assert "1 more rows are in the files" in verdicts.comparison_caption(table, 1)


def test_the_csv_of_comparisons_holds_the_verdicts(rows):
    table = comparisons(rows)
    analyze.report_comparisons(Console(file=io.StringIO()), table, rows.analysis)
    numbers = pd.read_csv(rows.analysis / "comparisons.csv", index_col="row")

    assert numbers["verdict"].to_dict() == {one.row: one.verdict for one in table.comparisons}
    assert numbers["p_holm"].tolist() == [one.adjusted for one in table.comparisons]
    assert numbers["t_low"].tolist() == [one.by_fold.interval.low for one in table.comparisons]
    assert set(numbers["data"]) == {analysis.SYNTHETIC}


def test_the_best_rows_score_stands_freed_of_its_choice_where_it_is_named(rows):
    table = comparisons(rows)
    best = table.rows.best

    assert best is not None
    assert table.selection.best == "v002"
    assert table.selection.naive == pytest.approx(best.spread("best_full").mean)
    caption = tables.variant_caption(table.rows, selection=table.selection)
    corrected = f"its score is {table.selection.corrected:.4f} instead of 0.7389"
    assert corrected in caption
    console = Console(width=200, file=io.StringIO())
    analyze.report_rows(console, table.rows, table, rows.analysis)
    assert isinstance(console.file, io.StringIO)
    assert corrected in " ".join(console.file.getvalue().split())
    assert corrected in (rows.analysis / "variants.md").read_text()


def test_one_finished_row_is_compared_with_nothing(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    add_row(study, 1, {"train.lr": 1e-3})
    for fold in (1, 2, 3):
        finish(study, fold)

    assert evidence.comparison_table(analysis.variant_table(study)) is None


def test_without_the_base_row_the_best_one_is_still_corrected(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=3))
    for variant in (1, 2):
        add_row(study, variant, {"train.lr": 1e-3 * variant})
        for fold in (1, 2, 3):
            finish(study, fold, variant=variant)
    table = comparisons(study)

    assert table.comparisons == ()
    assert table.selection.best == "v001"
    written = analyze.report_rows(Console(file=io.StringIO()), table.rows, table, study.analysis)
    assert {path.stem for path in written} == {"variants"}
