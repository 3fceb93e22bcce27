"""The analysis' records: every number against the paper, a hand count or another implementation."""

import math
import shutil
import statistics

import numpy as np
import pytest
from fake_study import (
    EPOCHS,
    FOLDS,
    FRAMES,
    add_epochs,
    add_row,
    confusion_of,
    finish,
    make_study,
    make_study_of_rows,
    target,
    write_train_ids,
)
from hypothesis import given
from hypothesis import strategies as st

from cityseg.cell import Cell, write_confusion
from cityseg.data import index
from cityseg.errors import InputError
from cityseg.labels import CLASS_NAMES, NUM_CLASSES
from study import analysis, tables
from study.analysis import IGNORED, PAPER, RIGHT, WRONG
from study.space import Objective, Search
from study.store import Study


@pytest.fixture
def study(tmp_path) -> Study:
    return make_study(tmp_path / "results")


def counts(*frames: dict[tuple[int, int], int]) -> np.ndarray:
    """int64[n, 19, 19] from {(label, prediction): pixels}."""
    matrices = np.zeros((len(frames), NUM_CLASSES, NUM_CLASSES), np.int64)
    for matrix, pixels in zip(matrices, frames, strict=True):
        for cell, number in pixels.items():
            matrix[cell] = number
    return matrices


@pytest.mark.parametrize(
    ("folds", "mean", "std"),
    [(PAPER.low, PAPER.mean_low, PAPER.std_low), (PAPER.full, PAPER.mean_full, PAPER.std_full)],
)
def test_the_papers_mean_and_std_come_out_of_its_six_scores(folds, mean, std):
    ours = analysis.spread(np.array(folds))

    # four decimals on both sides: half a unit of rounding in the inputs, half in the output
    assert ours.mean == pytest.approx(mean, abs=1e-4)
    assert ours.std == pytest.approx(std, abs=1e-4)
    assert statistics.stdev(folds) - std > 1e-3, "the sample std would not pass"


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=6))
def test_spread_is_the_population_one_of_the_values_that_are_there(values):
    there = [value for value in values if not math.isnan(value)]
    ours = analysis.spread(np.array(values))

    assert ours.count == len(there)
    if there:
        assert ours.mean == pytest.approx(statistics.fmean(there))
    else:
        assert math.isnan(ours.mean)
    if len(there) > 1:
        assert ours.std == pytest.approx(statistics.pstdev(there), abs=1e-9)
    else:
        assert math.isnan(ours.std), "one value says nothing on spread"


def test_scores_divide_once_after_summing_the_frames(study):
    # summed: road 3 right of 5, sidewalk 1 right, twice accused: IoU 3/5 and 1/3;
    # the mean of the frames' own mIoU would be (3/8 + 1/4) / 2
    finish(study, 1, counts({(0, 0): 3, (0, 1): 1}, {(0, 1): 1, (1, 1): 1}))

    cell = analysis.cell_scores(analysis.read_variant(study), 1)

    assert cell.best is not None
    assert cell.best.epoch == 2
    assert cell.best.low.miou == pytest.approx((3 / 5 + 1 / 3) / 2)
    assert cell.best.low.iou[:2] == pytest.approx([3 / 5, 1 / 3])


def test_a_class_is_averaged_over_the_folds_that_have_it(study):
    finish(study, 1, counts({(0, 0): 1, (1, 1): 1, (1, 0): 1}))
    finish(study, 2, counts({(0, 0): 1}))
    finish(study, 3, counts({(0, 0): 1, (0, 1): 1}))
    folds = analysis.fold_table(analysis.read_variant(study))

    table = analysis.class_table(folds, "best", "full")

    # sidewalk: 1/2, absent, only predicted (scores 0 and counts)
    assert table.iou[:, 1] == pytest.approx([1 / 2, math.nan, 0], nan_ok=True)
    assert (table.spreads[1].mean, table.spreads[1].count) == (pytest.approx(1 / 4), 2)
    assert table.spreads[2].count == 0
    text = tables.class_text(table).set_index("Class")
    assert list(text.loc["sidewalk"]) == ["0.5000", "–", "0.0000", "0.2500", "0.2500", "2 of 3"]
    assert set(text.loc["sky"]) == {"–", "0 of 3"}


