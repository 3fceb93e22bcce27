"""`python -m study.status`: a study seen from another terminal, from its folder alone."""

import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from fake_study import add_epochs, make_study, make_study_of_rows
from rich.console import Console

from study import status
from study.home import open_home
from study.progress import Board
from study.status import cells_at_work, is_held
from study.store import Study


@pytest.fixture
def rows(tmp_path: Path) -> Study:
    return make_study_of_rows(tmp_path / "results")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process; returns its code, and what it printed."""

    def run_here(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["status", *map(str, words)])
        code = status.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_here


def test_a_study_is_told_with_states_best_row_and_every_reason(rows: Study, run):
    code, out, _ = run("--results", rows.folder.parent)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"{rows.folder}: not being run now"
    assert "study fake_1, synthetic data" in out
    best = "best so far: v002  done    best_full 0.4400 +- 0.0041"
    assert any(line.startswith(best) for line in lines)
    assert lines[-4:] == [
        "failed:",
        "  v004  fold 2: loss is nan",
        "pruned:",
        "  v003  epoch 2: 0.05 | below [v002]",
    ]


def test_the_table_is_the_one_that_the_run_shows(rows: Study, run):
    _, out, _ = run(rows.folder)
    assert "8 rows: 1 pending, 3 done, 1 pruned, 1 failed, 2 to come." in " ".join(out.split())
    assert "ETA at most 1:12, 1 cell at a time." in " ".join(out.split())


def test_a_study_of_one_row_is_shown_fold_by_fold(tmp_path: Path, run):
    study = make_study(tmp_path / "results")
    add_epochs(study, 1, [0.1])
    study.cell(0, 3).folder.mkdir(parents=True)
    study.cell(0, 3).failure.write_text("loss is nan\n")
    code, out, _ = run(study.folder)
    assert code == 0
    assert "val loss" in out
    assert out.endswith("failed:\n  v000  fold 3: loss is nan\n")
    study.cell(0, 3).failure.unlink()
    assert "ETA 0:22, 1 cell at a time." in run(study.folder)[1], "11 epochs of 2 s"


def test_locks_tell_who_is_at_work(rows: Study, run):
    with filelock.FileLock(rows.lock_file), filelock.FileLock(rows.cell(5, 1).lock):
        rows.cell(5, 2).folder.mkdir()
        rows.cell(5, 2).lock.touch()  # left behind by a trainer that has ended
        assert is_held(rows.lock_file) is True
        assert cells_at_work(Board.read(rows)) == {(5, 1)}
        _, out, _ = run(rows.folder)
        assert out.startswith(f"{rows.folder}: being run now; at work: v005 fold 1\n")
        assert "running" in out
    assert is_held(rows.lock_file) is False
    assert cells_at_work(Board.read(rows)) == set()


def test_a_lock_that_is_looked_at_stays_free(rows: Study):
    rows.lock_file.touch()
    assert is_held(rows.lock_file) is False
    filelock.FileLock(rows.lock_file).acquire(blocking=False).lock.release()


def test_a_folder_that_is_only_read_is_left_as_it_is(rows: Study, run):
    before = {path: path.stat().st_mtime_ns for path in rows.folder.rglob("*")}
    run(rows.folder)
    assert {path: path.stat().st_mtime_ns for path in rows.folder.rglob("*")} == before


def test_a_lock_that_may_not_be_tried_is_unknown(rows: Study, run, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    rows.lock_file.touch()
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert is_held(rows.lock_file) is None
    code, out, _ = run(rows.folder)
    assert code == 0
    assert "cannot be told" in out.splitlines()[0]


def test_watching_looks_again_until_ctrl_c(rows: Study, run, monkeypatch: pytest.MonkeyPatch):
    looks = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt
        add_epochs(rows, 1, [0.1] * len(looks), variant=5)

    monkeypatch.setattr(time, "sleep", pause)
    code, out, _ = run(rows.folder, "--watch")
    assert code == 0
    assert [f"{n}/4 0/4 0/4" in out for n in (0, 1, 2)] == [True] * 3
    assert out.count("best so far") == 3


def test_watching_a_terminal_redraws_in_place(rows: Study, monkeypatch: pytest.MonkeyPatch):
    looks = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            raise KeyboardInterrupt
        add_epochs(rows, 1, [0.1], variant=5)

    monkeypatch.setattr(time, "sleep", pause)
    console = Console(width=80, height=50, force_terminal=True, record=True)
    status.follow(open_home(str(rows.folder)), console)
    text = console.export_text()
    assert "0/4 0/4 0/4" in text
    assert "1/4 0/4 0/4" in text


@pytest.mark.parametrize("words", [("nope",), ("fake_1",)])
def test_a_mistake_is_one_line_and_exit_code_2(rows: Study, run, words: tuple[str]):
    rows.record_file.write_text("schema_version: 99\n")
    code, _, err = run(*words, "--results", rows.folder.parent)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: ")


@pytest.mark.parametrize("module", ["study.status", "study.run"])
def test_neither_ray_nor_optuna_nor_torch_is_imported(module: str):
    """What takes seconds to load: a study is looked at, and bad input refused, without."""
    code = f"import sys, {module}; print({{'ray', 'torch', 'optuna'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
