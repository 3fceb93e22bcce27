"""What a user sees while a study runs."""

from pathlib import Path

import pytest
from fake_study import EPOCHS, add_epochs, finish, make_study
from rich.console import Console

from cityseg.cell import Epoch
from cityseg.data import Kind
from study.console import Watch, duration, epoch_line, progress, progress_table


def test_progress_is_read_from_the_table_on_disk(tmp_path: Path):
    study = make_study(tmp_path / "results")
    finish(study, fold=1)
    add_epochs(study, fold=2, scores=[0.1, 0.4, 0.2])
    study.cell(0, 3).folder.mkdir(parents=True)
    study.cell(0, 3).failure.write_text("loss is nan\n")
    done, running, failed = progress(study, folds=3, total=EPOCHS)
    assert (done.status, running.status, failed.status) == ("done", "unfinished", "failed")
    assert (running.best_low, running.last.epoch if running.last else 0) == (0.4, 3)
    assert running.remaining_s == pytest.approx(2.0)  # one epoch of 1 s training and 1 s scoring
    assert failed.remaining_s is None
    assert failed.reason == "loss is nan"


def test_the_live_table_fits_eighty_columns(tmp_path: Path):
    study = make_study(tmp_path / "results")
    add_epochs(study, fold=2, scores=[0.1, 0.4, 0.2])
    console = Console(width=80, force_terminal=False, record=True)
    console.print(progress_table(progress(study, folds=3, total=EPOCHS), "study"))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "3/4" in text and "0.4000" in text and "0:02" in text
    assert "unfinished" in text and "running" not in text


def test_a_fold_at_work_is_called_running(tmp_path: Path):
    study = make_study(tmp_path / "results")
    console = Console(width=80, record=True)
    console.print(progress_table(progress(study, folds=3, total=EPOCHS), "study", running={2}))
    states = [line.split()[3] for line in console.export_text().splitlines() if "0/4" in line]
    assert states == ["pending", "running", "pending"]


def test_a_synthetic_study_says_so_while_it_runs(tmp_path: Path):
    kinds: dict[Kind, bool] = {"synthetic": True, "other": False}
    for kind, marked in kinds.items():
        study = make_study(tmp_path / kind, kind=kind)
        console = Console(width=80, force_terminal=True, record=True)
        with Watch(study, console) as _:
            pass
        console.print(Watch(study, console).table())
        assert ("synthetic" in console.export_text()) is marked


def test_an_epoch_is_a_plain_line_when_piped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = make_study(tmp_path / "results")
    add_epochs(study, fold=2, scores=[0.1, 0.25])
    Watch(study, Console(width=40, soft_wrap=True)).epoch(fold=2, epoch=2)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "fold 2  epoch 2/4" in printed and "mIoU 0.2500 low" in printed


def test_an_epoch_line_holds_what_a_log_is_read_for():
    line = epoch_line(3, Epoch(2, 1.5, 1.25, 0.5, 0.4, 1e-4, 10.0, 2.0, 7.5), 65)
    for part in (
        "fold 3",
        "2/65",
        "1.5000 train",
        "1.2500 val",
        "1.0e-04",
        "0.5000",
        "0.4000",
        "7.5",
    ):
        assert part in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (9.4, "0:09"), (309, "5:09"), (3909, "1:05:09")]
)
def test_durations(seconds: float | None, text: str):
    assert duration(seconds) == text
