"""What a user sees while a study runs."""

import io
import math
import os
from pathlib import Path

import pytest
from fake_study import EPOCHS, add_epochs, add_row, finish, make_study, make_study_of_rows
from rich.console import Console

from cityseg.cell import Epoch
from cityseg.data import Kind
from study.console import (
    Watch,
    duration,
    epoch_line,
    epochs_in_short,
    in_order_of_their_end,
    totals_of,
)
from study.parameters import in_short, short_names, value_in_short, varied_keys
from study.progress import Board, CellProgress, RowProgress
from study.space import Choices, Search
from study.store import Row, Study


def drawn(watch: Watch, width: int = 80) -> str:
    """The table as plain text."""
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(watch.table())
    return console.export_text()


def watch_of(study: Study, slots: int = 1) -> Watch:
    return Watch(Board.read(study), Console(file=io.StringIO(), soft_wrap=True), slots)


def lines_of(text: str, variant: str) -> list[str]:
    """The words of a row's line, without the table's rules."""
    (line,) = [line for line in text.splitlines() if variant in line and "│" in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.fixture
def rows(tmp_path: Path) -> Study:
    return make_study_of_rows(tmp_path / "results")


def test_a_study_of_one_row_is_shown_fold_by_fold(tmp_path: Path):
    study = make_study(tmp_path / "results")
    finish(study, fold=1)
    add_epochs(study, fold=2, scores=[0.1, 0.4, 0.2])
    text = drawn(watch_of(study))
    assert max(len(line) for line in text.splitlines()) <= 80
    folds = [line for line in text.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in fold.strip("│").split("│")] for fold in folds] == [
        ["1", "done", "4/4", "0.5000", "0.7500", "2.5e-05", "0.2000", "0.3000", ""],
        ["2", "unfinished", "3/4", "0.6667", "1.0000", "3.3e-05", "0.2000", "0.4000", "0:02"],
        ["3", "pending", "0/4", "", "", "", "", "", ""],
    ]
    assert "rows" not in text


def test_hours_left_cut_nothing_at_eighty_columns(tmp_path: Path):
    watch = watch_of(make_study(tmp_path / "results"))
    epochs = [Epoch(64, 1.0, 1.0, 0.5, 0.5, 1e-4, 64 * 36_000.0, 1.0, 1.0)] * 64
    cell = CellProgress(1, "unfinished", 65, epochs)
    row = watch.board.rows[0]
    watch.board.rows[0] = RowProgress(row.row, (cell, *row.cells[1:]))
    text = drawn(watch)
    assert max(len(line) for line in text.splitlines()) <= 80
    for part in ("fold", " 1│ unfinished│ 64/65│", " 640:00:01│"):
        assert part in text


def test_a_fold_at_work_is_called_running(tmp_path: Path):
    watch = watch_of(make_study(tmp_path / "results"))
    watch.running.add((0, 2))
    states = [line.split()[2].strip("│") for line in drawn(watch).splitlines() if "0/4" in line]
    assert states == ["pending", "running", "pending"]


def test_a_synthetic_study_says_so_while_it_runs(tmp_path: Path):
    kinds: dict[Kind, bool] = {"synthetic": True, "other": False}
    for kind, marked in kinds.items():
        for make in (make_study, make_study_of_rows):
            watch = watch_of(make(tmp_path / kind / make.__name__, kind))
            assert ("synthetic" in drawn(watch)) is marked


def test_several_rows_are_a_line_each_with_state_epochs_values_and_mean(rows: Study):
    watch = watch_of(rows)
    watch.running.add((5, 1))
    text = drawn(watch)
    assert max(len(line) for line in text.splitlines()) <= 80
    # the full-res score after the best epoch is half its low-res one: (0.9 - px / 100) / 2
    assert lines_of(text, "v000") == ["v000", "done", "4/4 4/4 4/4", "(base)", "0.4200"]
    assert lines_of(text, "v002") == [
        "v002", "done", "4/4 4/4 4/4", "dropout 0.1, lr 0.0002", "0.4400 *",
    ]  # fmt: skip
    assert lines_of(text, "v003")[1:3] == ["pruned", "2/4 0/4 0/4"]
    assert lines_of(text, "v004")[1] == "failed"
    assert lines_of(text, "v005")[1::3] == ["running", ""]
    assert text.count("*") == 2, "beside the best row, and where it is explained"
    assert "8 rows: 1 running, 3 done, 1 pruned, 1 failed, 2 to come." in " ".join(text.split())


def test_the_time_left_counts_open_rows_and_those_to_come(rows: Study):
    # 3 rows not begun x 3 folds x 4 epochs of 2 s, on two slots; closed rows need nothing more
    text = " ".join(drawn(watch_of(rows, slots=2)).split())
    assert "ETA at most 0:36, 2 cells at a time." in text

    record = rows.read()
    rows.write(record.model_copy(update={"search": Search(variants=7)}))
    text = " ".join(drawn(watch_of(rows)).split())
    assert "ETA 0:48, 1 cell at a time." in text, "without pruning it is no bound"


