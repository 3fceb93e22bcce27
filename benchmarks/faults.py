"""The faults of `benchmarks.chaos`: what each does to a study at work, and what must come of it."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from study.progress import Board
from study.store import Study

MARK: Final = "CITYSEG_CHAOS"
"""In the environment of all that a study under fire starts."""
SECOND_DRIVER_S: Final = 120
"""Within which it must have been refused."""
FULL_S: Final = (2.0, 8.0)
"""How long a disk stays full: shorter than a cell would try it three times."""
YEAR_S: Final = 365.25 * 86_400
DISK_MEGABYTES: Final = 8192
"""Of a disk in memory, which takes no more than what is written to it."""


@dataclass
class Scene:
    """A study at work, and all that can go wrong around it."""

    driver: "subprocess.Popen[bytes]"
    words: list[str]
    """What started it."""
    mark: str
    study: Study
    data: Path
    """Root of its frames."""
    cache: Path
    """Folder of its decoded frames."""
    disk: Path | None
    """A disk of its own that its results are on; None if none could be mounted."""
    rows: int
    """How many it is to have."""
    draw: random.Random
    problems: list[str] = field(default_factory=list)
    """What happened that should not have."""

    def family(self) -> list[psutil.Process]:
        """All processes that the study has started: they inherit its environment."""
        return family(self.mark)

    def workers(self) -> list[psutil.Process]:
        """Processes that train a cell; those that load its data have its name."""
        folds = [p for p in self.family() if _name(p).startswith("ray::Fold")]
        numbers = {p.pid for p in folds}
        return [p for p in folds if _parent(p) not in numbers]

    def loaders(self) -> list[psutil.Process]:
        """Processes that load data for a cell."""
        return [child for worker in self.workers() for child in _children(worker)]

    def named(self, name: str) -> list[psutil.Process]:
        """Processes of Ray's own."""
        return [p for p in self.family() if _name(p).startswith(name)]

    def drawn_to_its_end(self) -> bool:
        """Whether the sampler has nothing to choose any more, so that a failed row moves no other.

        A row that fails is tried again by the next start, after the rows that were drawn meanwhile.
        """
        return self.study.exists() and len(self.study.rows()) >= self.rows

    def end(self) -> None:
        """kill -9 the driver, and wait for all that it started to go as well."""
        self.driver.kill()
        self.driver.wait()
        self.wait_until_gone()

    def wait_until_gone(self, limit_s: float = 120) -> None:
        """Until nothing of the study runs any more; what is left after the time is a problem."""
        until = time.monotonic() + limit_s
        while (left := self.family()) and time.monotonic() < until:
            time.sleep(0.2)
        if left:
            self.problems.append(f"left running: {', '.join(sorted(_name(p) for p in left))}")
            for process in left:
                process.kill()


def family(mark: str) -> list[psutil.Process]:
    """All processes with this mark in their environment."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _parent(process: psutil.Process) -> int:
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.Error:
        return []


Strike = Callable[[Scene], bool]
"""Does it; False if there was nothing to do it to."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    strike: Strike
    retried: bool = False
    """Whether it takes one of a cell's three attempts at an epoch: then an epoch must have been
    finished since the last that did."""
    fails: bool = False
    """Whether the cell may fail by it, until the study is started again."""
    own_disk: bool = False
    """Whether it needs the results on a disk of their own."""


def _killed(victims: Callable[[Scene], list[psutil.Process]]) -> Strike:
    """kill -9 one of them."""

    def strike(scene: Scene) -> bool:
        there = victims(scene)
        if not there:
            return False
        try:
            scene.draw.choice(there).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    return strike


def _signalled(number: signal.Signals) -> Strike:
    def strike(scene: Scene) -> bool:
        scene.driver.send_signal(number)
        return True

    return strike


def _driver_killed(scene: Scene) -> bool:
    scene.driver.kill()
    return True


def _driver_stopped(scene: Scene) -> bool:
    """As a lid that is closed: it stands still for a while, and what it started does not."""
    scene.driver.send_signal(signal.SIGSTOP)
    time.sleep(scene.draw.uniform(1, 10))
    scene.driver.send_signal(signal.SIGCONT)
    return True


def _loader_hangs(scene: Scene) -> bool:
    there = scene.loaders()
    if not there:
        return False
    scene.draw.choice(there).suspend()
    return True


def _memory_gone(scene: Scene) -> bool:
    """A worker gets no more memory than it has."""
    there = scene.workers()
    if not there:
        return False
    try:
        limit = there[0].memory_info().vms
        there[0].rlimit(psutil.RLIMIT_AS, (limit, psutil.RLIM_INFINITY))
    except psutil.Error:
        return False
    return True


def _disk_full(scene: Scene) -> bool:
    """Not a byte more fits, for a while."""
    assert scene.disk is not None
    for _ in range(10):  # what is written meanwhile makes it larger than it may become
        used = shutil.disk_usage(scene.disk).used
        if _resized(scene.disk, f"{used // 1024 + 4}k"):
            break
    else:
        return False
    time.sleep(scene.draw.uniform(*FULL_S))
    return _resized(scene.disk, f"{DISK_MEGABYTES}m")


