"""What a whole fold costs an epoch, and what the study costs beside a bare loop over its folds.

    python -m benchmarks.study                      the first two parts
    python -m benchmarks.study --parts epochs       plain fold, ours from PNG files, ours from cache
    python -m benchmarks.study --parts overhead     study.run beside one process a fold
    python -m benchmarks.study --parts daemons      what Ray's own processes cost a training step

The network is narrow and its input small, in all ways the same, so that on a processor the frames
weigh as they do beside a GPU.
"""

import bisect
import contextlib
import functools
import itertools
import math
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import psutil
import torch
import tyro

from benchmarks import plain
from benchmarks.measure import (
    PLAIN_ENVIRONMENT,
    Comparison,
    Options,
    Result,
    Timing,
    alternate,
    beside,
    computed,
    copy_rate,
    frames_of,
    matmul_rate,
    report,
    step_flops,
)
from cityseg import cache
from cityseg import train as trainer
from cityseg.cell import Cell, Epoch, read_epochs
from cityseg.config import Config, parse
from cityseg.data import Frame, image_size, index
from cityseg.errors import user_command
from cityseg.folds import make_folds
from cityseg.memory import keep_freed
from cityseg.samples import TrainBatch
from cityseg.train import fit, use_device

Part = Literal["epochs", "overhead", "daemons"]

CPU: Final = torch.device("cpu")

POLL_S: Final = 0.02
"""Between looks for the first finished epoch."""
TURN_S: Final = 5.0
"""How long Ray's processes go on, and stand still, by turns."""
SETTLE_S: Final = 1.0
"""Of a turn does not count: processes that go on do first what has come up meanwhile."""
BETWEEN_EPOCHS_S: Final = 1.0
"""What lies longer between two steps' ends is validation."""


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    """What a whole fold costs an epoch, and what the study costs beside a bare loop over folds."""

    parts: tuple[Part, ...] = ("epochs", "overhead")
    """What is measured."""
    frames: int = 200
    """Frames of the data set; in the first part, every third validates."""
    height: int = 1024
    """Of the embedded city's frames, in pixels; they are twice as wide."""
    size: tuple[int, int] = (64, 128)
    """Input size, height and width."""
    encoder: str = "resnet18"
    """torchvision's name of the ResNet."""
    width: float = 0.25
    """Factor on the decoder's channels."""
    n: int = 2
    """Epochs timed of each way, in turns, after one that is not."""
    workers: int = 2
    """Processes that load data for the plain fold."""
    folds: int = 2
    """Cells of the study."""
    cell_epochs: int = 4
    """Epochs of a cell: choose as many as give cells of a minute or more."""
    rounds: int = 1
    """Times that the study and the bare loop run, in turns."""
    dashboard: bool = True
    """Whether the study starts Ray's dashboard."""
    shared: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Run the study a second time, with the cores shared among cells as it does by default."""


def measure(options: StudyOptions) -> Result:
    """The parts that are wanted; the headline is the first one's."""
    frames = frames_of(options.data, options.frames, options.height)
    rows: list[Comparison] = []
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cityseg-bench-") as folder:
        home = Path(folder)
        started = time.perf_counter()
        cache.ensure(frames, home / "cache")
        facts["cache built once, s"] = time.perf_counter() - started
        ways = {"epochs": epochs, "overhead": overhead, "daemons": daemons}
        for part in dict.fromkeys(options.parts):
            found, further = ways[part](frames, home, options)
            rows += found
            facts |= further
    return Result(
        name="study",
        headline=rows[0],
        rows=rows[1:],
        facts=facts,
        settings={
            "frames": len(frames),
            "source": list(image_size(frames[0].image)),
            "input": list(options.size),
            "network": f"{options.encoder} width {options.width:g}",
            "threads": torch.get_num_threads(),
            "plain's workers": options.workers,
            "epochs a cell": options.cell_epochs,
            "dashboard": options.dashboard,
        },
    )


def config_of(options: StudyOptions, home: Path, **changes: dict[str, Any]) -> Config:
    """A narrow network on a small input, for all cores."""
    settings: dict[str, dict[str, Any]] = {
        "data": {"input_size": list(options.size)},
        "model": {
            "encoder": options.encoder, "decoder_width": options.width, "weights": "none",
        },
        "train": {"epochs": options.cell_epochs},
        "folds": {"count": options.folds},
        "resources": {
            "cache_dir": str(home / "cache"), "cpus_per_trial": torch.get_num_threads(),
        },
    }  # fmt: skip
    for section, keys in changes.items():
        settings[section] = {**settings[section], **keys}
    return parse(settings, "benchmark")