def test_no_time_is_named_before_the_first_epoch_or_after_the_last(tmp_path: Path):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    assert "ETA" not in drawn(watch_of(study))
    add_row(study, 1, {"train.lr": 1e-3})
    for variant in (0, 1):
        for fold in (1, 2, 3):
            finish(study, fold, variant=variant)
    assert "ETA" not in drawn(watch_of(study))


def test_a_thousand_rows_fit_a_terminal_and_show_what_matters(tmp_path: Path):
    study = make_study(tmp_path / "results", search=Search(variants=1000))
    watch = watch_of(study)
    for variant in range(990):
        done = variant < 900
        watch.board.rows[variant] = made_up_row(
            variant, done, score=0.7 if variant == 123 else 0.6 - variant / 1e4
        )
    watch.running |= {(variant, 1) for variant in range(900, 930)}
    for variant in (17, 5, 400):
        watch._ended.append(variant)
    text = drawn(watch)
    assert len(text.splitlines()) <= 23, "an ordinary terminal has 24"
    assert max(len(line) for line in text.splitlines()) <= 80
    shown = [line.split()[1] for line in text.splitlines() if line.startswith("│")]
    assert shown == [
        *["v900", "v901", "v902", "v903", "v904"],
        *["v123", "v000", "v001"],
        *["v400", "v005", "v017"],
    ]
    assert "1000 rows: 30 running, 60 pending, 900 done, 10 to come." in " ".join(text.split())


def made_up_row(variant: int, done: bool, score: float) -> RowProgress:
    epochs = [Epoch(1, 1.0, 1.0, score, score, 1e-4, 1.0, 1.0, 1.0)] if done else []
    cells = tuple(
        CellProgress(fold, "done" if done else "pending", 1, epochs) for fold in (1, 2, 3)
    )
    parameters = {"train.lr": 1e-4, "data.augment.saturation": 0.123456, "model.dropout": 0.25}
    return RowProgress(Row(variant=variant, origin="tpe", parameters=parameters), cells)


def test_the_rows_that_ended_before_are_in_order_of_their_files(rows: Study):
    for seconds, file in enumerate(
        [rows.cell(4, 2).failure, rows.cell(2, 3).confusion, rows.pruned_file(3)], 3_000_000_000
    ):
        os.utime(file, (seconds, seconds))
    assert watch_of(rows).overview().ended == [0, 1, 4, 2, 3]


def test_a_reason_that_goes_while_it_is_looked_at_is_no_error(
    rows: Study, monkeypatch: pytest.MonkeyPatch
):
    """A failed cell that is tried again loses it, at any moment."""
    board = Board.read(rows)
    rows.cell(4, 2).failure.unlink()
    monkeypatch.setattr(Path, "is_file", lambda _: True)  # as it was a moment before
    assert sorted(in_order_of_their_end(board)) == [0, 1, 2, 3, 4]


def test_a_failed_row_that_is_tried_again_is_shown(rows: Study):
    board = Board.read(rows)
    assert board.rows[4].status == "failed" and board.refresh() == []
    rows.cell(4, 2).failure.unlink()
    add_epochs(rows, 2, [0.1, 0.2], variant=4)
    assert board.refresh() == [(4, 2, 2)]
    assert board.rows[4].status == "unfinished"
    assert board.refresh() == []


def test_a_row_is_added_up_again_only_when_it_changes(rows: Study):
    watch = watch_of(rows)
    before = {line.row.variant: line.totals for line in watch.overview().lines}
    add_epochs(rows, 1, [0.1, 0.2, 0.3], variant=5)
    watch.board.update(5, 1)
    after = {line.row.variant: line.totals for line in watch.overview().lines}
    assert [v for v in before if before[v] is not after[v]] == [5]
    assert (before[5].left, after[5].left) == (12, 9)


def test_a_row_has_a_mean_only_when_it_is_done(rows: Study):
    board = Board.read(rows)
    best = totals_of(board.rows[2], "best_low")
    assert best.score == pytest.approx(0.88)
    assert best.std == pytest.approx(math.sqrt(2 / 3) / 100), "population std"
    assert totals_of(board.rows[2], "last_low").score == pytest.approx(0.78)
    assert all(
        math.isnan(totals_of(board.rows[variant], "best_low").score) for variant in (3, 4, 5)
    )


def test_the_end_of_a_row_is_a_plain_line_with_its_mean_or_reason(
    rows: Study, capsys: pytest.CaptureFixture[str]
):
    watch = Watch(Board.read(rows), Console(soft_wrap=True))
    for variant in (2, 3, 4):
        watch.ended(variant)
    done, pruned, failed = capsys.readouterr().out.splitlines()
    assert done == (
        "v002  done    best_full 0.4400 +- 0.0041 (mean, population std of 3 folds)  "
        "dropout 0.1, lr 0.0002"
    )
    assert pruned.startswith("v003  pruned  epoch 2: 0.05 | below [v002]  "), "no markup"
    assert failed.startswith("v004  failed  fold 2: loss is nan  ")