def test_low_and_full_best_and_last_are_not_mixed_up(study):
    # road right 1, 2, 3 and 4 times, and once taken for sidewalk, which then scores 0
    low, full, last_low, last_full = (counts({(0, 0): n, (0, 1): 1}) for n in (1, 2, 3, 4))
    confusion = confusion_of(1, low, full, last_low, last_full)
    write_confusion(study.cell(0, 1).confusion, confusion)
    folds = analysis.fold_table(analysis.read_variant(study))

    for n, (choice, resolution) in enumerate(analysis.SCORE_COLUMNS, 1):
        road = n / (n + 1)
        assert folds.miou(choice, resolution)[0] == pytest.approx(road / 2)
        assert tables.fold_numbers(folds)[f"{choice}_{resolution}"][0] == pytest.approx(road / 2)
        classes = analysis.class_table(folds, choice, resolution)
        assert classes.iou[0, 0] == pytest.approx(road)
        assert tables.class_text(classes)["Fold 1"].iloc[-1] == f"{road / 2:.4f}"
        assert f"{resolution} resolution, {choice} epoch" in tables.class_caption(classes)


def test_an_unfinished_study_says_what_is_missing(study):
    finish(study, 1)
    add_epochs(study, 2, [0.1, 0.2])
    failed = study.cell(0, 3)
    add_epochs(study, 3, [0.1])
    failed.failure.write_text("loss is nan at step 7\nmore\n")

    table = analysis.fold_table(analysis.read_variant(study))

    assert [cell.status for cell in table.cells] == ["done", "unfinished", "failed"]
    assert table.missing == [
        f"fold 2: epoch 2 of {EPOCHS}",
        f"fold 3: failed at epoch 1 of {EPOCHS}: loss is nan at step 7",
    ]
    text = tables.fold_text(table)
    score = text["Low-Res mIoU"][0]
    assert list(text["Fold"][-2:]) == ["Mean of 1 of 3 folds", "Std of 1 of 3 folds"]
    assert list(text["Low-Res mIoU"]) == [score, "–", "–", score, "–"]
    assert all(line in tables.fold_caption(table) for line in table.missing)


def test_a_study_without_any_cell_is_all_dashes(study):
    table = analysis.fold_table(analysis.read_variant(study))

    assert table.missing == [f"fold {k}: not started" for k in (1, 2, 3)]
    assert set(tables.fold_text(table)["Full-Res mIoU"]) == {"–"}
    assert analysis.history(table.variant, 1) is None
    assert analysis.panel(table.variant, 1, {}) is None


def test_a_finished_study_is_plain(study):
    for fold in (1, 2, 3):
        finish(study, fold)

    table = analysis.fold_table(analysis.read_variant(study))

    assert table.missing == []
    assert list(tables.fold_text(table)["Fold"]) == ["1", "2", "3", "Mean", "Std"]
    assert "Missing" not in tables.fold_caption(table)


def test_the_papers_numbers_stand_beside_cityscapes_only(tmp_path):
    printed = {}
    for kind in ("cityscapes", "synthetic", "other"):
        study = make_study(tmp_path / kind, kind)
        printed[kind] = tables.fold_text(analysis.fold_table(analysis.read_variant(study)))

    paper = printed["cityscapes"]
    assert list(paper["Paper: Low-Res"]) == ["0.6905", "0.6696", "0.6717", "0.6773", "0.0094"]
    assert list(paper["Paper: Full-Res"]) == ["0.6719", "0.6495", "0.6444", "0.6552", "0.0120"]
    assert not any("Paper" in key for kind in ("synthetic", "other") for key in printed[kind])
    assert all(math.isnan(score) for score in PAPER.of_fold(1, 5)), "of other folds: no pairing"


