"""`python -m study.run` as its users run it: whole processes, with a real Ray, on a tiny city."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import optuna
import psutil
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from safetensors.numpy import load_file

import study.run
from cityseg.cell import Cell, read_epochs
from cityseg.config import load
from cityseg.folds import read_folds
from study.progress import Board
from study.store import Study

pytestmark = pytest.mark.xdist_group("ray")  # one Ray at a time

FOLDS = (1, 2)
"""As many as run at a time on two cores: most of the time goes into the start of their workers."""

EPOCHS = 8
"""So many that a study which is told of its first is not over before it is interrupted."""

SETTINGS = (
    "data.input_size=[32,64]",
    "model.encoder=resnet18",
    "model.weights=none",
    "model.decoder_width=0.125",
    f"train.epochs={EPOCHS}",
    "train.lr=1e-3",
    "evaluate.predictions=1",
    "resources.cpus_per_trial=1",
)

MARK = f"cityseg-test-{uuid.uuid4()}"
"""In the environment of all that the undisturbed study starts."""


def command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def study_command(data: Path, results: Path, *arguments: object) -> list[str]:
    options = ("--data", data, "--results", results, "--name", "tiny", "--no-dashboard")
    return command("study.run", "--folds", len(FOLDS), *options, *arguments, *SETTINGS)


def run(words: list[str], mark: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CITYSEG_TEST_MARK": mark}
    return subprocess.run(words, capture_output=True, text=True, timeout=240, env=environment)


def assert_same_result(one: Cell, other: Cell) -> None:
    """Counts, weights and all of the epochs but their seconds, to the bit."""
    with np.load(one.confusion) as a, np.load(other.confusion) as b:
        assert a.files == b.files
        for name in a.files:
            assert np.array_equal(a[name], b[name]), name
    weights, others = load_file(one.best_weights), load_file(other.best_weights)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert np.array_equal(value, others[name]), name
    keys = ("epoch", "train_loss", "val_loss", "miou_low", "miou_full", "lr")
    curves = [[[getattr(e, k) for k in keys] for e in read_epochs(c.epochs)] for c in (one, other)]
    assert curves[0] == curves[1]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Here = Callable[[list[str]], Ended]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a study command in this process: for what ends before Ray would be started."""

    def run_here(words: list[str]) -> Ended:
        monkeypatch.setattr(sys, "argv", words[2:])
        monkeypatch.setattr("study.run.run_cells", lambda *_: pytest.fail("got as far as training"))
        capsys.readouterr()
        code = study.run.main()
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    return run_here


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def calm(tiny_city: Path, results: Path) -> tuple[Study, subprocess.CompletedProcess[str]]:
    """A study that nothing disturbed, and what was printed."""
    finished = run(study_command(tiny_city, results), MARK)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Study(results / "tiny"), finished


@pytest.fixture
def copy(calm: tuple[Study, object], tmp_path: Path) -> Study:
    """A copy of the finished study, to be done harm to."""
    return Study(Path(shutil.copytree(calm[0].folder, tmp_path / "results" / "tiny")))


def test_a_study_ends_with_the_table_and_every_file(
    calm: tuple[Study, subprocess.CompletedProcess[str]],
):
    study, finished = calm
    assert finished.stderr == ""
    for fold in FOLDS:
        cell = study.cell(0, fold)
        assert cell.status() == "done"
        assert [epoch.epoch for epoch in read_epochs(cell.epochs)] == [*range(1, EPOCHS + 1)]
        assert cell.best_weights.is_file() and len(list(cell.predictions.iterdir())) == 1
        assert not cell.state.parent.exists()
        assert f"fold {fold}  epoch {EPOCHS}/{EPOCHS}" in finished.stdout
    for word in ("Mean", "Std", "Low-Res mIoU", str(study.folder)):
        assert word in finished.stdout
    assert study.read_folds().content_hash() == study.read().folds_hash


def test_a_finished_study_is_not_run_again(
    calm: tuple[Study, subprocess.CompletedProcess[str]], tiny_city: Path, results: Path
):
    files = {path: path.stat().st_mtime_ns for path in calm[0].folder.glob("v000/f*/*")}
    again = run(study_command(tiny_city, results))
    assert again.returncode == 0, again.stderr
    assert "resources:" not in again.stdout  # Ray is not even started
    table = calm[1].stdout[calm[1].stdout.index("┏") :]
    assert table in again.stdout
    assert files == {path: path.stat().st_mtime_ns for path in calm[0].folder.glob("v000/f*/*")}


