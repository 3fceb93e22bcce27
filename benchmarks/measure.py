"""What all benchmarks share: timing side by side, the machine's limits, the table, the record.

A benchmark compares costs (seconds, bytes: less is better) of the plain way and of ours, measured
in turns in one run, with what the machine could do at best. It prints a table, appends the figures
to a record in `benchmarks/results`, and with --json ends with one JSON object on one line.
"""

import contextlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import psutil
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cityseg import atomic, minicity
from cityseg.config import City
from cityseg.data import Frame, index
from cityseg.errors import InputError
from cityseg.precision import has_bfloat16

SPREAD: Final = "10th to 90th percentile"
"""What `low` and `high` of a timing are."""

RESULTS: Final = Path(__file__).with_name("results")
"""Folder of the records."""

PLAIN_ENVIRONMENT: Final = {"THP_MEM_ALLOC_ENABLE": "0"}
"""Of a process with the plain way: `cityseg` sets it for torch when it is imported."""

PACKAGES: Final = (
    "torch", "torchvision", "numpy", "opencv-python-headless", "albumentations", "torchmetrics",
    "pillow", "ray", "optuna",
)  # fmt: skip
"""Whose versions are recorded."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every benchmark takes."""

    data: Path | None = None
    """Root of a data set to read frames from; by default frames of the embedded city."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """End with one JSON object on the last line of the output."""
    record: bool = True
    """Append the figures to the record."""
    results: Path = RESULTS
    """Folder of the records."""


@dataclass(frozen=True)
class Timing:
    """One cost, measured several times."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Timing":
        """Median and spread of some values."""
        low, median, high = np.quantile(np.asarray(values, np.float64), (0.1, 0.5, 0.9))
        return cls(float(median), float(low), float(high), len(values))

    def times(self, factor: float) -> "Timing":
        """In another unit: seconds times 1000 are milliseconds."""
        return Timing(self.median * factor, self.low * factor, self.high * factor, self.n)


@dataclass(frozen=True)
class Comparison:
    """One line of a table: a cost of ours, and where there are such, the plain way's and the limit.

    All in one unit; less is better.
    """

    what: str
    unit: str
    ours: Timing
    plain: Timing | None = None
    limit: float | None = None
    """The least that the machine allows, reckoned from rates measured in the same run."""
    limit_of: str = ""
    """How the limit was reckoned."""

    @property
    def ratio(self) -> float | None:
        """Of the medians, plain / ours: how many times cheaper ours is."""
        return self.plain.median / self.ours.median if self.plain else None

    def as_object(self) -> dict[str, Any]:
        """For JSON; what there is not is null."""
        pair = {"plain": self.plain, "ours": self.ours}
        return {
            "what": self.what,
            "unit": self.unit,
            **{name: timing.median if timing else None for name, timing in pair.items()},
            "ratio": self.ratio,
            "limit": self.limit,
            "limit_of": self.limit_of,
            "n": self.ours.n,
            "spread": {
                "what": SPREAD,
                **{name: [t.low, t.high] if t else None for name, t in pair.items()},
            },
        }


@dataclass(frozen=True)
class Result:
    """What a benchmark found."""

    name: str
    """The benchmark's; also of its record."""
    headline: Comparison
    rows: Sequence[Comparison] = ()
    """Further lines of the table."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Further figures and findings, by what they are; plain data, printed as lines."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Further tables, by their titles: rows of values by column; plain data."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was measured: sizes, counts, threads; plain data."""

    def as_object(self) -> dict[str, Any]:
        """For JSON: the headline's figures at the top."""
        return {
            "name": self.name,
            **self.headline.as_object(),
            "rows": [row.as_object() for row in self.rows],
            "facts": dict(self.facts),
            "tables": {title: list(rows) for title, rows in self.tables.items()},
            "settings": dict(self.settings),
        }


def alternate(
    calls: Mapping[str, Callable[[], object]],
    n: int,
    warmup: int = 1,
    wait: Callable[[], object] = lambda: None,
    lead: int = 0,
) -> dict[str, Timing]:
    """Seconds of each call, measured in turns, so that a noisy machine is equally noisy to all.

    Args:
        calls: by name; each does the whole work that is timed.
        n: times that each is timed.
        warmup: turns before, which do not count.
        wait: waits until a device has finished, such as `torch.cuda.synchronize`.
        lead: times that a call runs untimed in each turn, before it is timed: where it is to be
            found as after itself, not as after the others.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(warmup + n):
        shift = turn % len(names)  # none always comes after the same
        for name in names[shift:] + names[:shift]:
            for _ in range(lead):
                calls[name]()
            wait()
            started = time.perf_counter()
            calls[name]()
            wait()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing.of(values) for name, values in seconds.items()}


def matmul_rate(
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    side: int = 2048,
    n: int = 7,
    wait: Callable[[], object] = lambda: None,
) -> float:
    """FLOP/s of multiplying two square matrices: the best of `n`, with torch's threads of now."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    return 2 * side**3 / _best(lambda: torch.mm(a, b, out=product), n, wait)


def computed() -> dict[str, torch.dtype]:
    """Precisions of this processor: one without bfloat16 takes a minute for one product in it."""
    found = {"float32": torch.float32}
    return found | ({"bfloat16": torch.bfloat16} if has_bfloat16(torch.device("cpu")) else {})


def copy_rate(
    device: torch.device | str = "cpu",
    size: int = 2**28,
    n: int = 7,
    wait: Callable[[], object] = lambda: None,
) -> float:
    """Bytes/s of a copy from memory to memory: the best of `n`. A copied byte counts once."""
    source, copied = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return size / _best(lambda: copied.copy_(source), n, wait)