def test_the_end_of_the_only_row_needs_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = make_study(tmp_path / "results")
    Watch(Board.read(study), Console()).ended(0)
    assert capsys.readouterr().out == ""


def test_no_text_is_taken_for_markup(tmp_path: Path):
    study = make_study(tmp_path / "results", name="a[red]b", search=Search(variants=2))
    add_row(study, 1, {"model.weights": "[/bold]"})
    text = drawn(watch_of(study))
    assert "study a[red]b" in text
    assert "weights [/bold]" in text
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(Watch(Board.read(make_study(tmp_path, name="c[red]d")), console).table())
    assert "study c[red]d" in console.export_text()


def test_the_table_lives_on_a_terminal_and_notes_stand_above_it(rows: Study):
    console = Console(width=80, height=40, file=io.StringIO(), force_terminal=True)
    watch = Watch(Board.read(rows), console)
    with watch:
        watch.ended(2)
        watch.epoch(0, 1, 2)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "v002  done" in printed
    assert "┏━" in printed
    assert "fold 1  epoch" not in printed, "the table shows it"


def test_an_epoch_is_a_plain_line_when_piped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = make_study(tmp_path / "results", search=Search(variants=2))
    add_row(study, 1, {"train.epochs": 6})
    add_epochs(study, fold=2, scores=[0.1, 0.25], variant=1)
    with Watch(Board.read(study), Console(width=40, soft_wrap=True)) as _:
        pass
    Watch(Board.read(study), Console(width=40, soft_wrap=True)).epoch(1, fold=2, epoch=2)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith("v001  fold 2  epoch 2/6  ")
    assert "mIoU 0.2500 low" in printed


def test_an_epoch_line_holds_what_a_log_is_read_for():
    line = epoch_line(3, 1, Epoch(2, 1.5, 1.25, 0.5, 0.4, 1e-4, 10.0, 2.0, 7.5), 65)
    parts = ["v003  fold 1  epoch 2/65", "1.5000 train", "1.2500 val", "1.0e-04", "0.5000 low"]
    for part in (*parts, "0.4000 full", "7.5 images/s"):
        assert part in line
    unscored = Epoch(2, 1.5, 1.25, 0.5, math.nan, 1e-4, 10.0, 2.0, 7.5)
    assert "0.5000 low  7.5 images/s" in epoch_line(3, 1, unscored, 65)


def test_many_folds_are_counted_and_few_are_listed(tmp_path: Path):
    board = Board.read(make_study(tmp_path / "results"))
    assert epochs_in_short(board.rows[0]) == f"0/{EPOCHS} 0/{EPOCHS} 0/{EPOCHS}"
    epoch = Epoch(1, 1.0, 1.0, 0.5, 0.5, 1e-4, 1.0, 1.0, 1.0)
    done = tuple(CellProgress(fold, "done", 3, [epoch] * 3) for fold in range(1, 14))
    begun = tuple(CellProgress(fold, "unfinished", 3, [epoch] * 2) for fold in (14, 15))
    row = RowProgress(Row(variant=1, origin="given", parameters={}), done + begun)
    assert epochs_in_short(row) == "13/15 cells 95%", "43 of 45 epochs, never rounded up"


def test_names_are_as_short_as_they_can_be_told_apart():
    keys = ["train.batch_size", "evaluate.batch_size", "train.lr", "data.augment.hue"]
    names = short_names(keys)
    assert names == {
        "train.batch_size": "train.batch_size",
        "evaluate.batch_size": "evaluate.batch_size",
        "train.lr": "lr",
        "data.augment.hue": "hue",
    }
    words = in_short({"train.lr": 3.14159e-5, "data.augment.hue": 0.12345}, names)
    assert words == "hue 0.123, lr 3.14e-5"
    assert in_short({}, names) == "(base)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "1e-5"), (0.0003, "0.0003"), (2, "2"), (123456, "123456"), ([256, 512], "256x512"),
     (None, "none"), ("resnet18", "resnet18"), (0.5, "0.5")],
)  # fmt: skip
def test_values_are_three_digits_at_most_and_whole_numbers_whole(value: object, text: str):
    assert value_in_short(value) == text


def test_the_varied_keys_are_those_of_rows_grid_and_space():
    search = Search(
        rows=[{"train.lr": 1e-3}],
        grid={"seed": [1, 2]},
        space={"model.dropout": Choices(choices=[0])},
    )
    assert varied_keys(search, [{"train.epochs": 2}]) == [
        "model.dropout", "seed", "train.epochs", "train.lr",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (9.4, "0:09"), (309, "5:09"), (3909, "1:05:09")]
)
def test_durations(seconds: float | None, text: str):
    assert duration(seconds) == text
