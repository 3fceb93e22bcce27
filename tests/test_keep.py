"""Which weights stay on disk when rows end."""

import shutil
from pathlib import Path

import filelock
import numpy as np
import pytest
from fake_study import add_epochs, add_row, finish, make_study

from cityseg.labels import NUM_CLASSES
from study import keep
from study.keep import tidy
from study.progress import Board
from study.space import Search
from study.store import Study

MEANS = {0: 0.5, 1: 0.9, 2: 0.7, 3: 0.9}
"""v001 and v003 share the lead."""


def make(folder: Path, keep: str) -> Study:
    """Four finished rows, v004 pruned, v005 failed, v006 at work, each with weights."""
    study = make_study(folder / "results", search=Search(variants=7, keep_weights=keep))
    counts = np.zeros((2, NUM_CLASSES, NUM_CLASSES), np.int64)
    for variant in range(7):
        if variant:
            add_row(study, variant, {"train.lr": 1e-3 * variant})
        for fold in (1, 2, 3):
            add_epochs(study, fold, [0.1, MEANS.get(variant, 1.0) + fold / 100], variant)
            if variant in MEANS:
                finish(study, fold, counts, variant)
            else:
                study.cell(variant, fold).state.parent.mkdir()
                study.cell(variant, fold).state.write_bytes(b"state")
            study.cell(variant, fold).best_weights.write_bytes(b"weights")
    study.pruned_file(4).write_text("behind\n")
    study.cell(5, 2).failure.write_text("loss is nan\n")
    return study


def with_weights(study: Study) -> set[int]:
    """Rows with the weights of all folds; none has those of some."""
    held = {v: [study.cell(v, k).best_weights.is_file() for k in (1, 2, 3)] for v in range(7)}
    assert all(len(set(folds)) == 1 for folds in held.values())
    return {variant for variant, folds in held.items() if folds[0]}


@pytest.mark.parametrize(
    ("kept", "rows"),
    [("all", {0, 1, 2, 3}), ("best", {1}), ("none", set()), ("top-1", {1}), ("top-2", {1, 3}),
     ("top-3", {1, 2, 3}), ("top-9", {0, 1, 2, 3})],
)  # fmt: skip
def test_finished_rows_keep_as_many_weights_as_asked(tmp_path: Path, kept: str, rows: set[int]):
    study = make(tmp_path, kept)
    for _ in range(2):
        tidy(Board.read(study))
        assert with_weights(study) == rows | {5, 6}, "v005 may be tried again, v006 is at work"


def test_a_pruned_row_keeps_nothing_large(tmp_path: Path):
    study = make(tmp_path, "all")
    cell = study.cell(4, 1)
    for name in ("best.next.safetensors", ".best.safetensors.tmp", ".best.next.safetensors.tmp"):
        (cell.folder / name).write_bytes(b"of a trainer that was stopped while it wrote")
    before = cell.epochs.read_bytes()
    tidy(Board.read(study))
    assert {path.name for path in cell.folder.iterdir()} <= {"epochs.csv", ".lock"}
    assert cell.epochs.read_bytes() == before
    for variant in (5, 6):
        assert study.cell(variant, 1).state.is_file()


def test_a_cell_that_is_held_is_left_for_the_next_time(tmp_path: Path):
    study = make(tmp_path, "best")
    with filelock.FileLock(study.cell(4, 2).lock), filelock.FileLock(study.cell(0, 1).lock):
        tidy(Board.read(study))
        assert study.cell(4, 2).state.is_file() and study.cell(4, 2).best_weights.is_file()
        assert study.cell(0, 1).best_weights.is_file()
        assert not study.cell(4, 1).state.exists() and not study.cell(0, 2).best_weights.exists()
    tidy(Board.read(study))
    assert with_weights(study) == {1, 5, 6}


def test_a_new_leader_takes_the_place_of_the_old(tmp_path: Path):
    study = make(tmp_path, "best")
    for fold in (1, 2, 3):
        study.cell(3, fold).confusion.rename(study.cell(3, fold).folder / "aside")
        add_epochs(study, fold, [0.1, 0.95], 3)
    tidy(Board.read(study))
    assert with_weights(study) == {1, 3, 5, 6}, "v003 is not finished yet"
    for fold in (1, 2, 3):
        (study.cell(3, fold).folder / "aside").rename(study.cell(3, fold).confusion)
    tidy(Board.read(study))
    assert with_weights(study) == {3, 5, 6}


def test_a_row_without_a_score_is_the_last_to_be_kept(tmp_path: Path):
    study = make(tmp_path, "top-3")
    add_epochs(study, 1, [float("nan")] * 2, 1)
    tidy(Board.read(study))
    assert with_weights(study) == {0, 2, 3, 5, 6}


def test_rows_that_hold_nothing_any_more_are_not_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study, bare = make(tmp_path, "best"), set[int]()
    looked: list[Path] = []
    drop = keep._drop
    monkeypatch.setattr(keep, "_drop", lambda cell: (looked.append(cell.folder), drop(cell))[1])
    with filelock.FileLock(study.cell(4, 2).lock):
        study.cell(4, 2).best_weights.unlink()
        shutil.rmtree(study.cell(4, 2).state.parent)
        tidy(Board.read(study), bare)
        assert bare == {0, 2, 3}, "whoever holds a cell of v004 may write more"
        study.cell(4, 2).best_weights.write_bytes(b"written meanwhile")
    assert len(looked) == 12

    tidy(Board.read(study), bare)
    assert bare == {0, 2, 3, 4} and with_weights(study) == {1, 5, 6}
    assert looked[12:] == [study.cell(4, fold).folder for fold in (1, 2, 3)]