def test_history_marks_the_first_of_the_best_epochs(study):
    add_epochs(study, 2, [0.1, 0.3, 0.3, 0.2])

    history = analysis.history(analysis.read_variant(study), 2)

    assert history is not None
    assert history.best_epoch == 2
    assert history.val_loss == pytest.approx([3, 3 / 2, 1, 3 / 4])
    assert history.miou_full == pytest.approx([0.05, 0.15, 0.15, 0.1])
    assert history.title == "fake_1, fold 2 of 3"
    assert history.data == analysis.SYNTHETIC


def test_panel_shows_where_the_prediction_is_wrong(study):
    finish(study, 2)
    variant = analysis.read_variant(study)
    frames = {frame.name: frame for frame in index(variant.record.data.root, "train")}

    panel = analysis.panel(variant, 2, frames)

    assert panel is not None
    assert [row.miou for row in panel.rows] == sorted(row.miou for row in panel.rows)
    row = next(row for row in panel.rows if row.name == FOLDS[1][0])
    assert (row.errors[:7] == RIGHT).sum() == 7 * 16 - 2
    assert (row.errors[6, :2] == WRONG).all()
    assert (row.errors[7] == IGNORED).all()
    np.testing.assert_array_equal(row.target, target(FRAMES.index(row.name)))
    # sky 1, car 1, road 40 of 42, sidewalk accused only
    assert row.miou == pytest.approx((1 + 1 + 40 / 42 + 0) / 4)
    assert [CLASS_NAMES[i] for i in panel.classes] == ["road", "sidewalk", "sky", "car"]


def test_panel_scales_wide_frames_down_without_inventing_classes(study):
    finish(study, 1)
    variant = analysis.read_variant(study)
    root, name = variant.record.data.root, FOLDS[0][0]
    wide = target(1).repeat(200, 0).repeat(200, 1)[:, 100:-100]  # edges fall inside smaller pixels
    write_train_ids(root, name, wide)
    for path in study.cell(0, 1).predictions.iterdir():
        path.unlink()
    label = root / "gtFine" / "train" / "aa" / f"{name}_gtFine_labelIds.png"
    (study.cell(0, 1).predictions / f"{name}_labelIds.png").write_bytes(label.read_bytes())

    panel = analysis.panel(variant, 1, {frame.name: frame for frame in index(root, "train")})

    assert panel is not None
    row = panel.rows[0]
    assert row.image.shape == (546, 1024, 3)  # 1600 x 3000, scaled
    assert row.target.shape == row.prediction.shape == row.errors.shape == (546, 1024)
    assert set(np.unique(row.target)) == set(np.unique(wide))
    assert WRONG not in row.errors


def test_panel_refuses_data_that_does_not_fit(study):
    finish(study, 1)
    variant = analysis.read_variant(study)
    root = variant.record.data.root

    with pytest.raises(InputError, match="not in the data set"):
        analysis.panel(variant, 1, {})
    write_train_ids(root, FOLDS[0][0], np.zeros((4, 8), np.uint8))
    with pytest.raises(InputError, match=r"got size \(8, 16\), expected \(4, 8\)"):
        analysis.panel(variant, 1, {frame.name: frame for frame in index(root, "train")})


def road_and_sidewalk(right: int, wrong: int) -> np.ndarray:
    """One frame whose mIoU is half of right / (right + wrong): sidewalk is accused only."""
    return counts({(0, 0): right, (0, 1): wrong})