def test_one_cell_is_one_plain_command_without_ray(
    calm: tuple[Study, object], tiny_city: Path, tmp_path: Path
):
    words = command(
        "cityseg", "train", "--fold", 2, "--data", tiny_city, "--out", tmp_path / "cell"
    )
    study = calm[0]
    words += ["--config", str(study.cell(0, 2).config), "--folds-file", str(study.folds_file)]
    alone = run(words)
    assert alone.returncode == 0, alone.stderr
    assert_same_result(Cell(tmp_path / "cell"), study.cell(0, 2))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train.lr=2e-3"], "train.lr: 0.001 -> 0.002"),
        (["--seed", 1], "seed: 0 -> 1"),
        (["--grouping", "cities"], "folds.grouping: frames -> cities"),
    ],
)
def test_a_changed_configuration_is_refused_with_the_difference(
    here: Here, copy: Study, tiny_city: Path, arguments: list[object], complaint: str
):
    before = copy.record_file.read_bytes()
    words = study_command(tiny_city, copy.folder.parent)
    refused = here([*words, *map(str, arguments)])
    assert refused.returncode == 2
    assert complaint in refused.stderr and refused.stderr.count("\n") == 1
    assert copy.record_file.read_bytes() == before


def test_resources_may_change(copy: Study, tiny_city: Path):
    words = study_command(tiny_city, copy.folder.parent)
    assert run([*words, "resources.workers=1"]).returncode == 0
    assert copy.read().config.resources.workers == 1


def test_changed_data_and_folds_are_refused(
    here: Here, copy: Study, tiny_city: Path, tmp_path: Path
):
    city = Path(shutil.copytree(tiny_city, tmp_path / "city"))
    image = next(city.glob("leftImg8bit/train/*/*.png"))
    image.write_bytes(image.read_bytes() + b"\0")
    changed = here(study_command(city, copy.folder.parent))
    assert changed.returncode == 2 and "other names or sizes" in changed.stderr

    tampered = json.loads(copy.folds_file.read_text())
    tampered["folds"][0], tampered["folds"][1] = tampered["folds"][1], tampered["folds"][0]
    copy.folds_file.write_text(json.dumps(tampered))
    refused = here(study_command(tiny_city, copy.folder.parent))
    assert refused.returncode == 2 and "was changed since it was written" in refused.stderr


def test_a_second_driver_is_refused(here: Here, copy: Study, tiny_city: Path):
    with filelock.FileLock(copy.lock_file):
        refused = here(study_command(tiny_city, copy.folder.parent))
    assert refused.returncode == 2 and "being run by another process" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--name", "../else"], "expected the name of one folder"),
        (["--config", "absent.yaml"], "no file absent.yaml: expected"),
        (["--data", "/nowhere"], "no folder /nowhere/leftImg8bit/train"),
        (["model.dropot=0.1"], "did you mean model.dropout"),
        (["--folds", "13"], "cannot make 13 folds: got 12 frames"),
        (["train.batch_size=9"], "expected at most 6"),
        (["resources.memory_gb=-1"], "greater than 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    here: Here, tiny_city: Path, tmp_path: Path, arguments: list[str], complaint: str
):
    refused = here([*study_command(tiny_city, tmp_path / "results"), *arguments])
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert refused.stderr.count("\n") == 1 and refused.stderr.startswith("error: ")
    assert not list(tmp_path.rglob("study.yaml"))


