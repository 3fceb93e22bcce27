"""What `python -m study.analyze` costs on made-up tables of Cityscapes' size: seconds and memory.

    python -m benchmarks.analysis_scale

Every table has 2,975 frames of 18 cities in 3 folds, 65 epochs a cell, and counts as dense as those
of a good network: about 115 of a frame's 361 are not 0. The largest, of 1,000 rows, takes 2.5 GB of
disk for a while. Each is analysed by the command itself, in a process of its own.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import tyro
from jaxtyping import Int64
from rich.console import Console
from rich.table import Table

from benchmarks.measure import RESULTS, append, environment
from cityseg import parallel
from cityseg.cell import Confusion, Counts, Epoch, write_confusion, write_epochs
from cityseg.config import Config
from cityseg.data import CITYSCAPES_TRAIN
from cityseg.folds import FoldsFile, write_folds
from study.space import Search, read_search
from study.store import DataRecord, Row, Study, StudyRecord

FOLDS: Final = 3
EPOCHS: Final = 65
SHARES: Final = np.array([
    .36, .06, .22, .006, .009, .012, .002, .006, .16, .011, .04, .012, .0013, .07, .0026, .0023,
    .0023, .001, .004,
])  # fmt: skip
"""About each class' share of the pixels."""
COMMON: Final = np.array([
    1, .97, 1, .35, .45, 1, .55, .95, .97, .6, .9, .8, .35, .95, .15, .1, .05, .2, .55,
])  # fmt: skip
"""About the share of frames that have each class."""
FULL_PX: Final = 1024 * 2048
LOW_PX: Final = 512 * 1024


@dataclass(frozen=True)
class Scale:
    """What the analysis of one table took."""

    rows: int
    cells: int
    counts_gb: float
    """Of confusion.npz on disk, all together."""
    numbers_s: float
    """Of the command without figures, from its start to its end."""
    numbers_mb: float
    """Its largest resident memory."""
    whole_s: float
    """With figures (there are no frames to make panels of)."""
    whole_mb: float


def frame_names() -> list[str]:
    """All frames, in the order of the cities."""
    return [
        f"{city}_000000_{i:06d}" for city, count in CITYSCAPES_TRAIN.items() for i in range(count)
    ]


def frame_counts(
    rng: np.random.Generator, frames: int, pixels: int, wrong: float
) -> Int64[np.ndarray, "n 19 19"]:
    """Confusions of frames that have some of the classes each; the more wrong, the less is right.

    Args:
        rng: of all draws.
        frames: how many (n).
        pixels: labelled ones of a frame, about.
        wrong: factor on the errors, about 1.
    """
    labelled = SHARES * rng.lognormal(0, 0.6, (frames, 19)) * (rng.random((frames, 19)) < COMMON)
    labelled *= pixels / labelled.sum(1, keepdims=True)
    taken_for = rng.lognormal(-6, 2, (frames, 19, 19)) * np.sqrt(COMMON) * wrong
    taken_for *= rng.random((frames, 19, 19)) < 0.55
    taken_for[:, np.arange(19), np.arange(19)] = 0
    taken_for /= np.maximum(1, 2 * taken_for.sum(2, keepdims=True))
    counts = np.floor(labelled[:, :, None] * taken_for)
    counts[:, np.arange(19), np.arange(19)] = np.floor(labelled - counts.sum(2))
    return counts.astype(np.int64)


def write_table(folder: Path, rows: int) -> Study:
    """A finished study of so many rows."""
    names = frame_names()
    order = np.random.default_rng(0).permutation(len(names))
    folds = FoldsFile(
        grouping="frames",
        seed=0,
        folds=[sorted(names[i] for i in order[k::FOLDS]) for k in range(FOLDS)],
    )
    study, config = Study(folder), Config()
    write_folds(study.folds_file, folds)
    search = Search()
    if rows > 1:
        space = {
            "train.lr": {"low": 1e-5, "high": 1e-3, "log": True},
            "model.dropout": {"low": 0.0, "high": 0.5},
        }
        search = read_search({"variants": rows, "space": space}, config)
    study.write(
        StudyRecord(
            name=folder.name, created="2025-01-01T00:00:00+00:00", command="made up",
            data=DataRecord(root=folder / "no_frames", kind="other", frames=len(names),
                            cities=CITYSCAPES_TRAIN, fingerprint="made up"),
            folds_hash=folds.content_hash(), config=config, search=search, versions={}, hardware={},
        )
    )  # fmt: skip
    for _ in parallel.each(_write_row, [(folder, row) for row in range(rows)], "writing", 2):
        pass
    return study