def epochs(
    frames: list[Frame], home: Path, options: StudyOptions
) -> tuple[list[Comparison], dict[str, Any]]:
    """Seconds an epoch, training and validation: plain, ours from PNG files, ours from the cache.

    Ours also write their state to disk after each epoch.
    """
    train, val = [frame for i, frame in enumerate(frames) if i % 3], frames[::3]
    seen: dict[str, list[Any]] = {"plain": [], "none": [], "disk": []}
    keep_freed()  # as every training on a CPU does
    with beside(plain_fold, train, val, options, environment=PLAIN_ENVIRONMENT) as theirs:
        ours = {how: our_fold(how, train, val, home, options) for how in ("none", "disk")}
        calls = {"plain": theirs, **ours}
        noted = {name: noting(call, seen[name]) for name, call in calls.items()}
        times = alternate(noted, options.n)
    limit = least_epoch_s(train, val, options)
    rows = [
        Comparison(what, "s", times[how], times["plain"], *limit)
        for what, how in {
            "epoch of a fold": "disk", "epoch of a fold, without cache": "none"
        }.items()
    ]  # fmt: skip
    parts = {
        f"{what}, s, plain, without and with cache": [
            Timing.of([getattr(epoch, field) for epoch in seen[name][1:]]).median for name in seen
        ]
        for what, field in {"training": "train_s", "validation": "val_s"}.items()
    }
    return rows, parts


def plain_fold(
    train: Sequence[Frame], val: Sequence[Frame], options: StudyOptions
) -> Callable[[], object]:
    """A call that trains the plain fold for an epoch."""
    trained, validated = ([(frame.image, frame.label) for frame in part] for part in (train, val))
    fold = plain.fold(
        trained, validated, options.size, options.n + 1, workers=options.workers,
        encoder=options.encoder, width=options.width,
    )  # fmt: skip
    return lambda: next(fold)


def our_fold(
    how: str, train: list[Frame], val: list[Frame], home: Path, options: StudyOptions
) -> Callable[[], Epoch]:
    """A call that trains our fold for an epoch."""
    changes = {"data": {"cache": how}, "train": {"epochs": options.n + 1}}
    fold = iter(fit(config_of(options, home, **changes), train, val, Cell(home / how), CPU))
    return lambda: next(fold)


def noting(call: Callable[[], object], seen: list[Any]) -> Callable[[], None]:
    """A call whose answers are kept."""
    return lambda: seen.append(call())


def least_epoch_s(train: list[Frame], val: list[Frame], options: StudyOptions) -> tuple[float, str]:
    """Time of the network's operations at the matmul rate, and of copying all frames once."""
    flops = step_flops(lambda: plain.PlainUNet(options.encoder, options.width), 1, options.size)
    images = len(train) + len(val) / 3  # a forward pass is a third of a step
    height, width = image_size(train[0].image)
    pixels = (len(train) + len(val)) * height * width
    rate = max(matmul_rate(dtype) for dtype in computed().values())
    seconds = images * flops / rate + cache.BYTES_A_PIXEL * pixels / copy_rate()
    return seconds, "FLOPs at matmul rate, frames' copy"


@dataclass(frozen=True)
class Ran:
    """How all cells of a study were trained."""

    wall_s: float
    first_epoch_s: float
    """From the start to the first epoch on disk."""
    first_step_s: float
    """From the start to about the first step: less the first epoch's own time."""
    cells_s: list[float]
    """What each cell's epochs took by themselves."""


