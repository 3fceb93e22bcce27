"""What a machine does to a training: full, read-only and small disks, no memory, lost processes."""

import gc
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np
import psutil
import pytest
import torch
from servers import small_disk
from test_train import assert_same_result
from tiny import thin_resnet, tiny_config

from cityseg import atomic, cache, memory, parallel, train
from cityseg.cell import Cell, Epoch, read_epochs
from cityseg.config import Config
from cityseg.data import Frame, read_frame
from cityseg.errors import (
    INTERRUPTED,
    DiskError,
    InputError,
    TrainingError,
    TransientError,
    terminations_as_ctrl_c,
    user_command,
)
from cityseg.samples import train_loader, val_loader
from cityseg.train import train_cell

CPU = torch.device("cpu")
CONFIG = tiny_config(train={"lr": 3e-3, "epochs": 2})


@pytest.fixture(scope="module", autouse=True)
def _thin_encoder() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cityseg.model.get_model", thin_resnet)
        memory._parameters.cache_clear()
        memory._kept_bytes.cache_clear()
        yield
    memory._parameters.cache_clear()
    memory._kept_bytes.cache_clear()


def training(frames: list[Frame], folder: Path) -> Generator[Epoch, None, None]:
    return train_cell(CONFIG, frames[:8], frames[8:], Cell(folder), CPU)


@pytest.fixture(scope="module")
def unbroken(frames: list[Frame], tmp_path_factory: pytest.TempPathFactory) -> Cell:
    folder = tmp_path_factory.mktemp("unbroken")
    assert len(list(training(frames, folder))) == 2
    return Cell(folder)


