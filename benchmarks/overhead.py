"""What the study's bookkeeping costs beside Ray's own, as the study grows.

    python -m benchmarks.overhead --variants 1000

Runs the same stub cells (one epoch, no training; each writes the files of a finished cell) twice in
one go: by this project's search, and by plain Ray Tune with OptunaSearch inside Repeater. Actors
are reused in both, so that the start of a process a cell does not hide what is measured.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable as Function
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from rich.console import Console
from rich.table import Table

from cityseg.cell import Cell, Confusion, Counts, Epoch, write_confusion, write_epochs
from cityseg.config import Config
from study import tuning
from study.advisor import Advisor
from study.console import Watch
from study.keep import tidy
from study.progress import Board, RowProgress
from study.resources import Allotment
from study.schedule import Schedule
from study.search import FoldScheduler, FoldSearch, Report
from study.space import read_search
from study.store import DataRecord, Study, StudyRecord
from study.trial import trial_name

# Ray's environment is set by study.tuning, before these are imported
from ray import tune  # isort: skip
from ray.tune import Callback  # isort: skip
from ray.tune.search import Repeater  # isort: skip
from ray.tune.search.optuna import OptunaSearch  # isort: skip

FOLDS = 3
SPACE = {
    "train.lr": {"low": 1e-5, "high": 1e-2, "log": True},
    "model.dropout": {"low": 0.0, "high": 0.5},
}


@dataclass
class Log:
    """Times of one run, by its variants."""

    started: float = field(default_factory=time.perf_counter)
    cells: list[float] = field(default_factory=list)
    """Seconds from the start to the end of each cell."""
    rss_mb: list[float] = field(default_factory=list)
    """Memory of the driver at the end of each cell."""
    ask_s: list[float] = field(default_factory=list)
    tell_s: list[float] = field(default_factory=list)

    def cell(self) -> None:
        """A cell has ended."""
        self.cells.append(time.perf_counter() - self.started)
        self.rss_mb.append(psutil.Process().memory_info().rss / 1e6)


def timed(times: list[float], call: Function[..., Any]) -> Function[..., Any]:
    """The call, with its seconds noted."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            times.append(time.perf_counter() - started)

    return wrapper


