"""`python -m study.run`: k-fold cross-validation of rows, one Ray Tune trial a cell, resumable."""

import functools
import inspect
import json
import logging
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro
from rich.console import Console

from cityseg import collector, commandline
from cityseg.cache import frame_reader
from cityseg.config import Config, shown
from cityseg.data import index, resolved
from cityseg.errors import INTERRUPTED, InputError, user_command
from cityseg.plan import Plan, resolve
from study.analysis import fold_table, read_variant, variant_table
from study.begin import begin, only_driver
from study.evidence import comparison_table
from study.home import Home, open_home
from study.keep import tidy
from study.objects import url_of
from study.progress import Board
from study.resources import Allotment, Machine, allot, check_disk, disk_of
from study.space import Search, extremes, grid_of, read_search
from study.tables import fold_caption, fold_text, show, show_rows

CORRECTED_ROWS: Final = 100
"""Rows up to which the best one's score is corrected here; of more, `study.analyze` does it."""


@dataclass(frozen=True)
class Arguments:
    """Cross-validate a configuration: train and score one network for each fold.

    With --variants or --grid, so are further rows beside it, drawn from search.space by Optuna or
    given. Starting the same study again continues it from the last finished epoch of every cell.
    """

    overrides: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="KEY=VALUE")
    ] = ()
    """Settings that replace the configuration's, such as train.lr=3e-4."""
    folds: int | None = None
    """Number of folds (folds.count)."""
    config: Path | None = None
    """YAML file; by default configs/paper.yaml, or configs/demo.yaml for the embedded city."""
    data: Path | None = None
    """Root of a data set in the Cityscapes layout; by default $CITYSCAPES_DATASET, else the
    embedded synthetic city."""
    name: str | None = None
    """The study's folder within --results; by default named after the configuration."""
    results: Path = Path("results")
    """Folder of all studies, or a URL such as s3://bucket/studies."""
    grouping: Literal["frames", "cities"] | None = None
    """What is kept together in one fold (folds.grouping)."""
    seed: int | None = None
    """Seed of all random draws (seed)."""
    folds_file: Path | None = None
    """Your own split: JSON such as {"folds": [[frame names], [frame names]]}."""
    dashboard: bool = True
    """Ray's dashboard, on 127.0.0.1."""

    variants: int | None = None
    """Rows in all, the configuration as given included (search.variants)."""
    grid: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=[..]")
    ] = ()
    """Rows by hand: all combinations, such as --grid train.lr=[1e-4,3e-4]."""
    prune: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Stop rows that fall behind the leading ones (search.prune)."""
    sampler: Literal["tpe", "random", "gp"] | None = None
    """What draws rows from search.space (search.sampler)."""
    storage: str | None = None
    """Optuna's storage: sqlite or journal, both in the study's folder, or a database's URL such as
    postgresql://user:password@host/database. Passwords are not written down."""
    keep_weights: str | None = None
    """Rows whose best weights are kept: best, all, none or top-N (search.keep_weights)."""
    gpus_per_trial: float | None = None
    """Share of a GPU for one cell: 0.33 packs three onto one (resources.gpus_per_trial)."""
    cache_dir: Path | None = None
    """Folder of the decoded frames, on a local disk of each machine (resources.cache_dir)."""
    address: str | None = None
    """Ray cluster to run on: auto, HOST:PORT, or ray://HOST:PORT; by default a Ray of its own. All
    machines must see --results, or reach its URL."""
    metrics: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Say where Prometheus finds this study's metrics."""

    def words(self) -> tuple[str, ...]:
        """The options that are settings, as such."""
        settings = {
            "search.variants": self.variants,
            "search.prune": self.prune or None,
            "search.sampler": self.sampler,
            "search.keep_weights": self.keep_weights,
            "resources.gpus_per_trial": self.gpus_per_trial,
            "resources.cache_dir": None if self.cache_dir is None else str(self.cache_dir),
        }
        words = tuple(f"{k}={json.dumps(v)}" for k, v in settings.items() if v is not None)
        return (*words, *self.overrides)


@user_command
def main() -> int:
    """Run the command line; returns its exit code."""
    arguments = commandline.read(
        Arguments, prog="python -m study.run", description=inspect.getdoc(Arguments)
    )
    console = Console(soft_wrap=True, highlight=False)
    show_log()
    plan = make_plan(arguments)
    console.print(f"configuration: {plan.source}", plan.describe_data(), sep="\n", markup=False)
    home = home_of(arguments, plan)
    with only_driver(home.study), home.driving():
        if not (home.study.has_epochs() and is_over(Board.read(home.study))):
            # before any frame is decoded or anything written; how many rows is checked later
            fetch_encoders(read_search(plan.search, plan.config, there=1), plan.config)
        local = arguments.address is None  # elsewhere, each machine decodes when it needs them
        begin(home.study, plan, arguments.folds_file, recorded(arguments.storage), decode=local)
        home.push()
        console.print(home.study.read_folds().describe(), markup=False)
        run_cells(home, console, arguments)
        return conclude(home, console)


def show_log() -> None:
    """What the library says of long work: building the embedded city, decoding frames."""
    log = logging.getLogger("cityseg")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)


