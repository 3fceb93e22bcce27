"""What a user sees of a study while it runs: read from the table on disk, like everything."""

from collections.abc import Collection
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cityseg.cell import Cell, Epoch, Status, read_epochs
from study.store import Study


@dataclass(frozen=True)
class FoldProgress:
    """How far a fold is."""

    fold: int
    status: Status
    total: int
    """Epochs in all."""
    epochs: list[Epoch]
    reason: str = ""
    """Why it failed."""

    @property
    def last(self) -> Epoch | None:
        """The last finished epoch."""
        return self.epochs[-1] if self.epochs else None

    @property
    def best_low(self) -> float | None:
        """Best low-resolution mIoU so far."""
        return max((epoch.miou_low for epoch in self.epochs), default=None)

    @property
    def remaining_s(self) -> float | None:
        """Seconds of training left by the mean of the epochs so far; None before the first."""
        if not self.epochs:
            return None
        spent = sum(epoch.train_s + epoch.val_s for epoch in self.epochs)
        return spent / len(self.epochs) * (self.total - len(self.epochs))


def progress(study: Study, folds: int, total: int, variant: int = 0) -> list[FoldProgress]:
    """Progress of every fold of a variant."""
    return [_progress(study.cell(variant, fold), fold, total) for fold in range(1, folds + 1)]


def _progress(cell: Cell, fold: int, total: int) -> FoldProgress:
    status = cell.status()
    reason = cell.failure.read_text(encoding="utf-8").strip() if status == "failed" else ""
    return FoldProgress(fold, status, total, read_epochs(cell.epochs), reason)


def progress_table(folds: list[FoldProgress], title: str, running: Collection[int] = ()) -> Table:
    """The live table: a row a fold, those in `running` named so; 80 columns are enough."""
    table = Table(title=title)
    table.add_column("fold", justify="right")
    table.add_column("state", no_wrap=True)
    for name in ("epoch", "loss", "val loss", "lr", "mIoU", "best", "ETA"):
        table.add_column(name, justify="right", no_wrap=True)
    for fold in folds:
        state = "running" if fold.fold in running else fold.status
        table.add_row(str(fold.fold), state, *_cells(fold))
    return table


def _cells(fold: FoldProgress) -> list[str]:
    last = fold.last
    if last is None:
        return [f"0/{fold.total}", "", "", "", "", "", ""]
    eta = "" if fold.status in ("done", "failed") else duration(fold.remaining_s)
    return [
        f"{last.epoch}/{fold.total}",
        f"{last.train_loss:.4f}",
        f"{last.val_loss:.4f}",
        f"{last.lr:.1e}",
        f"{last.miou_low:.4f}",
        "" if fold.best_low is None else f"{fold.best_low:.4f}",
        eta,
    ]


def epoch_line(fold: int, epoch: Epoch, total: int) -> str:
    """One finished epoch as a plain line."""
    return (
        f"fold {fold}  epoch {epoch.epoch}/{total}  loss {epoch.train_loss:.4f} train "
        f"{epoch.val_loss:.4f} val  lr {epoch.lr:.1e}  mIoU {epoch.miou_low:.4f} low "
        f"{epoch.miou_full:.4f} full  {epoch.images_per_s:.1f} images/s"
    )


def duration(seconds: float | None) -> str:
    """Such as 1:05:09, or 5:09 under an hour."""
    if seconds is None:
        return ""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


class Watch:
    """The live view of a study that runs: a table on a terminal, else a plain line an epoch."""

    def __init__(self, study: Study, console: Console):
        record = study.read()
        self.study = study
        self.console = console
        self.name = record.name
        self.kind = record.data.kind
        self.count = record.config.folds.count
        self.total = record.config.train.epochs
        self.running: set[int] = set()
        """Folds at work now."""
        self._live = Live(
            get_renderable=self.table, console=console, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> None:
        if self.console.is_terminal:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def folds(self) -> list[FoldProgress]:
        """All folds as they stand on disk."""
        return progress(self.study, self.count, self.total)

    def note(self, text: str) -> None:
        """Say something, above the live table if there is one."""
        self.console.print(text, markup=False)

    def epoch(self, fold: int, epoch: int) -> None:
        """A fold has finished an epoch: a plain line, where no table shows it."""
        if not self.console.is_terminal:
            rows = read_epochs(self.study.cell(0, fold).epochs)
            self.note(epoch_line(fold, rows[epoch - 1], self.total))

    def table(self) -> Table:
        """The live table as it stands."""
        synthetic = ", synthetic data" if self.kind == "synthetic" else ""
        return progress_table(self.folds(), f"study {self.name}{synthetic}", self.running)
