"""A study under fire: everything that can go wrong does, at random moments, many times.

    python -m benchmarks.chaos --minutes 20
    python -m benchmarks.chaos --minutes 20 --faults driver-killed worker-killed raylet-killed

Runs a search of a small real network undisturbed, then again while one kind of fault after another
strikes it (benchmarks/faults.py), started anew whenever its driver has ended, until it is finished;
and compares the two to the bit: rows, cells, Optuna's trials. One cell runs at a time, so that the
sampler's sequence is comparable. Exit code 0 only if all is equal, no finished epoch was lost, and
nothing ended with a traceback, hung, or was left running.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import optuna
import psutil
import tyro
from safetensors.numpy import load_file

from benchmarks.faults import FAULTS, MARK, Bag, Fault, Scene, finished_epochs, small_disk
from cityseg import minicity
from cityseg.cell import read_confusion
from cityseg.config import load
from study.progress import Board
from study.store import Study

SETTINGS: Final = (
    "data.input_size=[32,64]",
    "search.space={train.lr: {low: 1.0e-4, high: 1.0e-2, log: true},"
    " model.dropout: {low: 0, high: 0.5}}",
    "search.startup=2",
    "search.keep_weights=all",
    "resources.cpus_per_trial=1",
    "resources.workers=1",
    "resources.worker_timeout_s=20",
)
HUNG_S: Final = 300
"""Without a finished epoch or an end: far more than any fault may take."""
POLL_S: Final = 0.2


@dataclass
class Count:
    """What happened."""

    faults: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    """How the driver ended."""
    cells_cut: int = 0
    """Times that a cell was inside an epoch when a fault struck."""
    epochs_lost: int = 0
    """Finished epochs that were gone after a fault."""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{fault.name} {self.faults[fault.name]}" for fault in FAULTS)
        codes = ", ".join(f"{code} ({count})" for code, count in sorted(self.codes.items()))
        return (
            f"{self.faults.total()} faults ({kinds}); {self.starts} starts of the driver, which "
            f"ended with {codes}; {self.cells_cut} times a cell was cut inside an epoch; "
            f"{self.epochs_lost} finished epochs lost; "
            f"{'; '.join(self.problems) or 'no other trouble'}"
        )


def main(
    minutes: float = 20,
    rows: int = 6,
    folds: int = 3,
    epochs: int = 4,
    pause: float = 10,
    seed: int = 0,
    prune: bool = False,
    faults: tuple[str, ...] = (),
) -> int:
    """Compare a study under fire with an undisturbed one.

    Args:
        minutes: Faults strike for so long; then the study is left to end.
        rows: Variants of the study.
        folds: Of its cross-validation.
        epochs: Of a cell.
        pause: Seconds between a cell's beginning and a fault, at most.
        seed: Of the moments and kinds.
        prune: Stop rows early, as `study.run --prune`.
        faults: Only these kinds, with hyphens for spaces; by default all.
    """
    known = {fault.name.replace(" ", "-"): fault.name for fault in FAULTS}
    if unknown := [name for name in faults if name not in known]:
        print(f"error: --faults: got {unknown[0]}, known are {', '.join(known)}", file=sys.stderr)
        return 2
    wanted = {known[name] for name in faults} or set(known.values())
    draw, count, studies = random.Random(seed), Count(), 0
    with tempfile.TemporaryDirectory(prefix="cityseg-chaos-") as name, contextlib.ExitStack() as on:
        place = Place(Path(name), rows, folds, epochs, prune)
        calm = undisturbed(place)
        disk: Path | None = None
        try:
            disk = on.enter_context(small_disk(place.here / "disk"))
        except PermissionError as error:
            print(f"no full disks: {error}", flush=True)
        bag = Bag(draw, disk is not None)
        bag.kinds = [kind for kind in bag.kinds if kind.name in wanted]
        until = time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            studies += 1
            stormy = Study((disk or place.here) / f"stormy{studies}" / "study")
            Storm(place, stormy, disk, bag, draw, count, pause).rage(until)
            differences = compare(calm, stormy)
            count.problems += [f"study {studies}: {what}" for what in differences]
            print(f"study {studies}: {'; '.join(differences) or 'equal'}; {count}", flush=True)
            shutil.rmtree(stormy.folder.parent)
    return verdict(studies, count)


def verdict(studies: int, count: Count) -> int:
    """Say how it ended; returns the exit code: 0 only if there were faults which did no harm."""
    if not count.faults:
        count.problems.append("no fault struck: nothing is shown")
    sound = not count.problems and not count.epochs_lost
    print(f"{'equal to the bit' if sound else 'NOT SOUND'}: {studies} studies, {count}")
    return 0 if sound else 1


def undisturbed(place: "Place") -> Study:
    """The study that nothing strikes, run to its end."""
    minicity.build(place.data, load(Path("smoke.yaml")).city)
    calm = Study(place.here / "calm" / "study")
    started = time.perf_counter()
    subprocess.run(place.words(calm), check=True, stdout=subprocess.DEVNULL)
    print(f"undisturbed: {time.perf_counter() - started:.0f} s", flush=True)
    return calm


@dataclass(frozen=True)
class Place:
    """Where all of it happens, and what is run there."""

    here: Path
    rows: int
    folds: int
    epochs: int
    prune: bool

    @property
    def data(self) -> Path:
        """The embedded city, a copy of our own."""
        return self.here / "data"

    @property
    def cache(self) -> Path:
        """Its decoded frames."""
        return self.here / "cache"

    def words(self, study: Study) -> list[str]:
        """The study, one cell at a time, by one thread: a network so small gains nothing by two."""
        memory_gb = 0.6 * psutil.virtual_memory().available / 1e9  # there is room for one
        options = ["--name", study.folder.name, "--results", str(study.folder.parent)]
        options += ["--data", str(self.data), "--cache-dir", str(self.cache), "--no-dashboard"]
        options += ["--folds", str(self.folds), "--variants", str(self.rows)]
        options += ["--prune"] if self.prune else []
        settings = (
            *SETTINGS, f"train.epochs={self.epochs}", f"resources.memory_gb={memory_gb:.1f}",
        )  # fmt: skip
        config = ("--config", "smoke.yaml")
        return [sys.executable, "-m", "study.run", *options, *config, *settings]


@dataclass
class Storm:
    """A study, run to its end under fire."""

    place: Place
    study: Study
    disk: Path | None
    bag: Bag
    draw: random.Random
    count: Count
    pause: float
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    tried_at: int = -1
    """Finished epochs when a cell last had to be tried again."""
    struck: bool = False
    """Whether a fault struck since the driver was started."""

    def rage(self, until: float) -> None:
        """Start the study until it is finished; faults strike until a moment of `time.monotonic`.

        One that hangs, or ends as it should not, is a problem, and gives the study up.
        """
        output = self.place.here / "output"
        while True:
            self.count.starts += 1
            self.struck = False
            with output.open("w") as said:
                driver = subprocess.Popen(
                    self.place.words(self.study), env={**os.environ, MARK: self.mark},
                    stdout=said, stderr=said,
                )  # fmt: skip
            scene = self._scene(driver)
            ended = self._under_fire(scene, until)
            scene.wait_until_gone()
            self.count.problems += scene.problems
            self.count.codes[driver.returncode] += 1
            print(f"  the driver ended with {driver.returncode}", flush=True)
            said = output.read_text(errors="replace")
            if not ended or not self._as_it_should(driver.returncode, said):
                return
            if driver.returncode == 0:
                return

    def _scene(self, driver: "subprocess.Popen[bytes]") -> Scene:
        words, place = self.place.words(self.study), self.place
        return Scene(
            driver, words, self.mark, self.study, place.data, place.cache, self.disk, place.rows,
            self.draw,
        )  # fmt: skip

    def _as_it_should(self, code: int, said: str) -> bool:
        """Whether the driver ended in one of the ways that a user is told of."""
        last = " ".join(said.split())[-300:]
        if "Traceback" in said:
            self.count.problems.append(f"a traceback, exit code {code}: ... {last}")
        if code in (0, -9) or self.struck:
            return True
        if code == 1 and self.study.exists():  # cells failed in a start before
            return True
        self.count.problems.append(f"exit code {code} of itself: {last}")
        return False

    def _under_fire(self, scene: Scene, until: float) -> bool:
        """Whether the driver came to an end, of itself or by a fault."""
        while scene.driver.poll() is None:
            if not self._at_work(scene):
                break
            if time.monotonic() >= until:
                return self._ends(scene)
            with contextlib.suppress(subprocess.TimeoutExpired):
                scene.driver.wait(self.draw.uniform(0, self.pause))
                break
            self._strike(scene)
        return scene.driver.poll() is not None

    def _at_work(self, scene: Scene) -> bool:
        """Wait for a cell to be at work; False if the driver ended, or hung, before one was."""
        since, then = time.monotonic(), finished_epochs(self.study)
        while scene.driver.poll() is None:
            if scene.workers():
                return True
            if (now := finished_epochs(self.study)) != then:
                since, then = time.monotonic(), now
            if time.monotonic() - since > HUNG_S:
                self._hangs(scene)
            time.sleep(POLL_S)
        return False

    def _ends(self, scene: Scene) -> bool:
        """Leave it to end, and see that it goes on meanwhile.

        Of the faults that may strike only now, as the rows are drawn, those that have not yet do.
        """
        since, then = time.monotonic(), finished_epochs(self.study)
        while scene.driver.poll() is None:
            time.sleep(1)
            for fault in self.bag.kinds:
                owed = fault.fails and not self.count.faults[fault.name]
                if owed and scene.workers() and self._allowed(fault, scene):
                    self._let(fault, scene)
            if (now := finished_epochs(self.study)) != then:
                since, then = time.monotonic(), now
            if time.monotonic() - since > HUNG_S:
                self._hangs(scene)
                return False
        return True

    def _hangs(self, scene: Scene) -> None:
        self.count.problems.append(f"no epoch for {HUNG_S} s after {dict(self.count.faults)}")
        scene.end()

    def _strike(self, scene: Scene) -> None:
        """Let the next of the faults happen."""
        fault = self.bag.take(lambda fault: self._allowed(fault, scene))
        if fault is not None:
            self._let(fault, scene)

    def _allowed(self, fault: Fault, scene: Scene) -> bool:
        """Whether it would harm nothing that it is known to harm."""
        epochs = sum(finished_epochs(self.study).values())
        tried = fault.retried and epochs <= self.tried_at
        return not tried and (not fault.fails or scene.drawn_to_its_end())

    def _let(self, fault: Fault, scene: Scene) -> None:
        """Let one fault happen, and see that no finished epoch goes with it."""
        before = finished_epochs(self.study)
        if not fault.strike(scene):
            return
        self.struck = True
        self.count.faults[fault.name] += 1
        print(f"  {fault.name}, {sum(before.values())} epochs finished", flush=True)
        after = finished_epochs(self.study)
        if fault.retried:
            self.tried_at = sum(after.values())
        self.count.cells_cut += any(not self.study.cell(*c).confusion.is_file() for c in before)
        lost = {cell: epochs - after.get(cell, 0) for cell, epochs in before.items()}
        self.count.epochs_lost += sum(max(0, epochs) for epochs in lost.values())


def compare(calm: Study, stormy: Study) -> list[str]:
    """What differs between two finished studies; nothing should."""
    differences: list[str] = []
    ours, theirs = Board.read(calm), Board.read(stormy)
    if [row.row for row in ours] != [row.row for row in theirs]:
        return ["rows differ"]
    for row in ours:
        other = theirs.rows[row.variant]
        if (row.status, row.reason) != (other.status, other.reason):
            differences.append(f"v{row.variant:03d}: {row.status} and {other.status}")
        for cell in row.cells:
            if not same_cell(calm, stormy, row.variant, cell.fold):
                differences.append(f"v{row.variant:03d} fold {cell.fold}")
    if trials(calm) != trials(stormy):
        differences.append("Optuna's trials differ")
    return differences


def same_cell(calm: Study, stormy: Study, variant: int, fold: int) -> bool:
    """Whether counts and weights are the same, to the bit."""
    one, other = calm.cell(variant, fold), stormy.cell(variant, fold)
    if one.status() != "done" or other.status() != "done":
        return one.status() == other.status()
    a, b = read_confusion(one.confusion), read_confusion(other.confusion)
    counts = [(getattr(a, w), getattr(b, w)) for w in ("best", "last")]
    weights, others = load_file(one.best_weights), load_file(other.best_weights)
    same = all(np.array_equal(value, others[name]) for name, value in weights.items())
    return same and all(
        x.epoch == y.epoch and np.array_equal(x.low, y.low) and np.array_equal(x.full, y.full)
        for x, y in counts
    )


def trials(study: Study) -> list[tuple[object, ...]]:
    """State, values, parameters and attributes of all trials: one a row, none running.

    Of a row that had failed and was done by a later start, the failed trial stays as well.
    """
    storage = f"sqlite:///{study.folder / 'optuna.db'}"
    return [
        (t.state.name, t.values, t.params, t.user_attrs, t.intermediate_values)
        for t in optuna.load_study(study_name="study", storage=storage).trials
        if t.state.name != "FAIL"
    ]


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