def write_cell(folder: Path, lr: float, fold: int) -> float:
    """The files of a finished cell, of which the weights hold nothing, and its score."""
    score = float(np.exp(-((np.log10(lr) + 3.5) ** 2))) / 2 + fold / 100
    cell = Cell(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_epochs(cell.epochs, [Epoch(1, 1.0, 1.0, score, score, lr, 1.0, 1.0, 1.0)])
    counts = Counts(1, *(np.ones((8, 19, 19), np.int64) for _ in range(2)))
    cell.best_weights.write_bytes(b"")
    write_confusion(cell.confusion, Confusion([f"frame{i}" for i in range(8)], counts, counts))
    return score


def our_cell(trial: dict[str, Any]) -> None:
    """Stands for `study.trial.run_cell`."""
    study = Study(Path(trial["study"]))
    row, cell = study.row(trial["variant"]), study.cell(trial["variant"], trial["fold"])
    score = write_cell(cell.folder, row.parameters.get("train.lr", 1e-4), trial["fold"])
    tune.report({"epoch": 1, "score": score})


def plain_cell(trial: dict[str, Any]) -> None:
    """The same for plain Tune."""
    fold = trial["__trial_index__"]
    name = f"{trial['train.lr']!r}_{fold}"
    score = write_cell(Path(trial["study"]) / name, trial["train.lr"], fold)
    tune.report({"epoch": 1, "score": score})


def ours(variants: int, folder: Path, slots: int) -> Log:
    """A study of this project."""
    study = Study(folder / "ours")
    config = Config()
    search = read_search({"variants": variants, "space": SPACE}, config)
    data = DataRecord(root=folder, kind="other", frames=8, cities={}, fingerprint="0")
    study.write(
        StudyRecord(
            name="ours", created="", command="", data=data, folds_hash="0" * 64, config=config,
            search=search, versions={}, hardware={},
        )
    )  # fmt: skip
    board = Board.read(study)
    advisor = Advisor(study, board.record, "sqlite")
    log = Log()
    advisor.propose = timed(log.ask_s, advisor.propose)
    advisor.mirror = timed(log.tell_s, advisor.mirror)
    with (folder / "ours.txt").open("w") as file:
        watch = Watch(board, Console(file=file), slots)
        bare: set[int] = set()

        def closed(row: RowProgress) -> None:
            watch.ended(row.variant)
            tidy(board, bare)

        schedule = Schedule(board, advisor, closed)
        search_alg = FoldSearch(schedule, None)  # a cell ahead, as Repeater: actors can be reused
        run_tuner(
            our_cell, {"study": str(study.folder)}, folder, variants * FOLDS,
            [Report(watch, search_alg.start), Ended(log)],
            search_alg=search_alg, scheduler=FoldScheduler(schedule, watch),
            trial_name_creator=lambda trial: trial_name(trial.config),
        )  # fmt: skip
    done = sum(row.status == "done" for row in Board.read(study))
    assert done == variants, f"{done} of {variants} rows done"
    return log


class TimedOptunaSearch(OptunaSearch):
    """Notes how long its proposals and reports take; Tune pickles it, so the notes lie outside."""

    log = Log()

    def suggest(self, trial_id: str) -> Any:
        """Propose."""
        return timed(self.log.ask_s, super().suggest)(trial_id)

    def on_trial_complete(self, *args: Any, **kwargs: Any) -> None:
        """Take up a score."""
        timed(self.log.tell_s, super().on_trial_complete)(*args, **kwargs)


def plain(variants: int, folder: Path) -> Log:
    """Ray Tune's own: OptunaSearch inside Repeater."""
    space = {
        "train.lr": FloatDistribution(1e-5, 1e-2, log=True),
        "model.dropout": FloatDistribution(0.0, 0.5),
    }
    log = TimedOptunaSearch.log = Log()
    storage = RDBStorage(f"sqlite:///{folder / 'plain.db'}")
    search = TimedOptunaSearch(space, metric="score", mode="max", storage=storage)
    run_tuner(
        plain_cell, {"study": str(folder / "plain")}, folder, variants * FOLDS, [Ended(log)],
        search_alg=Repeater(search, repeat=FOLDS),
    )  # fmt: skip
    return log


class Ended(Callback):
    """Notes the end of each trial."""

    def __init__(self, log: Log):
        self.log = log

    def __getstate__(self) -> dict[str, object]:
        """Tune pickles a copy that is never used."""
        return {}

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A cell has ended."""
        self.log.cell()


def run_tuner(
    stub: Function[[dict[str, Any]], None],
    space: dict[str, Any],
    folder: Path,
    samples: int,
    callbacks: list[Any],
    **how: Any,
) -> None:
    """Run stub cells on one CPU each, in processes that are used again."""
    tune.Tuner(
        tune.with_resources(stub, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(num_samples=samples, reuse_actors=True, **how),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), callbacks=callbacks, verbose=0),
    ).fit()


def rows_of(log: Log, variants: int, blocks: int = 5) -> list[dict[str, float]]:
    """Means over consecutive blocks of the run."""
    rows: list[dict[str, float]] = []
    for block in np.array_split(np.arange(variants * FOLDS), blocks):
        first, last = int(block[0]), int(block[-1])
        asks = log.ask_s[first // FOLDS : last // FOLDS + 1]
        tells = log.tell_s[len(log.tell_s) * first // (variants * FOLDS) :][: len(asks)]
        seconds = (log.cells[last] - log.cells[first]) / (last - first)
        rows.append({
            "variants": (last + 1) // FOLDS, "s_per_cell": seconds,
            "ask_ms": 1e3 * float(np.mean(asks)), "tell_ms": 1e3 * float(np.mean(tells)),
            "rss_mb": log.rss_mb[last],
        })  # fmt: skip
    return rows


def main(variants: int = 1000, slots: int = 2, out: Path | None = None) -> int:
    """Measure both, one after the other.

    Args:
        variants: Rows of the study, of three folds each.
        slots: Cells at a time.
        out: JSON file for the figures.
    """
    with tempfile.TemporaryDirectory(prefix="cityseg-overhead-") as name:
        folder = Path(name)
        tables: dict[str, list[dict[str, float]]] = {}
        for label, run in {
            "plain Tune, OptunaSearch in Repeater": lambda: plain(variants, folder),
            "this project": lambda: ours(variants, folder, slots),
        }.items():
            with tuning.connect(None, False, lambda _: Allotment(slots, 1, 0, 0)):
                tables[label] = rows_of(run(), variants)
            show(label, tables[label])
    if out:
        out.write_text(json.dumps(tables, indent=2))
    return 0


def show(label: str, rows: list[dict[str, float]]) -> None:
    """Print one table."""
    table = Table(title=f"{label} ({FOLDS} folds; means of each block)")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
