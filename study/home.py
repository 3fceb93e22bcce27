"""Where a study is at home: in a folder that all its machines see, or at a URL.

One at a URL is worked on in folders of the machines' own, below the cache folder, each made equal
to the URL before it is used; they may be deleted whenever nothing runs. The URL holds a mirror
(study.mirror) of the study's own files, written by its one driver, and one of each cell, written
by the worker that trains it, after each epoch and before the driver hears of it.
"""

import contextlib
import hashlib
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, Literal

import filelock

from cityseg import atomic
from cityseg.data import cache_folder
from cityseg.errors import InputError
from study.mirror import Mirror, TakenOverError, matches
from study.objects import Objects, StoreError, url_of
from study.owner import is_driven, owning, sharing
from study.progress import Board
from study.store import Study, variant_name

Role = Literal["driver", "remote-driver", "worker", "reader"]
"""Who works in a folder: processes of different roles may be at work on one machine."""

STUDY_FILES: Final = (
    "study.yaml", "folds.json", "v*/row.yaml", "v*/pruned.txt", "optuna.db", "optuna.journal"
)  # fmt: skip
TABLE_FILES: Final = ("config.yaml", "epochs.csv", "failure.txt", "confusion.npz")
"""Of a cell, all that the study's table and its scores are made from."""
SHOWN_FILES: Final = (*TABLE_FILES, "predictions/*.png", "tensorboard/events*")
HEAVY_FILES: Final = ("last/state.pt", "best.safetensors")
CELL_FILES: Final = (*SHOWN_FILES, *HEAVY_FILES)

LOCK_TIMEOUT_S: Final = 120
"""How long a cell's folder that another process of this machine holds is waited for."""
THREADS: Final = 16
"""Cells that are pulled at a time: most of it is waiting."""
PULL_LOCK: Final = ".pull.lock"
"""In a study's folder: held while files are fetched into it."""


class Home:
    """A study in a folder that all its machines see: there is nothing to pass on."""

    poll_s: float = 2
    """Between two looks at a study that runs elsewhere."""
    owner_id: str = ""
    """By which another machine joins in the driving."""

    def __init__(self, study: Study):
        self.study = study
        """The study's folder, here."""
        self.where = str(study.folder)
        """The folder or URL, as users know it and workers are told it."""

    def driving(self) -> AbstractContextManager[None]:
        """Be the study's one driver; its lock is held. In the end nothing of it is left.

        Raises:
            InputError: another driver is at work.
        """
        return nullcontext()

    def joining(self, owner_id: str) -> AbstractContextManager[None]:
        """Drive in the name of a driver elsewhere."""
        return nullcontext()

    def is_driven(self) -> bool | None:
        """Whether a driver runs the study; None where that cannot be told."""
        return is_held(self.study.lock_file)

    def training(self, variant: int, fold: int) -> AbstractContextManager[Callable[[], None]]:
        """Be the one trainer of a cell; yields what commits its files as they stand."""
        return nullcontext(lambda: None)

    def pull(self, patterns: Sequence[str] = TABLE_FILES) -> None:
        """Fetch what others have committed: the study's files, and these of all cells."""

    def pull_cell(self, variant: int, fold: int) -> None:
        """Fetch what a cell's table needs."""

    def push(self) -> None:
        """Commit the study's own files."""

    def fail(self, variant: int, fold: int, reason: str) -> None:
        """Write down why a cell failed whose worker could not."""

    def tidy(self, board: Board) -> None:
        """Remove the large files of what is finished and not kept, as `study.keep` does here."""


