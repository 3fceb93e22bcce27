"""What starting and stopping a study leaves behind: processes, files, shared memory, open files.

    python -m benchmarks.hygiene --cycles 50

Two kinds of cycles. Whole commands, which by turns end of themselves, by Ctrl-C, by SIGTERM, by
kill -9 of the driver and by kill -9 of its raylet, the last one of itself; with folders for
temporary files and caches of their own, so that whatever stays there is seen. And in one process, a
Ray that is started and stopped, beside one that no study of ours has to do with. Exit code 0 only
if nothing runs on, the last cycles leave no more than the first ones did (or than Ray itself does),
and no session of Ray's and no shared memory is left.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
import tyro

from benchmarks.faults import MARK, family
from study.resources import Allotment
from study.sessions import DRIVER
from study.tuning import connect

# Ray's environment is set by study.tuning, before it is imported
import ray  # isort: skip

SHARED_MEMORY: Final = Path("/dev/shm")  # nosec B108 # looked at, not written to
LIMIT_S: Final = 180
"""For a command to get to work, or to end: far more than it takes."""
SETTLED: Final = 5
"""Cycles after which what is made once, such as caches, has been made."""
FLUTTER: Final = 0.5
"""Descriptors a start by which what Ray leaves may differ from run to run: it is between none and
one socket. What we left open would be one a start or more."""


@dataclass
class Left:
    """What there is after a cycle."""

    files: set[str]
    """In the folder for temporary files; of a cycle in one process, its open files."""
    shared_memory: set[str]
    processes: list[str] = field(default_factory=list)


def end_of_itself(driver: "subprocess.Popen[bytes]", mark: str) -> None:
    """Nothing is done."""


def signalled(number: signal.Signals) -> Callable[["subprocess.Popen[bytes]", str], None]:
    """Once a cell is at work."""

    def end(driver: "subprocess.Popen[bytes]", mark: str) -> None:
        wait_for(lambda: driver.poll() is not None or find(mark, "ray::Fold") is not None)
        driver.send_signal(number)

    return end


def raylet_killed(driver: "subprocess.Popen[bytes]", mark: str) -> None:
    """Once a cell is at work."""
    wait_for(lambda: driver.poll() is not None or find(mark, "ray::Fold") is not None)
    raylet = find(mark, "raylet")
    if raylet is not None:
        raylet.kill()


ENDS: Final = {
    "of itself": end_of_itself,
    "Ctrl-C": signalled(signal.SIGINT),
    "SIGTERM": signalled(signal.SIGTERM),
    "driver killed": signalled(signal.SIGKILL),
    "raylet killed": raylet_killed,
}


def main(cycles: int = 50) -> int:
    """Start and stop, and see what is left.

    Args:
        cycles: Of each kind.
    """
    troubles = commands(cycles) + one_process(cycles)
    print(*troubles or ["nothing is left"], sep="\n")
    return 1 if troubles else 0


def commands(cycles: int) -> list[str]:
    """Whole commands; returns what they left."""
    done: Counter[str] = Counter()
    lefts: list[Left] = []
    before = shared_memory()
    with tempfile.TemporaryDirectory(prefix="hyg") as folder:  # short: sockets' names have limits
        here, mark = Path(folder), uuid.uuid4().hex
        scratch = here / "t"
        scratch.mkdir()
        places = {"TMPDIR": f"{scratch}", "CITYSEG_CACHE": f"{here / 'cache'}", MARK: mark}
        environment = {**os.environ, **places}
        for cycle in range(cycles):
            last = cycle == cycles - 1
            end = "of itself" if last else list(ENDS)[cycle % len(ENDS)]
            words = [sys.executable, "-m", "study.run", "--folds", "2", "--name", f"s{cycle}"]
            words += ["--config", "smoke.yaml", "--results", f"{here / 'results'}"]
            words += ["--no-dashboard", f"train.epochs={1 if end == 'of itself' else 50}"]
            nowhere = subprocess.DEVNULL
            driver = subprocess.Popen(words, env=environment, stdout=nowhere, stderr=nowhere)
            ENDS[end](driver, mark)
            driver.wait(LIMIT_S)
            done[f"{end}: exit code {driver.returncode}"] += 1
            wait_for(lambda: not family(mark))
            files = {str(path.relative_to(scratch)) for path in scratch.rglob("*")}
            running = [process.name() for process in family(mark)]
            lefts.append(Left(files, shared_memory() - before, running))
        print(f"commands: {', '.join(f'{end} ({n})' for end, n in sorted(done.items()))}")
        return judge("command", lefts, {"of Ray's": "ray/session_2", "of drivers": DRIVER})


def one_process(cycles: int) -> list[str]:
    """Rays started and stopped in one process; returns what they left beyond what Ray leaves.

    Ray itself keeps a socket open for about every other start, and a thread: what as many starts by
    nothing but `ray.init` leave is measured beside ours.
    """
    ours, bare = (in_fresh_process(starts, way, cycles) for way in (our_start, bare_start))
    grown = len(bare[-1].files) - len(bare[settled(bare)].files)
    print(f"a bare Ray's starts in one process leave {grown} descriptors in as many cycles")
    flutter = FLUTTER * (len(bare) - 1 - settled(bare))
    return judge("start in one process", ours, {}, more=round(max(0, grown) + flutter))


def in_fresh_process(call: Callable[..., list[Left]], *arguments: object) -> list[Left]:
    """Its result, computed by a process that has opened nothing yet."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(call, *arguments).result()