@contextmanager
def no_larger_file_than(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond this, amid the write, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def litter(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def test_a_disk_that_fills_amid_a_state_costs_the_epoch_and_no_bit(
    frames: list[Frame], tmp_path: Path, unbroken: Cell
):
    cell = Cell(tmp_path)
    run = training(frames, tmp_path)
    assert next(run).epoch == 1
    kept = cell.state.read_bytes()
    with no_larger_file_than(len(kept) // 2), pytest.raises(DiskError) as full:
        next(run)
    assert str(full.value).startswith(f"cannot write {cell.folder}")
    assert "File too large" in str(full.value) and "run the same command again" in str(full.value)
    assert cell.state.read_bytes() == kept and len(read_epochs(cell.epochs)) == 1
    assert cell.status() == "unfinished", "it is not failed: tried again, it may go on"
    assert not litter(tmp_path)
    assert [epoch.epoch for epoch in training(frames, tmp_path)] == [2]
    assert_same_result(cell, unbroken)


def test_every_write_of_a_training_may_meet_a_full_disk(
    frames: list[Frame], tmp_path: Path, unbroken: Cell, monkeypatch: pytest.MonkeyPatch
):
    """Each write fails once, in turn; every start goes on from there, and the end is the same."""
    real, names = atomic.sync, set[str]()

    def full(path: Path) -> None:
        if path.name.endswith(".tmp") and path.name not in names:
            names.add(path.name)
            raise OSError(28, os.strerror(28))
        real(path)

    monkeypatch.setattr(atomic, "sync", full)
    for _ in range(20):
        try:
            list(training(frames, tmp_path))
        except DiskError as error:
            assert "No space left on device" in str(error)
        else:
            break
    assert {".state.pt.tmp", ".epochs.csv.tmp", ".confusion.npz.tmp", ".config.yaml.tmp"} <= names
    assert len(names) >= 7 and not litter(tmp_path)
    assert_same_result(Cell(tmp_path), unbroken)


def test_a_small_disk_for_the_state_and_for_the_cache(
    frames: list[Frame], tmp_path: Path, unbroken: Cell, monkeypatch: pytest.MonkeyPatch
):
    state = sum(p.stat().st_size for p in unbroken.folder.rglob("*.safetensors"))
    with small_disk(tmp_path / "disk", 1 + state // 2**20) as disk:
        with pytest.raises(DiskError, match="No space left on device"):
            list(training(frames, disk / "cell"))
        assert not litter(disk)
        shutil.rmtree(disk / "cell")
        monkeypatch.setattr(cache, "SPARE_BYTES", 0)
        with (disk / "filling").open("wb") as filling:
            os.posix_fallocate(filling.fileno(), 0, shutil.disk_usage(disk).free - 100_000)
        with pytest.raises(InputError, match="for the cache of decoded frames: got"):
            cache.ensure(frames, disk)
        # as if another had filled it since it was asked how much is free
        monkeypatch.setattr(cache, "_check_room", lambda *_: None)
        with pytest.raises(InputError, match="No space left on device; give another folder"):
            cache.ensure(frames, disk)
        assert [path.name for path in disk.iterdir() if path.is_dir()] == []


def test_a_read_only_disk_serves_a_finished_cache_and_refuses_a_new_one(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache, "SPARE_BYTES", 0)
    with small_disk(tmp_path / "disk", 8) as disk:
        whole = cache.ensure(frames[:4], disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        again = cache.ensure(frames[:4], disk)
        for frame in frames[:4]:
            for ours, wanted in zip(again(frame), read_frame(frame), strict=True):
                np.testing.assert_array_equal(ours, wanted)
        assert again.folder == whole.folder
        with pytest.raises(InputError, match="Read-only file system; give another folder"):
            cache.ensure(frames[4:], disk)
        with pytest.raises(DiskError, match=r"Read-only file system \(0.0"):
            list(training(frames, disk / "cell"))


class Hanging:
    """Reads frames, but one never arrives."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        if frame.name == self.name:
            time.sleep(3600)
        return read_frame(frame)


class Deadly(Hanging):
    """Reads frames; at one, its process is killed, as by the system when memory runs out."""

    def __call__(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        if frame.name == self.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_frame(frame)


@pytest.fixture
def quick_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives a worker five seconds to end by itself."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)


@pytest.mark.usefixtures("quick_to_end")
def test_a_data_worker_that_hangs_is_named_with_its_frames_and_is_ended(frames: list[Frame]):
    before = set(multiprocessing.active_children())  # other tests' pools
    config = tiny_config(resources={"worker_timeout_s": 3})
    loader, batches = train_loader(frames[:8], config, 2, False, Hanging(frames[5].name))
    with pytest.raises(TransientError) as hung:
        list(loader)
    at = next(step for step in range(4) if 5 in batches.indices(1, step))
    lines = [
        f"data worker {step % 2 + 1} of 2 hangs at "
        f"{', '.join(frames[i].name for i in batches.indices(1, step))}: no batch for 3 s "
        "(resources.worker_timeout_s)"
        for step in range(at + 1)
    ]
    assert str(hung.value) in lines  # on a machine that is busy, one before the last
    del loader, hung
    gc.collect()  # the error's frames hold the workers
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.usefixtures("quick_to_end")
def test_a_data_worker_that_is_killed_is_told_with_the_frames_waited_for(frames: list[Frame]):
    loader = val_loader(frames[:4], tiny_config(), 1, False, Deadly(frames[2].name))
    with pytest.raises(TransientError) as lost:
        list(loader)
    assert str(lost.value).startswith("a data worker was lost while ")
    assert "waited for: killed by signal: Killed" in str(lost.value) or "exited" in str(lost.value)


def test_running_out_of_the_hosts_memory_names_what_would_fit(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(train, "_train_epoch", lambda *_: torch.empty(2**55))  # torch's own error
    monkeypatch.setattr(memory, "host_bytes", lambda: 2_000_000_000)
    with pytest.raises(TrainingError) as out:
        next(training(frames, tmp_path))
    line = str(out.value)
    assert line.startswith(
        "out of memory on the host: train.batch_size=2 and evaluate.batch_size=2"
    )
    assert "data.input_size=[32,64]" in line and "there are 2.0 GB" in line
    assert "train.batch_size=1" in line
    assert Cell(tmp_path).failure.read_text() == line + "\n"


def test_running_out_of_a_gpus_memory_names_what_would_fit(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(train, "_train_epoch", full)
    monkeypatch.setattr(memory, "_device_bytes", lambda *_: 1_600_000_000)
    with pytest.raises(
        TrainingError, match=r"out of memory on the GPU \(cpu\): train.batch_size=2"
    ):
        next(training(frames, tmp_path))


def test_an_error_that_is_not_about_memory_is_left_alone(config: Config):
    with pytest.raises(RuntimeError, match="shape"), memory.explained(config, CPU):
        raise RuntimeError("shape [2, 3] is invalid")


def test_running_out_of_memory_with_a_trained_network_names_what_takes_less():
    for error, where in ((torch.OutOfMemoryError("CUDA"), "cpu"), (MemoryError(), "the host")):
        with pytest.raises(TrainingError) as out, memory.explained_scoring(CPU):
            raise error
        assert str(out.value) == (
            f"out of memory on {where}: set inference.window=[512,1024] or evaluate.batch_size=1"
        )
    with pytest.raises(RuntimeError, match="shape"), memory.explained_scoring(CPU):
        raise RuntimeError("shape [2, 3] is invalid")


def test_a_process_that_is_killed_amid_many_files_is_one_line():
    with pytest.raises(TransientError, match="a process that read files was lost"):
        list(parallel.each(os._exit, [1, 1], "ending", processes=2))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_as_ctrl_c_does(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
):
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job ignores it
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]

    @user_command
    def command() -> int:
        os.kill(os.getpid(), number)
        time.sleep(60)
        return 0

    assert command() == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    signal.signal(signal.SIGINT, inherited)


def test_under_nohup_a_closed_terminal_ends_nothing_but_sigterm_does():
    hangup, ctrl_c = (signal.signal(n, signal.SIG_IGN) for n in (signal.SIGHUP, signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt), terminations_as_ctrl_c():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
    finally:
        signal.signal(signal.SIGHUP, hangup)
        signal.signal(signal.SIGINT, ctrl_c)


def left() -> tuple[int, int, int]:
    """Open files, threads and living children."""
    me = psutil.Process()
    children = [p for p in me.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    return me.num_fds(), threading.active_count(), len(children)


def test_trainings_begun_and_stopped_again_and_again_leave_nothing_open(
    frames: list[Frame], tmp_path: Path
):
    config = tiny_config(train={"epochs": 9}, resources={"workers": 1, "cache_dir": str(tmp_path)})

    def begin_and_stop(name: str) -> None:
        cell = Cell(tmp_path / name)
        run = train_cell(config, frames[:8], frames[8:], cell, CPU)
        next(run)
        run.close()
        with filelock.FileLock(cell.lock, timeout=0):
            pass

    begin_and_stop("first")  # what is opened once, stays
    gc.collect()
    before = left()
    for name in ("second", "second", "third"):
        begin_and_stop(name)
    gc.collect()
    assert all(now <= then for now, then in zip(left(), before, strict=True))
    assert not litter(tmp_path)