def step_flops(make: Callable[[], nn.Module], batch: int, size: tuple[int, int]) -> int:
    """Floating-point operations of a network's forward and backward pass, two a multiply-add.

    Counted by torch on tensors without content; the optimiser's few are left out.
    """
    with torch.device("meta"):
        model = make()
        image = torch.empty(batch, 3, *size)
    counter = FlopCounterMode(display=False)
    with counter:
        model(image).sum().backward()
    return counter.get_total_flops()


def decode_seconds(frames: Sequence[Frame], n: int) -> Timing:
    """Seconds to decode a frame's two PNG files by Pillow, and nothing else."""
    seconds: list[float] = []
    for i in range(n + 1):
        frame = frames[i % len(frames)]
        started = time.perf_counter()
        for path in (frame.image, frame.label):
            with Image.open(path) as image:
                image.load()
        seconds.append(time.perf_counter() - started)
    return Timing.of(seconds[1:])


def _best(call: Callable[[], object], n: int, wait: Callable[[], object]) -> float:
    """Seconds of the fastest run, after one that does not count."""
    seconds: list[float] = []
    for _ in range(n + 1):
        wait()
        started = time.perf_counter()
        call()
        wait()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads of torch, and no further ones of OpenCV, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    with contextlib.suppress(ImportError):
        import cv2

        cv2.setNumThreads(0)  # none of its own
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def beside(
    make: Callable[..., Callable[[], object]], *args: Any, environment: Mapping[str, str] = {}
) -> Iterator[Callable[[], object]]:
    """A call that runs in a process of its own, which waits idle between two calls.

    For what is set for a whole process, such as how torch takes its memory.

    Args:
        make: at the top of a module; called in the new process, returns what is called there.
        args: of `make`; must be picklable, as what the call returns.
        environment: variables of the new process, over those of this one.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, args))
    with _environment(environment):
        process.start()
    theirs.close()  # so that the death of the process is seen here

    def call() -> object:
        ours.send(True)
        error, answer = ours.recv()
        if error:
            raise RuntimeError(f"in the process beside: {error}")
        return answer

    try:
        yield call
    finally:
        ours.close()
        process.join()


def _serve(pipe: Connection, make: Callable[..., Callable[[], object]], args: Any) -> None:
    """Answer calls until the other end is closed."""
    call = None
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        try:
            call = call or make(*args)
            answer = (None, call())
        except Exception as error:  # all of them: they are raised at the other end
            answer = (repr(error), None)
        pipe.send(answer)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def frames_of(root: Path | None, count: int, height: int = 1024) -> list[Frame]:
    """The first frames of a data set's train split, or of an embedded city of that height.

    A city is drawn once and kept in the cache folder.

    Raises:
        InputError: no such data set, or fewer frames in it.
    """
    if root is None:
        city = City(height=height, cities=2, frames_per_city=-(-count // 2), val_frames=1)
        root = minicity.ensure(city)
    frames = index(root, "train")
    if len(frames) < count:
        raise InputError(f"frames in {root}", got=len(frames), expected=f"at least {count}")
    return frames[:count]


def report(result: Result, options: Options) -> None:
    """Print a result, and put it on record, as the options say."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(table_of(result))
    for title, rows in result.tables.items():
        console.print(further_table(title, rows))
    for what, value in result.facts.items():
        console.print(f"{what}: {value_text(value)}", markup=False)
    found = result.as_object()
    if options.record:
        path = options.results / f"{result.name}.json"
        append(path, {**found, "environment": environment()})
        console.print(f"recorded: {path}", markup=False)
    if options.json:
        print(json.dumps(found, allow_nan=False), flush=True)


def table_of(result: Result) -> Table:
    """The headline and the further lines, as a table."""
    table = Table(
        title=f"{result.name}: medians ({SPREAD})", caption=settings_text(result.settings)
    )
    table.add_column("what")
    for name in ("plain", "ours", "ratio", "limit"):
        table.add_column(name, justify="right")
    table.add_column("limit is")
    table.add_column("n", justify="right")
    for row in (result.headline, *result.rows):
        table.add_row(
            f"{row.what}, {row.unit}",
            _timing_text(row.plain),
            _timing_text(row.ours),
            "" if row.ratio is None else f"{row.ratio:.2f}x",
            "" if row.limit is None else f"{row.limit:.3g}",
            row.limit_of,
            str(row.ours.n),
        )
    return table


def further_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Rows of values by column; the first row says which columns there are."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(value_text(row[name]) for name in rows[0]))
    return table


def settings_text(settings: Mapping[str, Any]) -> str:
    """On one line."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in settings.items())


def value_text(value: Any) -> str:
    """Numbers to four digits; lists and mappings by their values."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {value_text(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return " ".join(value_text(inner) for inner in value)
    return str(value)


def _timing_text(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return f"{timing.median:.3g} ({timing.low:.3g}-{timing.high:.3g})"


def append(path: Path, run: Mapping[str, Any]) -> None:
    """Add one run to a record, a JSON list, which is replaced whole.

    Raises:
        InputError: what is there is no such list.
    """
    try:
        runs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except ValueError as error:
        raise InputError(f"{path} is not a record", got=str(error)) from None
    if not isinstance(runs, list):
        raise InputError(f"{path} is not a record", got=type(runs).__name__, expected="a list")
    text = json.dumps([*runs, run], indent=1, allow_nan=False)
    atomic.write_text(path, text + "\n")


def environment() -> dict[str, Any]:
    """On what was measured: machine, versions, state of the sources, and when."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", f":!{RESULTS.relative_to(_root())}")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
    }


def _root() -> Path:
    return Path(__file__).parents[1]


def _git(*words: str) -> str | None:
    """What git answers about the sources; None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *words],  # nosec B607 # the user's own git
            cwd=_root(), capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