def make_plan(arguments: Arguments) -> Plan:
    """Settle configuration, data and the rows' section from what was typed.

    Raises:
        InputError: a bad setting, or no data set there.
    """
    plan = resolve(
        arguments.config,
        arguments.data,
        arguments.folds,
        arguments.grouping,
        arguments.seed,
        arguments.words(),
    )
    if arguments.grid:
        return replace(plan, search={**plan.search, "grid": grid_of(arguments.grid)})
    return plan


def recorded(storage: str | None) -> str | None:
    """A storage as it may stand in the study's record.

    Raises:
        InputError: no storage's name.
    """
    if storage is None:
        return None
    from study.storage import without_password  # Optuna takes a second to import

    return without_password(storage)


def home_of(arguments: Arguments, plan: Plan) -> Home:
    """The study's home.

    Raises:
        InputError: a name that is not one folder's, or a URL that cannot be used.
    """
    name = plan.source.stem if arguments.name is None else arguments.name
    if not name or Path(name).name != name or name.startswith(".") or not name.isprintable():
        raise InputError("--name", got=shown(name), expected="the name of one folder")
    url = url_of(arguments.results)
    return open_home(f"{url}/{name}" if url else str(resolved(arguments.results / name)))


def fetch_encoders(search: Search, config: Config) -> None:
    """Have the first weights of all rows' encoders here, once, before all cells want them.

    Raises:
        InputError: they are not to be had.
    """
    with collector.paused():
        from cityseg.model import encoder_weights  # with torch: slow to load

    for model in dict.fromkeys(row.model for row in extremes(search, config)):
        encoder_weights(model)


def is_over(board: Board) -> bool:
    """Whether all rows that are wanted are there, and none of them is to be run any more."""
    closed = all(row.status in ("done", "pruned") for row in board)
    return closed and len(board.rows) >= (board.record.search.variants or 1)


def run_cells(home: Home, console: Console, arguments: Arguments) -> None:
    """Train all cells that are not done; returns early when interrupted.

    Raises:
        InputError: the encoder's weights, the disk space, the storage or the cluster are not to be
            had.
    """
    board = Board.read(home.study)
    if is_over(board):
        tidy(board)  # it may have been told to keep less
        home.tidy(board)
        return
    with collector.paused():
        from study import tuning  # Ray, Optuna: slow to load, and not needed before

    search, base = board.record.search, board.record.config
    fetch_encoders(search, base)  # those of a study that was over and has grown are not here yet
    configs = extremes(search, base)
    if arguments.address is None:  # elsewhere, each machine does so when it needs them
        decode(board)
    settle = functools.partial(settle_resources, home, board, configs, console)
    with tuning.connect(arguments.address, arguments.dashboard, settle) as cluster:
        lines = tuning.where_to_watch(cluster, arguments.metrics, url_of(home.where))
        console.print(*lines, sep="\n", markup=False)
        tuning.run(home, board, cluster, console, arguments.storage)


def decode(board: Board) -> None:
    """Decode the study's frames, if that was not done before: here, and not by the first cells.

    Raises:
        InputError: a frame that cannot be read, or no room.
    """
    data = board.record.data
    train, val = board.study.folds_of(board.record).split(index(data.root, "train"), 1)
    frame_reader([*train, *val], board.record.config)


def settle_resources(
    home: Home, board: Board, configs: list[Config], console: Console, machines: list[Machine]
) -> Allotment:
    """Share the machines among the study's cells, and show it; the number of threads is recorded.

    Raises:
        InputError: the disk cannot hold the cells.
    """
    record, search = board.record, board.record.search
    rows, folds = max(search.variants or 1, len(board.rows)), len(board.folds)
    allotment = allot(configs, rows * folds, machines, record.cpus_per_trial)
    closed = sum(row.status in ("done", "pruned") for row in board)
    disk = disk_of(configs, search.kept_rows, rows - closed, folds, allotment.slots)
    check_disk(board.study.folder, disk, search.keep_weights)
    cells = f"cells: {rows} rows x {folds} folds" + (f", {closed} rows closed" if closed else "")
    lines = (cells, allotment.describe(machines), disk.describe(search.keep_weights))
    console.print(*lines, sep="\n", markup=False)
    board.record = record.model_copy(update={"cpus_per_trial": allotment.cpus})
    board.study.write(board.record)
    home.push()
    return allotment


def conclude(home: Home, console: Console) -> int:
    """Print how the study stands and where it lies; 0 only if every row is done or pruned."""
    study = home.study
    board = Board.read(study)
    several = len(board.rows) > 1
    if several:
        rows = variant_table(study)
        few = len(rows.rows) <= CORRECTED_ROWS
        compared = comparison_table(rows) if few else None
        show_rows(console, rows, compared.selection if compared else None)
    else:
        table = fold_table(read_variant(study))
        show(console, fold_text(table), fold_caption(table))
    where = shlex.quote(home.where)
    console.print(f"all of it is in {where}", markup=False)
    statuses = {row.status for row in board}
    unasked = len(board.rows) < (board.record.search.variants or 1)
    if statuses <= {"done", "pruned"} and not unasked:
        console.print(f"figures, tables: python -m study.analyze {where}", markup=False)
        return 0
    what = "rows" if several else "folds"
    console.print(f"not all {what} are done; continue with the same command", style="bold")
    return 1 if statuses <= {"done", "pruned", "failed"} and not unasked else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