def overhead(
    frames: list[Frame], home: Path, options: StudyOptions
) -> tuple[list[Comparison], dict[str, Any]]:
    """Wall seconds of `study.run` beside a bare loop that calls `fit` in one process a fold.

    In both, one cell at a time on all cores, all frames of the train split, and their cache there;
    if so wanted, the study once more, with as many cells at a time as it takes by itself.
    """
    root = frames[0].image.parents[3]
    cache.ensure(index(root, "train"), home / "cache")
    config = config_of(options, home)
    words = () if options.dashboard else ("--no-dashboard",)
    ways: dict[str, Way] = {
        "plain": bare_loop, "ours": functools.partial(study_run, words=words),
    }  # fmt: skip
    if options.shared:
        words = (*words, "resources.cpus_per_trial=null")
        ways["shared"] = functools.partial(study_run, words=words)
    runs: dict[str, list[Ran]] = {name: [] for name in ways}
    calls = {
        name: noting(counted(way, home, root, config), runs[name]) for name, way in ways.items()
    }
    alternate(calls, options.rounds, warmup=0)
    cells = {name: [s for run in ran for s in run.cells_s] for name, ran in runs.items()}
    walls = {name: Timing.of([run.wall_s for run in ran]) for name, ran in runs.items()}
    alone = sum(cells["plain"]) / options.rounds
    where = "bare and in the study" + (", with cores shared last" if options.shared else "")
    rows = [
        Comparison(
            f"study of {options.folds} folds{how} (plain: a bare loop)", "s",
            walls[name], walls["plain"], alone, "epochs alone",
        )
        for name, how in {"ours": "", "shared": ", which share the cores"}.items()
        if name in walls
    ]  # fmt: skip
    return rows, {
        "overhead of the study, % of the bare loop's wall time": (
            100 * (walls["ours"].median / walls["plain"].median - 1)
        ),
        f"s a cell, {where}": [Timing.of(s).median for s in cells.values()],
        "s outside of the epochs, bare and in the study": [
            walls[name].median - sum(cells[name]) / options.rounds for name in ("plain", "ours")
        ],
        **{
            f"s from start to the first {what}, {where}": [
                Timing.of([asdict(run)[field] for run in ran]).median for ran in runs.values()
            ]
            for what, field in {"step": "first_step_s", "epoch": "first_epoch_s"}.items()
        },
    }


Way = Callable[[Path, Path, Config], contextlib.AbstractContextManager[Callable[[], bool]]]
"""From an empty folder, a data set and a configuration: starts it, and asks whether it goes on."""


def counted(way: Way, home: Path, root: Path, config: Config) -> Callable[[], Ran]:
    """A call that trains all cells anew, in a folder of their own."""

    def call() -> Ran:
        with tempfile.TemporaryDirectory(dir=home) as folder:
            return watch(way, Path(folder), root, config)

    return call


def watch(way: Way, folder: Path, root: Path, config: Config) -> Ran:
    """Start, look for the first finished epoch, wait for the end."""
    started = time.perf_counter()
    first_epoch_s, first_s = 0.0, 0.0
    with way(folder, root, config) as goes_on:
        while goes_on():
            if not first_epoch_s and (tables := list(folder.rglob("epochs.csv"))):
                first_epoch_s = time.perf_counter() - started
                first_s = epochs_s(tables[0], 1)
            time.sleep(POLL_S)
    wall_s = time.perf_counter() - started
    cells_s = [epochs_s(table) for table in sorted(folder.rglob("epochs.csv"))]
    if len(cells_s) != config.folds.count:
        raise RuntimeError(f"{len(cells_s)} of {config.folds.count} cells were trained")
    return Ran(wall_s, first_epoch_s, first_epoch_s - first_s, cells_s)


def epochs_s(table: Path, count: int | None = None) -> float:
    """Training and validation time of a cell's (first) epochs."""
    return sum(epoch.train_s + epoch.val_s for epoch in read_epochs(table)[:count])