def test_rows_are_ranked_by_their_mean_and_compared_fold_by_fold(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=3))
    roads = {0: (1, 2, 3), 1: (3, 2, 1), 2: (2, 3, 4)}  # of 4 pixels, in folds 1 to 3
    for variant, right in roads.items():
        add_row(study, variant, {"train.lr": 1e-4 * (variant + 1)} if variant else {})
        for fold in (1, 2, 3):
            pixels = right[fold - 1]
            finish(study, fold, road_and_sidewalk(pixels, 4 - pixels), variant)

    table = analysis.variant_table(study)

    # v002 sees all of the road in fold 3, so that no sidewalk is accused there: 2/8, 3/8 and 1
    scores = {row.number: row.miou["best_full"] for row in table.rows}
    assert [row.number for row in table.rows] == [2, 0, 1], "of equals the first"
    assert scores[1] == pytest.approx([3 / 8, 2 / 8, 1 / 8])
    assert scores[2] == pytest.approx([2 / 8, 3 / 8, 1])
    best, base, other = table.rows
    assert best is table.best
    assert best.spread("best_full").mean == pytest.approx(statistics.fmean([2 / 8, 3 / 8, 1]))
    assert best.spread("best_full").std == pytest.approx(statistics.pstdev([2 / 8, 3 / 8, 1]))
    differences = [1 / 8, 1 / 8, 5 / 8]
    assert best.difference.mean == pytest.approx(statistics.fmean(differences))
    assert best.difference.std == pytest.approx(statistics.pstdev(differences))
    assert other.difference.mean == pytest.approx(0)
    assert other.difference.std == pytest.approx(statistics.pstdev([2 / 8, 0, -2 / 8]))
    assert (base.difference.mean, base.difference.std) == (0, 0)


def test_the_objective_decides_which_row_is_best(tmp_path):
    objectives: list[Objective] = ["best_low", "best_full", "last_low", "last_full"]
    for place, objective in enumerate(objectives):
        study = make_study(tmp_path / objective, search=Search(variants=4, objective=objective))
        for variant in range(4):  # row v is best by the v-th of the four scores
            add_row(study, variant, {"seed": variant} if variant else {})
            for fold in (1, 2, 3):
                scores = [road_and_sidewalk(3 if n == variant else 1, 1) for n in range(4)]
                finish(study, fold, scores[0], variant)
                confusion = confusion_of(fold, *scores)
                write_confusion(study.cell(variant, fold).confusion, confusion)

        table = analysis.variant_table(study)

        assert table.best is not None
        assert table.best.number == place
        assert table.best.spread(objective).mean == pytest.approx(3 / 8)
        column = tables.FOLD_HEADINGS[objective]
        assert tables.variant_text(table)[column][0] == "0.3750"
        companion = tables.FOLD_HEADINGS[tables.COMPANION[objective]]
        assert tables.variant_text(table)[companion][0] == "0.2500"


def test_rows_without_all_folds_have_no_mean_but_a_reason(tmp_path):
    table = analysis.variant_table(make_study_of_rows(tmp_path / "results"))

    rows = {row.number: row for row in table.rows}
    assert list(rows) == [2, 1, 0, 3, 4, 5]
    assert [row.status for row in table.rows] == [*["done"] * 3, "pruned", "failed", "pending"]
    assert rows[3].reason == "epoch 2: 0.05 | below [v002]"
    assert rows[4].reason == "fold 2: loss is nan"
    assert (rows[3].epochs_done, rows[3].epochs, rows[3].folds_done) == (2, 12, 0)
    assert (rows[2].epochs_done, rows[2].epochs, rows[2].folds_done) == (12, 12, 3)
    for number in (3, 4, 5):
        assert math.isnan(rows[number].spread("best_full").mean)
        assert math.isnan(rows[number].difference.mean)
    assert table.planned == 8


def test_a_done_fold_of_a_pruned_row_is_no_score(tmp_path):
    study = make_study_of_rows(tmp_path / "results")
    finish(study, 1, variant=3)

    row = next(row for row in analysis.variant_table(study).rows if row.number == 3)

    assert (row.status, row.folds_done) == ("pruned", 1)
    assert np.isnan(row.miou["best_full"]).all()


def test_nothing_is_compared_to_a_base_row_that_is_not_done(tmp_path):
    study = make_study_of_rows(tmp_path / "results")
    study.cell(0, 2).confusion.unlink()

    table = analysis.variant_table(study)

    assert [row.number for row in table.rows][:2] == [2, 1]
    assert all(math.isnan(row.difference.mean) for row in table.rows)
    assert set(tables.variant_text(table)["To base"]) == {"–"}