class RemoteHome(Home):
    """A study at a URL."""

    poll_s = 15

    def __init__(self, url: str, folder: Path):
        """Nothing is asked of the store yet.

        Args:
            url: of the study.
            folder: to work in, made if need be.

        Raises:
            InputError: no such file system, or the folder cannot be made.
        """
        super().__init__(Study(folder, url))
        self.where = url
        self.objects = Objects(url)
        self._own = Mirror(self.objects, "study", folder, STUDY_FILES)
        self._cells: dict[tuple[int, int], Mirror] = {}
        make(folder)

    @contextlib.contextmanager
    def driving(self) -> Iterator[None]:
        """Be the study's one driver, with the folder as the URL has it."""
        with owning(self.objects, self.study.folder) as self.owner_id:
            self._begin_driving()
            yield

    @contextlib.contextmanager
    def joining(self, owner_id: str) -> Iterator[None]:
        """Drive in the name of a driver elsewhere, with the folder as the URL has it."""
        with sharing(self.objects, owner_id):
            self._begin_driving()
            yield

    def is_driven(self) -> bool:
        """Whether a driver has given a sign of life lately."""
        return is_driven(self.objects)

    @contextlib.contextmanager
    def training(self, variant: int, fold: int) -> Iterator[Callable[[], None]]:
        """Be the one trainer of a cell, from its last committed epoch, wherever that was made.

        A finished cell's folder is removed here in the end.
        """
        cell = self.study.cell(variant, fold)
        with _held(cell.folder):
            self._forget_idle_cells()
            with self._pulling():
                self._own.pull(("study.yaml", "folds.json", f"{variant_name(variant)}/row.yaml"))
            mirror = self._cell(variant, fold)
            mirror.claim(without=("failure.txt",))
            yield mirror.commit
            if cell.status() == "done":
                shutil.rmtree(cell.folder)

    def pull(self, patterns: Sequence[str] = TABLE_FILES) -> None:
        """Fetch what others have committed; only of what has changed since the last time."""
        with self._pulling():
            own, cells = _newest(self.objects.names())
            self._own.pull(number=own)
            there = {self.study.cell(*cell).folder for cell in cells}
            for folder in set(self.study.folder.glob("v*/f*")) - there:
                shutil.rmtree(folder)

            def pull(cell: tuple[int, int]) -> None:
                mirror = self._cell(*cell)
                if mirror.base.number != cells[cell]:
                    mirror.pull(patterns, cells[cell])

            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(pull, cells))

    def pull_cell(self, variant: int, fold: int) -> None:
        """Fetch what a cell's table needs."""
        self._cell(variant, fold).pull(TABLE_FILES)

    def push(self) -> None:
        """Commit the study's own files, if any has changed or another driver wrote them last.

        Raises:
            TakenOverError: another driver has committed since.
            StoreError: the store cannot be used.
        """
        self._own.commit()

    def fail(self, variant: int, fold: int, reason: str) -> None:
        """Write down why a cell failed whose worker could not; not if it goes on nevertheless."""
        self.pull_cell(variant, fold)
        atomic.write_text(self.study.cell(variant, fold).failure, reason + "\n")
        with contextlib.suppress(TakenOverError):
            self._cell(variant, fold).amend(add=["failure.txt"])

    def tidy(self, board: Board) -> None:
        """Remove the large files of what is finished and not kept.

        A cell that its worker commits at that moment is left for the next time.
        """
        for variant, fold in surplus(board):
            mirror = self._cell(variant, fold)
            if any(matches(name, HEAVY_FILES) for name in mirror.base.files):
                with contextlib.suppress(TakenOverError):
                    self.pull_cell(variant, fold)
                    mirror.amend(drop=HEAVY_FILES)

    def _begin_driving(self) -> None:
        for path in self.study.folder.glob("optuna.db-*"):  # of a file that is about to change
            path.unlink()
        self.pull()

    def _cell(self, variant: int, fold: int) -> Mirror:
        folder = self.study.cell(variant, fold).folder
        place = folder.relative_to(self.study.folder).as_posix()
        new = Mirror(self.objects, place, folder, CELL_FILES)
        return self._cells.setdefault((variant, fold), new)

    def _pulling(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self.study.folder / PULL_LOCK)

    def _forget_idle_cells(self) -> None:
        """Cells that are trained elsewhere now, or no longer: the disk would fill up with them."""
        for folder in self.study.folder.glob("v*/f*"):
            with contextlib.suppress(filelock.Timeout), _lock_of(folder).acquire(timeout=0):
                shutil.rmtree(folder)


def open_home(where: str, role: Role = "driver") -> Home:
    """The home of the study in a folder or at a URL.

    Raises:
        InputError: the URL cannot be used, or there is no room for a folder to work in.
    """
    url = url_of(where)
    if url is None:
        return Home(Study(Path(where)))
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    return RemoteHome(url, cache_folder() / "studies" / digest / role / url.rpartition("/")[2])


def make(folder: Path) -> None:
    """Make a folder, if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {folder}", got=error.strerror) from None


def studies_at(url: str) -> list[str]:
    """Names of the studies below a URL.

    Raises:
        StoreError: the store cannot be used.
    """
    names = (name.split("/") for name in Objects(url).names())
    return sorted({parts[0] for parts in names if len(parts) == 3 and parts[1] == "study"})


def is_held(lock_file: Path) -> bool | None:
    """Whether a process holds a lock; None where it may not be tried.

    A lock that is free is held by us for a moment, as nothing else tells on every file system.
    """
    if not lock_file.is_file():
        return False
    try:
        with filelock.FileLock(lock_file).acquire(blocking=False):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return None


def surplus(board: Board) -> list[tuple[int, int]]:
    """(variant, fold) of the cells whose large files `study.keep.tidy` removes from a folder."""
    done = [row for row in board if row.status == "done"]
    scores = {row.variant: row.score(board.objective) for row in done}
    ranks = {v: math.inf if math.isnan(score) else -score for v, score in scores.items()}
    kept = sorted(ranks, key=lambda variant: (ranks[variant], variant))
    closed = [row.variant for row in board if row.status in ("done", "pruned")]
    lost = {*closed} - {v for n, v in enumerate(kept) if n < board.record.search.kept_rows}
    return [(variant, fold) for variant in sorted(lost) for fold in board.folds]


def _newest(names: list[str]) -> tuple[int | None, dict[tuple[int, int], int]]:
    """Numbers of the newest heads: of the study's own files, and of the cells."""
    own: int | None = None
    cells: dict[tuple[int, int], int] = {}
    for name in names:
        if match := re.fullmatch(r"(study|v(\d{3,})/f(\d+))/head-(\d+)\.json", name):
            number = int(match[4])
            if match[1] == "study":
                own = max(own or 0, number)
            else:
                cell = int(match[2]), int(match[3])
                cells[cell] = max(cells.get(cell, 0), number)
    return own, cells


def _lock_of(folder: Path) -> filelock.BaseFileLock:
    """Of a cell's folder, beside it: the folder itself comes and goes."""
    return filelock.FileLock(folder.with_name(f".{folder.name}.lock"))


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    make(folder)
    try:
        with _lock_of(folder).acquire(timeout=LOCK_TIMEOUT_S):
            yield
    except filelock.Timeout:
        raise StoreError(
            f"{folder} is being trained by another process", remedy="wait for it or stop it"
        ) from None