@contextlib.contextmanager
def study_run(
    folder: Path, root: Path, config: Config, words: tuple[str, ...] = ()
) -> Iterator[Callable[[], bool]]:
    """The command `study.run`, with further words."""
    settings = folder / "bench.yaml"
    settings.write_text(config.to_yaml(), encoding="utf-8")
    command = [
        sys.executable, "-m", "study.run", "--config", str(settings), "--data", str(root),
        "--results", str(folder), *words,
    ]  # fmt: skip
    log = folder / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield lambda: process.poll() is None
        finally:
            if process.poll() is None:
                process.terminate()
            code = process.wait()
    if code:
        raise RuntimeError(f"study.run ended with {code}: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def bare_loop(folder: Path, root: Path, config: Config) -> Iterator[Callable[[], bool]]:
    """One process after the other, each of which calls `fit` for one fold."""
    context = multiprocessing.get_context("spawn")
    numbers = range(1, config.folds.count + 1)
    processes = [
        context.Process(target=bare_fold, args=(folder / f"f{fold}", root, config, fold))
        for fold in numbers
    ]
    queue = iter(processes)
    running = next(queue)
    running.start()

    def goes_on() -> bool:
        nonlocal running
        if running.is_alive():
            return True
        if running.exitcode:
            raise RuntimeError(f"a fold of the bare loop ended with {running.exitcode}")
        following = next(queue, None)
        if following is None:
            return False
        running = following
        running.start()
        return True

    try:
        yield goes_on
    finally:
        if running.is_alive():
            running.terminate()
        running.join()


def bare_fold(folder: Path, root: Path, config: Config, fold: int) -> None:
    """Train one fold, as one would without a study."""
    device = use_device(config.resources)
    frames = index(root, "train")
    folds = make_folds(frames, config.folds.count, config.folds.grouping, config.fold_seed)
    for _ in fit(config, *folds.split(frames, fold), Cell(folder), device):
        pass


def daemons(
    frames: list[Frame], home: Path, options: StudyOptions
) -> tuple[list[Comparison], dict[str, Any]]:
    """A training step on all cores beside a study's Ray, whose processes stand still by turns.

    In one and the same training, and compared turn by turn: a machine that is slow for a while is
    as slow for both.
    """
    root = frames[0].image.parents[3]
    cache.ensure(index(root, "train"), home / "cache")
    ends = home / "ends.txt"
    arguments = (home / "beside", root, config_of(options, home), ends)
    fold = multiprocessing.get_context("spawn").Process(target=timed_fold, args=arguments)
    turns: list[tuple[float, float]] = []
    with idle_ray(options.dashboard) as processes:
        fold.start()
        try:
            while fold.is_alive():
                tell(processes, signal.SIGSTOP if len(turns) % 2 else signal.SIGCONT)
                turns.append((time.time(), cpu_s(processes)))
                fold.join(TURN_S)
        finally:
            tell(processes, signal.SIGCONT)
            fold.terminate()
            fold.join()
    if fold.exitcode:
        raise RuntimeError(f"the training ended with {fold.exitcode}")
    begun = [when for when, _ in turns]
    steps = steps_by_turn([float(line) for line in ends.read_text().split()], begun)
    going, still = ([s for turn in steps[which::2] for s in turn] for which in (0, 1))
    costs = [
        100 * (np.mean(one) / np.mean(other) - 1)
        for one, other in zip(steps[::2], steps[1::2], strict=False)
        if one and other
    ]
    used = [
        100 * (later[1] - former[1]) / (later[0] - former[0])
        for former, later in list(itertools.pairwise(turns))[::2]
    ]
    row = Comparison(
        "training step beside Ray's processes (plain: they stand still)", "ms",
        Timing.of(going).times(1000), Timing.of(still).times(1000),
    )  # fmt: skip
    return [row], {
        "cost of Ray's processes, % of a step's time: mean, its standard error, pairs of turns": [
            float(np.mean(costs)), float(np.std(costs, ddof=1) / math.sqrt(len(costs))), len(costs),
        ],
        "what they take, % of a core": float(np.mean(used)),
    }  # fmt: skip


@contextlib.contextmanager
def idle_ray(dashboard: bool) -> Iterator[list[psutil.Process]]:
    """A study's own Ray, with nothing to do: its processes."""
    from study.resources import Allotment
    from study.tuning import connect

    with connect(None, dashboard, lambda _: Allotment(1, 1, 0, 0)):
        yield psutil.Process().children(recursive=True)


def tell(processes: list[psutil.Process], what: signal.Signals) -> None:
    """Signal those that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(what)


def cpu_s(processes: list[psutil.Process]) -> float:
    """Seconds of a core that those which are still there have taken."""
    times = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times.append(sum(process.cpu_times()[:2]))
    return sum(times)


def timed_fold(folder: Path, root: Path, config: Config, ends: Path) -> None:
    """`bare_fold` that notes when each step ends, in seconds since 1970, a line each."""
    made = trainer.training_step
    with ends.open("w") as file:

        def noted(*args: Any, **kwargs: Any) -> Callable[[TrainBatch], torch.Tensor]:
            step = made(*args, **kwargs)

            def call(batch: TrainBatch) -> torch.Tensor:
                loss = step(batch)
                print(time.time(), file=file)
                return loss

            return call

        trainer.training_step = noted
        bare_fold(folder, root, config, 1)


def steps_by_turn(ends: Sequence[float], begun: Sequence[float]) -> list[list[float]]:
    """Seconds of the steps that lie within each turn, after it has settled.

    Args:
        ends: of all steps, in the order of time.
        begun: when each turn began.
    """
    steps: list[list[float]] = [[] for _ in begun]
    for before, end in itertools.pairwise(ends):
        turn = bisect.bisect(begun, end) - 1
        if turn >= 0 and before >= begun[turn] + SETTLE_S and end - before < BETWEEN_EPOCHS_S:
            steps[turn].append(end - before)
    return steps


@user_command
def main() -> int:
    """Run the command line."""
    options = tyro.cli(StudyOptions, prog="python -m benchmarks.study")
    report(measure(options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