def test_the_table_of_rows_marks_base_and_best_and_says_why_rows_ended(tmp_path):
    table = analysis.variant_table(make_study_of_rows(tmp_path / "results"))

    text = tables.variant_text(table)

    assert list(text["Row"]) == ["v002 (best)", "v001", "v000 (base)", "v003", "v004", "v005"]
    assert list(text["Values"])[:3] == [
        "dropout 0.1, lr 0.0002",
        "dropout 0.1, lr 0.0001",
        "(base)",
    ]
    assert list(text["To base"])[:4] == ["+0.0222", "+0.0111", "+0.0000", "–"]
    assert list(text["Epochs"])[:4] == ["12/12", "12/12", "12/12", "2/12"]
    assert list(text["State"])[2:] == [
        "done", "pruned: epoch 2: 0.05 | below [v002]", "failed: fold 2: loss is nan", "pending",
    ]  # fmt: skip


def test_the_caption_says_what_was_compared_and_how_far_to_believe_it(tmp_path):
    study = make_study_of_rows(tmp_path / "results")
    caption = tables.variant_caption(analysis.variant_table(study))

    assert analysis.SYNTHETIC in caption
    assert "Compared by best_full" in caption
    assert "v002, was chosen on the very folds that it is scored on" in caption
    assert "8 rows (3 done, 1 pruned, 1 failed, 1 pending, 2 to come)" in caption
    for variant in (0, 1, 2):
        study.cell(variant, 1).confusion.unlink()
    table = analysis.variant_table(study)
    assert table.best is None
    assert "was chosen" not in tables.variant_caption(table)


def test_of_many_rows_the_first_are_shown_and_the_base_row_always(tmp_path):
    table = analysis.variant_table(make_study_of_rows(tmp_path / "results"))

    for most, shown in {6: 6, 5: 5, 3: 3, 2: 2}.items():
        labels = [label[:4] for label in tables.variant_text(table, most)["Row"]]
        assert len(labels) == shown
        assert labels[0] == "v002"
        assert "v000" in labels
    assert "4 more rows are in the files" in tables.variant_caption(table, 2)
    assert "more rows" not in tables.variant_caption(table, 6)


def test_a_row_has_its_own_configuration_and_says_so(tmp_path):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    add_row(study, 1, {"train.epochs": 9, "data.input_size": [64, 96]})

    variant = analysis.read_variant(study, 1)

    assert analysis.cell_scores(variant, 1).epochs == 9
    caption = tables.fold_caption(analysis.fold_table(variant))
    assert "Study fake_1 v001" in caption
    assert "train.epochs=9, data.input_size=[64, 96]" in caption
    assert "Low-Res is 64x96" in caption
    assert "Over the base" not in tables.fold_caption(
        analysis.fold_table(analysis.read_variant(study))
    )


@pytest.mark.parametrize("read", [analysis.variant_table, lambda s: analysis.read_variant(s).cells])
def test_counts_of_other_frames_than_the_folds_are_refused(study, read):
    """Of another fold, or of another study of as many frames."""
    for fold in (1, 2, 3):
        finish(study, fold)
    shutil.copy(study.cell(0, 1).confusion, study.cell(0, 2).confusion)
    with pytest.raises(
        InputError,
        match=r"v000/f2/confusion\.npz is of other frames than its fold in folds\.json: got 2"
        r" frames, 2 of them of other folds, expected the 2 of that fold; restore it, or remove",
    ):
        read(study)
    finish(study, 2)
    assert read(study)


def test_a_reason_that_goes_while_it_is_read_is_no_error(study, monkeypatch):
    """A failed cell that is tried again loses it, at any moment."""
    for fold in (1, 2, 3):
        add_epochs(study, fold, [0.1])
    status, told = Cell.status, iter(["failed"])
    monkeypatch.setattr(Cell, "status", lambda cell: next(told, status(cell)))

    table = analysis.fold_table(analysis.read_variant(study))

    assert table.missing == [f"fold {fold}: epoch 1 of {EPOCHS}" for fold in (1, 2, 3)]