def _resized(disk: Path, size: str) -> bool:
    words = [shutil.which("mount") or "mount", "-o", f"remount,size={size}", str(disk)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _second_driver(scene: Scene) -> bool:
    """It must be refused; where the first has ended meanwhile, it takes over, and is ended."""
    with subprocess.Popen(
        scene.words, env={**os.environ, MARK: scene.mark}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as second:  # fmt: skip
        try:
            _, said = second.communicate(timeout=SECOND_DRIVER_S)
        except subprocess.TimeoutExpired:
            second.kill()
            _, said = second.communicate()
    if second.returncode == 2 and "is being run by another process" in said:
        return True
    if scene.driver.poll() is None:
        scene.problems.append(f"a second driver: exit code {second.returncode}, {said[-200:]}")
    return False


def _cache_cut(scene: Scene) -> bool:
    """A file of the decoded frames loses its second half, or goes, while nothing runs."""
    scene.end()
    files = [path for path in scene.cache.rglob("*") if path.is_file() and path.stat().st_size]
    path = scene.draw.choice(sorted(files))
    if scene.draw.random() < 0.5:
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    return True


def _optuna_lost(scene: Scene) -> bool:
    scene.end()
    (scene.study.folder / "optuna.db").unlink(missing_ok=True)
    return True


def _clock_jumped(scene: Scene) -> bool:
    """All files of the study are a year older, or from next year."""
    scene.end()
    for path in scene.study.folder.rglob("*"):
        when = path.stat().st_mtime + scene.draw.choice((-YEAR_S, YEAR_S))
        os.utime(path, (when, when))
    return True


def _frame_damaged(scene: Scene) -> bool:
    """A frame's second half is gone to zeros: the next start must refuse it by its name."""
    scene.end()
    frame = scene.draw.choice(sorted((scene.data / "leftImg8bit/train").rglob("*.png")))
    whole, stat = frame.read_bytes(), frame.stat()
    half = len(whole) // 2
    frame.write_bytes(whole[:half] + bytes(len(whole) - half))
    try:
        refused = subprocess.run(scene.words, capture_output=True, text=True, check=False)
    finally:
        frame.write_bytes(whole)
        os.utime(frame, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    said = refused.stderr.strip()
    name = frame.name.removesuffix("_leftImg8bit.png")
    if refused.returncode != 2 or name not in said or "Traceback" in said:
        scene.problems.append(
            f"{frame.name} damaged: exit code {refused.returncode}, {said[-200:]}"
        )
    return True


FAULTS: Final = (
    Fault("driver killed", _driver_killed),
    Fault("worker killed", _killed(Scene.workers), retried=True),
    Fault("raylet killed", _killed(lambda scene: scene.named("raylet"))),
    Fault("gcs killed", _killed(lambda scene: scene.named("gcs_server"))),
    Fault("loader killed", _killed(Scene.loaders), retried=True),
    Fault("loader hangs", _loader_hangs, retried=True),
    Fault("SIGINT", _signalled(signal.SIGINT)),
    Fault("SIGTERM", _signalled(signal.SIGTERM)),
    Fault("SIGHUP", _signalled(signal.SIGHUP)),
    Fault("driver stands still", _driver_stopped),
    Fault("second driver", _second_driver),
    Fault("disk full", _disk_full, retried=True, own_disk=True),
    Fault("memory gone", _memory_gone, retried=True, fails=True),
    Fault("cache damaged", _cache_cut),
    Fault("Optuna's storage lost", _optuna_lost),
    Fault("clock jumped", _clock_jumped),
    Fault("frame damaged", _frame_damaged),
)


class Bag:
    """Draws kinds of faults: each comes once, in some order, before any comes again."""

    def __init__(self, draw: random.Random, own_disk: bool):
        self.kinds = [fault for fault in FAULTS if own_disk or not fault.own_disk]
        self._draw = draw
        self._left: list[Fault] = []

    def take(self, allowed: Callable[[Fault], bool]) -> Fault | None:
        """The next that is allowed now; the others wait for their turn."""
        for _ in range(2):
            for fault in self._left:
                if allowed(fault):
                    self._left.remove(fault)
                    return fault
            rest = [fault for fault in self.kinds if fault not in self._left]
            self._left += self._draw.sample(rest, len(rest))
        return None


def finished_epochs(study: Study) -> dict[tuple[int, int], int]:
    """Epochs on disk, by variant and fold."""
    if not study.exists():
        return {}
    return {(r.variant, c.fold): len(c.epochs) for r in Board.read(study) for c in r.cells}


@contextmanager
def small_disk(folder: Path, megabytes: int = DISK_MEGABYTES) -> Iterator[Path]:
    """A disk of its own, in memory, mounted at a new folder; only root may do so.

    Raises:
        PermissionError: it cannot be mounted.
    """
    folder.mkdir(parents=True)
    size = f"size={megabytes}m"
    words = [shutil.which("mount") or "mount", "-t", "tmpfs", "-o", size, "none", str(folder)]
    mounted = subprocess.run(words, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise PermissionError(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([shutil.which("umount") or "umount", "--lazy", str(folder)], check=True)