def _write_row(place: tuple[Path, int]) -> None:
    """One row's cells; the nearer its learning rate to 1e-4 (the base row's), the better."""
    folder, number = place
    study, rng = Study(folder), np.random.default_rng(number)
    logarithm = float(rng.uniform(-5, -3)) if number else -4.0
    if number:
        values = {"train.lr": 10**logarithm, "model.dropout": float(rng.uniform(0, 0.5))}
        study.write_row(Row(variant=number, origin="random", parameters=values))
    wrong = 1 + abs(logarithm + 4) + float(rng.normal(0, 0.02))
    for fold, names in enumerate(study.read_folds().folds, 1):
        cell = study.cell(number, fold)
        epochs = [Epoch(i, 2 / i, 2.5 / i, 0.6, 0.6, 1e-4, 600.0, 60.0, 3.3)
                  for i in range(1, EPOCHS + 1)]  # fmt: skip
        write_epochs(cell.epochs, epochs)
        best, last = (
            Counts(epoch, frame_counts(rng, len(names), LOW_PX, wrong + more),
                   frame_counts(rng, len(names), FULL_PX, wrong + more))
            for epoch, more in ((60, 0.0), (EPOCHS, 0.05))
        )  # fmt: skip
        write_confusion(cell.confusion, Confusion(list(names), best, last))


WATCHED: Final = """
import pathlib, sys
from study import analyze
code = analyze.main()
status = pathlib.Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
sys.exit(code)
"""
"""The command, with its largest resident memory (kB) on the last line. What `wait4` tells of a
child is at least what its parent had when it was started."""


def run(study: Study, figures: bool) -> tuple[float, float]:
    """Seconds and largest resident memory (MB) of the command on a study."""
    words = [sys.executable, "-c", WATCHED, str(study.folder)]
    words += ["--figures" if figures else "--no-figures"]
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    return seconds, int(done.stdout.split()[-1]) / 1000


def measure(folder: Path, rows: int) -> Scale:
    """Make a table, analyse it, and remove it."""
    study = write_table(folder / f"rows_{rows}", rows)
    try:
        sizes = [path.stat().st_size for path in study.folder.glob("v*/f*/confusion.npz")]
        numbers, whole = run(study, figures=False), run(study, figures=True)
    finally:
        shutil.rmtree(study.folder)
    return Scale(rows, len(sizes), sum(sizes) / 1e9, *numbers, *whole)


def show(scales: list[Scale]) -> None:
    """Print a line for each table."""
    table = Table("Rows", "Cells", "Counts (GB)", "Numbers (s)", "Memory (MB)", "With figures (s)",
                  "Memory (MB)")  # fmt: skip
    for one in scales:
        table.add_row(
            str(one.rows), str(one.cells), f"{one.counts_gb:.3f}", f"{one.numbers_s:.1f}",
            f"{one.numbers_mb:.0f}", f"{one.whole_s:.1f}", f"{one.whole_mb:.0f}",
        )  # fmt: skip
    Console().print(table)


def main(
    rows: tuple[int, ...] = (1, 30, 1000),
    folder: Path | None = None,
    record: bool = True,
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Time the analysis of made-up tables.

    Args:
        rows: Sizes of the tables.
        folder: Where they are made; by default the system's folder for temporary files.
        record: Append the figures to benchmarks/results.
        json_: End with one JSON object on the last line.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        scales = [measure(Path(place), count) for count in rows]
    show(scales)
    figures = {"what": "python -m study.analyze on made-up tables", "n": 1,
               "scales": [asdict(one) for one in scales]}  # fmt: skip
    if record:
        append(RESULTS / "analysis_scale.json", {**figures, "environment": environment()})
    if json_:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main, prog="python -m benchmarks.analysis_scale"))
