"""A study under fire: its driver, workers and raylet are killed at random moments, many times.

    python -m benchmarks.chaos --kills 30

Runs a search of 6 rows x 3 folds of a small real network undisturbed, then again under kill -9,
started anew after each death of the driver until it is finished, and compares the two to the bit:
rows, cells, Optuna's trials. One cell runs at a time, so that the sampler's sequence is comparable.
Exit code 0 only if all is equal.
"""

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

import numpy as np
import optuna
import psutil
import tyro
from safetensors.numpy import load_file

from cityseg.cell import read_confusion
from study.progress import Board
from study.store import Study

SETTINGS = (
    "data.input_size=[32,64]",
    "train.epochs=4",
    "search.space={train.lr: {low: 1.0e-4, high: 1.0e-2, log: true},"
    " model.dropout: {low: 0, high: 0.5}}",
    "search.startup=2",
    "search.keep_weights=all",
)
VICTIMS = ("driver", "worker", "raylet")


@dataclass
class Count:
    """What happened."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VICTIMS, 0))
    starts: int = 0
    cells_cut: int = 0
    """Times that a cell was at work when its process was killed."""
    epochs_lost: int = 0
    """Finished epochs that were gone after a kill."""
    rows: Counter[int] = field(default_factory=Counter)
    """Kills by the row that was at work."""

    @property
    def all_kills(self) -> int:
        """Of whatever process."""
        return sum(self.kills.values())

    def __str__(self) -> str:
        kills = ", ".join(f"{victim} {count}" for victim, count in self.kills.items())
        return (
            f"{self.all_kills} kills ({kills}), {self.starts} starts of the driver, "
            f"{self.cells_cut} times a cell was cut inside an epoch, "
            f"{self.epochs_lost} finished epochs lost; kills by row at work: "
            f"{', '.join(f'v{row:03d} {count}' for row, count in sorted(self.rows.items()))}"
        )


def main(kills: int = 30, rows: int = 6, seed: int = 0, prune: bool = False) -> int:
    """Compare a study under fire with an undisturbed one.

    Args:
        kills: At least so many.
        rows: Variants of the study.
        seed: Of the moments and victims.
        prune: Stop rows early, as `study.run --prune`.
    """
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="cityseg-chaos-") as folder:
        words = command(Path(folder), rows, prune)
        calm = Study(Path(folder) / "calm" / "study")
        started = time.perf_counter()
        subprocess.run([*words, "--results", str(calm.folder.parent)], check=True, text=True)
        lasted = time.perf_counter() - started
        print(f"undisturbed: {lasted:.0f} s", flush=True)
        total, rounds, equal = Count(), 0, True
        while total.all_kills < kills:
            rounds += 1
            stormy = Study(Path(folder) / f"stormy{rounds}" / "study")
            command_line = [*words, "--results", str(stormy.folder.parent)]
            # the mean pause is such that the kills are spread over the whole of the study
            under_fire(command_line, stormy, draw, total, kills, 2 * lasted / kills)
            differences = compare(calm, stormy)
            equal &= not differences
            print(f"round {rounds}: {total}; {'; '.join(differences) or 'equal'}", flush=True)
            shutil.rmtree(stormy.folder.parent)
    print(f"{'equal to the bit' if equal else 'DIFFERENT'}: {rounds} studies, {total}")
    return 0 if equal else 1


def command(folder: Path, rows: int, prune: bool) -> list[str]:
    """The study, one cell at a time on all cores."""
    options = ["--folds", "3", "--name", "study", "--no-dashboard", "--variants", str(rows)]
    options += ["--prune"] if prune else []
    cores = len(psutil.Process().cpu_affinity() or [0])
    config = ("--config", "smoke.yaml")
    settings = (*SETTINGS, f"resources.cpus_per_trial={cores}")
    return [sys.executable, "-m", "study.run", *options, *config, *settings]


def under_fire(
    words: list[str], study: Study, draw: random.Random, count: Count, most: int, pause: float
) -> None:
    """Run the study to its end, killing one of its processes until there were `most` kills.

    Before each a cell is at work, and up to `pause` seconds pass.
    """
    mark = uuid.uuid4().hex
    while True:
        count.starts += 1
        driver = subprocess.Popen(
            words, env={**os.environ, "CITYSEG_CHAOS": mark},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while driver.poll() is None:
            wait_for_work(driver, mark)
            try:
                driver.wait(draw.uniform(0, pause) if count.all_kills < most else None)
            except subprocess.TimeoutExpired:
                victim = draw.choice(VICTIMS)
                if victim == "worker":  # between two cells there is none
                    wait_for_work(driver, mark)
                strike(driver, mark, study, victim, count)
        if driver.returncode == 0:
            return


def wait_for_work(driver: subprocess.Popen[bytes], mark: str) -> None:
    """Until a cell is at work, so that most kills meet one, or the driver has ended."""
    while driver.poll() is None:
        if any(process.name().startswith("ray::Fold") for process in family(mark)):
            return
        time.sleep(0.2)


def strike(
    driver: subprocess.Popen[bytes], mark: str, study: Study, victim: str, count: Count
) -> None:
    """kill -9 one process of the study, and see that no finished epoch goes with it."""
    names = {"driver": "", "worker": "ray::Fold", "raylet": "raylet"}
    targets = [
        p for p in family(mark) if p.pid != driver.pid and p.name().startswith(names[victim])
    ]
    if victim == "driver":
        targets = [psutil.Process(driver.pid)]
    if not targets:
        return
    before = finished_epochs(study)
    targets[0].kill()
    count.kills[victim] += 1
    count.rows[max((row for row, _ in before), default=0)] += 1
    after = finished_epochs(study)
    count.cells_cut += any(not (study.cell(*c).confusion.is_file()) for c in before)
    count.epochs_lost += sum(max(0, epochs - after.get(cell, 0)) for cell, epochs in before.items())


def family(mark: str) -> list[psutil.Process]:
    """All processes that the study has started: they inherit its environment."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CITYSEG_CHAOS") == mark:
                found.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return found


def finished_epochs(study: Study) -> dict[tuple[int, int], int]:
    """Epochs on disk, by variant and fold."""
    if not study.exists():
        return {}
    return {(r.variant, c.fold): len(c.epochs) for r in Board.read(study) for c in r.cells}


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
    """Number, state, values and attributes of all trials: one a row, none running."""
    storage = f"sqlite:///{study.folder / 'optuna.db'}"
    return [
        (t.number, t.state.name, t.values, t.params, t.user_attrs, t.intermediate_values)
        for t in optuna.load_study(study_name="study", storage=storage).trials
    ]


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