def starts(start: Callable[[], None], cycles: int) -> list[Left]:
    """What is left after each start and stop in this process."""
    lefts: list[Left] = []
    before, us = shared_memory(), psutil.Process()
    for _ in range(cycles):
        start()
        wait_for(lambda: not us.children(recursive=True))
        descriptors = {f"descriptor {i}" for i in range(us.num_fds())}
        running = [child.name() for child in us.children(recursive=True)]
        lefts.append(Left(descriptors, shared_memory() - before, running))
    return lefts


def our_start() -> None:
    """As a study starts and stops its Ray."""
    allotment = Allotment(slots=1, cpus=1, gpus=0, cell_memory_bytes=0)
    with connect(None, False, lambda _: allotment):
        pass


def bare_start() -> None:
    """Ray alone."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR)
    ray.shutdown()


def judge(what: str, lefts: list[Left], never: dict[str, str], more: int = 0) -> list[str]:
    """What is left that should not be.

    Args:
        what: was done.
        lefts: what there was after each cycle.
        never: what must not be left in the end, by its path.
        more: files by which the last cycle may exceed the first ones.
    """
    first, last = lefts[settled(lefts)], lefts[-1]
    print(
        f"{len(lefts)} cycles, {what}: after number {settled(lefts) + 1} there are "
        f"{len(first.files)} files, after the last {len(last.files)}; "
        f"shared memory {len(first.shared_memory)}, {len(last.shared_memory)}; "
        f"processes running on, over all: {sum(len(left.processes) for left in lefts)}"
    )
    troubles = [f"running on: {', '.join(left.processes)}" for left in lefts if left.processes]
    if len(new := last.files - first.files) > more:
        troubles.append(f"{what}: more and more files, such as {min(new)}")
    troubles += [f"{what}: shared memory {name}" for name in sorted(last.shared_memory)]
    for kind, start in never.items():
        found = sorted(path for path in last.files if path.startswith(start))
        troubles += [f"{what}: {len(found)} files {kind}, such as {found[0]}"] if found else []
    return troubles


def settled(lefts: list[Left]) -> int:
    """Which cycle the last one is compared with."""
    return min(SETTLED, len(lefts) - 1)


def shared_memory() -> set[str]:
    """Names of its segments."""
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def find(mark: str, name: str) -> psutil.Process | None:
    """A process of the command by the beginning of its name."""
    for process in family(mark):
        try:
            if process.name().startswith(name):
                return process
        except psutil.Error:
            continue
    return None


def wait_for(happened: Callable[[], bool]) -> None:
    """Until it has, or for as long as it may take at most."""
    until = time.monotonic() + LIMIT_S
    while not happened() and time.monotonic() < until:
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