def test_weights_that_are_missing_are_found_before_anything_is_decoded(
    here: Here, tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("study.run.begin", lambda *_, **__: pytest.fail("begun"))
    space = f'search.space={{"model.weights": ["none", "{tmp_path}/no.pth"]}}'
    for words in ([f"model.weights={tmp_path}/no.pth"], [space, "search.variants=3"]):
        refused = here([*study_command(tiny_city, tmp_path / "results"), *words])
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: model.weights: no file {tmp_path}/no.pth: ")
        assert not (tmp_path / "results").exists()


def test_a_study_without_an_epoch_is_begun_anew(
    tiny_city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("study.run.run_cells", lambda *_: None)  # as if stopped at the start
    for lr in (2e-3, 1e-3):
        words = study_command(tiny_city, tmp_path / "results")
        monkeypatch.setattr(sys, "argv", [*words[2:], f"train.lr={lr}"])
        assert study.run.main() == 130
    assert Study(tmp_path / "results" / "tiny").read().config.train.lr == 1e-3


def test_own_folds_are_used(
    here: Here, tiny_city: Path, calm: tuple[Study, object], tmp_path: Path
):
    names = sorted(name for fold in calm[0].read_folds().folds for name in fold)
    own = {"folds": [names[:4], names[4:8], names[8:]]}
    (tmp_path / "own.json").write_text(json.dumps(own))
    words = study_command(tiny_city, tmp_path / "results", "--folds-file", tmp_path / "own.json")
    refused = here(words)
    assert refused.returncode == 2 and "got 3 folds, expected 2 (--folds)" in refused.stderr
    assert not list(tmp_path.rglob("study.yaml"))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Poll until the condition holds; the process must still be at work then."""
    for _ in range(4800):
        if condition():
            return
        assert process.poll() is None, ("the study ended too early", *process.communicate())
        time.sleep(0.05)
    raise AssertionError("waited four minutes in vain")


@pytest.fixture
def started(tiny_city: Path, tmp_path: Path) -> Iterator[tuple[Study, subprocess.Popen[str]]]:
    """A study at work, with at least one epoch on disk; its session is killed in the end."""
    study = Study(tmp_path / "results" / "tiny")
    process = subprocess.Popen(
        study_command(tiny_city, study.folder.parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: any(study.folder.glob("v000/f*/epochs.csv")), process)
        yield study, process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_ctrl_c_keeps_everything_and_says_how_to_go_on(
    started: tuple[Study, subprocess.Popen[str]], tiny_city: Path, calm: tuple[Study, object]
):
    study, process = started
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "continue with the same command" in out
    assert "Traceback" not in err
    before = sum(len(read_epochs(study.cell(0, fold).epochs)) for fold in FOLDS)
    assert before >= 1
    resumed = run(study_command(tiny_city, study.folder.parent))
    assert resumed.returncode == 0, resumed.stderr
    assert (
        resumed.stdout.count("  epoch ") == EPOCHS * len(FOLDS) - before
    )  # nothing finished is run again
    for fold in FOLDS:
        assert_same_result(study.cell(0, fold), calm[0].cell(0, fold))


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if child.name().startswith("ray::Fold")]


def test_a_killed_worker_and_a_killed_ray_change_no_bit(
    started: tuple[Study, subprocess.Popen[str]], tiny_city: Path, calm: tuple[Study, object]
):
    """A Ray that dies ends the study instead of hanging it. (A killed driver: see below.)"""
    study, process = started
    wait_for(lambda: bool(workers_of(process)), process)
    workers_of(process)[0].kill()
    epochs = sum(len(read_epochs(study.cell(0, fold).epochs)) for fold in FOLDS)

    def went_on() -> bool:
        return sum(len(read_epochs(study.cell(0, k).epochs)) for k in FOLDS) > epochs

    wait_for(went_on, process)
    children = psutil.Process(process.pid).children()
    next(child for child in children if child.name() == "raylet").kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "continue with the same command" in out
    resumed = run(study_command(tiny_city, study.folder.parent))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    for fold in FOLDS:
        assert_same_result(study.cell(0, fold), calm[0].cell(0, fold))


def test_a_failed_fold_is_told_and_a_rerun_completes_it(
    tiny_city: Path, tmp_path: Path, calm: tuple[Study, object]
):
    city = Path(shutil.copytree(tiny_city, tmp_path / "city"))
    name = read_folds(calm[0].folds_file).folds[0][0]
    image = next(city.glob(f"leftImg8bit/train/*/{name}_*.png"))
    whole = image.read_bytes()
    study = Study(tmp_path / "results" / "tiny")
    image.write_bytes(whole[:100] + bytes(len(whole) - 100))
    refused = run(study_command(city, study.folder.parent))
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"error: cannot use 1 file: {image}")
    image.write_bytes(whole)
    assert run(command("cityseg", "verify", "--data", city)).returncode == 0
    sound = image.stat()
    image.write_bytes(whole[:100] + bytes(len(whole) - 100))
    os.utime(image, ns=(sound.st_atime_ns, sound.st_mtime_ns))  # looks as when it was checked
    undecoded = "data.cache=none"  # else the frame is met before any cell is
    failed = run([*study_command(city, study.folder.parent), undecoded])
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert failed.stdout.count(f"cannot decode {image}") >= 1
    assert image.name in study.cell(0, 1).failure.read_text()
    image.write_bytes(whole)
    mended = run([*study_command(city, study.folder.parent), undecoded])
    assert mended.returncode == 0, mended.stdout + mended.stderr
    for fold in FOLDS:
        assert not study.cell(0, fold).failure.exists()
        assert_same_result(study.cell(0, fold), calm[0].cell(0, fold))


SPACE = "search.space={train.lr: {low: 1e-4, high: 1e-2, log: true}, model.dropout: [0, 0.3]}"


def test_a_search_that_was_killed_and_grew_tells_every_row_once(
    tiny_city: Path, tmp_path: Path, calm: tuple[Study, object]
):
    study = Study(tmp_path / "results" / "tiny")
    words = [*study_command(tiny_city, study.folder.parent), SPACE]
    process = subprocess.Popen(
        [*words, "--variants", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_for(lambda: any(study.folder.glob("v001/f*/epochs.csv")), process)
    finally:
        process.kill()
        process.communicate()
    drawn = study.row(1)
    done = {path: path.stat().st_mtime_ns for path in study.folder.glob("v000/f*/confusion.npz")}
    assert done
    grown = run([*words, "search.keep_weights=all", "--variants", "3", "--prune"])
    assert grown.returncode == 0, grown.stdout + grown.stderr
    assert grown.stderr == ""
    assert "3 rows x 2 folds" in grown.stdout
    assert study.row(1) == drawn and drawn.origin == "tpe"
    assert study.read().search.prune
    assert done == {path: path.stat().st_mtime_ns for path in done}  # not run again
    storage = f"sqlite:///{study.folder / 'optuna.db'}"
    trials = optuna.load_study(study_name="tiny", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    board = Board.read(study)
    assert [trial.value for trial in trials] == [row.score("best_full") for row in board]
    for row in (1, 2):
        config = load(study.cell(row, 2).config)
        assert (
            config.train.lr
            == study.row(row).parameters["train.lr"]
            == trials[row].params["train.lr"]
        )
        assert config.model.dropout == study.row(row).parameters["model.dropout"]
    assert "v002" in grown.stdout and "(base)" in grown.stdout
    status = run(command("study.status", "tiny", "--results", study.folder.parent))
    assert status.returncode == 0 and "3 done" in status.stdout, status.stdout + status.stderr


LOSER = """
import sys
import study.schedule
from study.pruning import Verdict
study.schedule.judge = lambda row, *_: Verdict(row.variant == 1, "behind v000 by a rule")
from study.run import main
sys.exit(main())
"""


def test_a_losing_row_is_stopped_with_all_its_cells(tiny_city: Path, tmp_path: Path):
    study = Study(tmp_path / "results" / "tiny")
    words = study_command(tiny_city, study.folder.parent)[3:]
    words += [
        "folds.count=3",
        "train.epochs=4",
        "--grid",
        "train.lr=[2e-3]",
        "--storage",
        "journal",
        "--prune",
    ]
    pruned = run([sys.executable, "-c", LOSER, *words])
    assert pruned.returncode == 0, pruned.stdout + pruned.stderr
    assert "v001  pruned" in pruned.stdout and "behind v000 by a rule" in pruned.stdout
    cells = Board.read(study).rows[1].cells
    assert 1 <= sum(len(cell.epochs) for cell in cells) < 8
    assert not cells[2].epochs  # was never begun: two run at a time
    assert not list(study.folder.glob("v001/f*/last")) and not list(
        study.folder.glob("v001/f*/*.s*")
    )
    storage = JournalStorage(JournalFileBackend(str(study.folder / "optuna.journal")))
    trials = optuna.load_study(study_name="tiny", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED"]
    again = run([sys.executable, "-c", LOSER, *words])
    assert again.returncode == 0 and "resources:" not in again.stdout


def test_rows_by_hand_need_no_optuna(tiny_city: Path, tmp_path: Path):
    city = Path(shutil.copytree(tiny_city, tmp_path / "city"))
    study = Study(tmp_path / "results" / "tiny")
    words = [*study_command(city, study.folder.parent), "train.epochs=1", "--keep-weights", "none"]
    finished = run([*words, "--grid", "train.lr=[1e-3, 2e-3]", "--grid", "model.dropout=[0]"])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert [row.parameters for row in study.rows()] == [
        {}, {"train.lr": 2e-3, "model.dropout": 0.0},  # the other repeats the base row
    ]  # fmt: skip
    assert not list(study.folder.glob("optuna*")) and study.read().storage is None
    assert not list(study.folder.rglob("best.safetensors"))
    assert len(list(study.folder.rglob("confusion.npz"))) == 4


def test_no_process_is_left_behind(calm: tuple[Study, object]):
    """Whatever `calm` started inherited the mark in its environment."""
    left = [process.name() for process in psutil.process_iter() if MARK in environment_of(process)]
    assert not left


def environment_of(process: psutil.Process) -> str:
    try:
        return str(process.environ())
    except psutil.Error:  # gone meanwhile, or another user's
        return ""


def test_the_record_says_what_was_run(calm: tuple[Study, object], tiny_city: Path):
    record = yaml.safe_load(calm[0].record_file.read_text())
    assert record["data"]["root"] == str(tiny_city)
    assert record["data"]["kind"] == "other"
    assert record["data"]["cities"] == {"aachen": 4, "bochum": 4, "ulm": 4}
    assert "--folds 2" in record["command"]
    assert record["cpus_per_trial"] == 1
    assert {"torch", "ray", "python"} <= record["versions"].keys()
