"""What a user sees of a study, while it runs and afterwards: drawn from its board."""

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cityseg.cell import Epoch
from study.parameters import in_short, short_names, varied_keys
from study.progress import Board, CellProgress, RowProgress
from study.space import Objective
from study.store import Study, variant_name

ALL_SHOWN: Final = 12
"""Rows up to which the table shows every one; of more it shows the next three numbers."""
RUNNING_SHOWN: Final = 5
BEST_SHOWN: Final = 3
ENDED_SHOWN: Final = 3
EPOCHS_CHARS: Final = 18
"""Width up to which a row's epochs are shown fold by fold."""
STATES: Final = ("running", "unfinished", "pending", "done", "pruned", "failed")


@dataclass(frozen=True)
class RowTotals:
    """Sums over the cells of a row."""

    score: float
    """Mean of the folds by the objective, 0-1; NaN unless the row is done."""
    std: float
    """Population std (ddof = 0) over the folds; NaN unless the row is done."""
    epochs: int
    """Finished, over all folds."""
    spent_s: float
    left: int
    """Epochs still to be run; 0 for a row that is pruned or failed."""


@dataclass(frozen=True)
class Line:
    """One row of a study as the table shows it."""

    row: RowProgress
    totals: RowTotals
    state: str


@dataclass(frozen=True)
class Overview:
    """A study of several rows at one moment."""

    lines: list[Line]
    """Of all rows, by their number."""
    ended: list[int]
    """Variants of the closed rows, the one that ended last at the end."""
    objective: Objective
    names: dict[str, str]
    """Short names of the varied keys."""
    planned: int
    """Rows in all, those not yet asked for included."""
    remaining_s: float | None
    """Seconds to the end of the study; None before the first epoch, and where nothing is left."""
    prune: bool
    slots: int

    @property
    def ranking(self) -> list[Line]:
        """The finished rows, the best first, the first of equals before the others."""
        done = [line for line in self.lines if not math.isnan(line.totals.score)]
        return sorted(done, key=lambda line: -line.totals.score)


class Watch:
    """The live view of a study that runs: a table on a terminal, else a plain line an epoch.

    Rich draws the table in a thread of its own while the driver changes the board: whatever is
    drawn is copied first.
    """

    def __init__(self, board: Board, console: Console, slots: int = 1):
        self.board = board
        self.console = console
        self.slots = slots
        """Cells that run at a time."""
        self.running: set[tuple[int, int]] = set()
        """(variant, fold) of the cells at work now."""
        self._totals: dict[int, tuple[RowProgress, RowTotals]] = {}
        self._ended = in_order_of_their_end(board)
        self._live = Live(
            get_renderable=self.table, console=console, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> None:
        if self.console.is_terminal:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def note(self, text: str) -> None:
        """Say something, above the live table if there is one."""
        self.console.print(text, markup=False)

    def epoch(self, variant: int, fold: int, epoch: int) -> None:
        """A cell has finished an epoch: a plain line, where no table shows it."""
        if not self.console.is_terminal:
            cell = self.board.rows[variant].cell(fold)
            self.note(epoch_line(variant, fold, cell.epochs[epoch - 1], cell.total))

    def ended(self, variant: int) -> None:
        """A row is done, pruned or failed: a plain line, in studies of one only if it failed."""
        self._ended.append(variant)
        if rows_planned(self.board) > 1 or self.board.rows[variant].status == "failed":
            self.note(self.row_line(variant))

    def row_line(self, variant: int) -> str:
        """How a row stands, as a plain line."""
        row = self.board.rows[variant]
        totals = self._totals_of(row)
        words = [variant_name(variant), f"{row.status:6}"]
        if not math.isnan(totals.score):
            score = f"{self.board.objective} {totals.score:.4f} +- {totals.std:.4f}"
            words.append(f"{score} (mean, population std of {len(row.cells)} folds)")
        words.append(" ".join(row.reason.split()))
        words.append(in_short(row.parameters, self._names([row])))
        return "  ".join(word for word in words if word)

    def table(self) -> Table:
        """The table as it stands: a line a fold, or a line a row where there are several."""
        record, running = self.board.record, frozenset(self.running)
        synthetic = ", synthetic data" if record.data.kind == "synthetic" else ""
        title = f"study {record.name}{synthetic}"
        if rows_planned(self.board) > 1:
            return rows_table(self.overview(), title)
        return folds_table(self.board.rows[0].cells, title, {fold for _, fold in running})

    def overview(self) -> Overview:
        """All rows as they stand."""
        running = {variant for variant, _ in frozenset(self.running)}
        rows = list(self.board.rows.values())
        totals = [self._totals_of(row) for row in rows]
        states = ["running" if row.variant in running else row.status for row in rows]
        return Overview(
            lines=[Line(*parts) for parts in zip(rows, totals, states, strict=True)],
            ended=list(self._ended),
            objective=self.board.objective,
            names=self._names(rows),
            planned=rows_planned(self.board),
            remaining_s=remaining_s(self.board, totals, self.slots),
            prune=self.board.record.search.prune,
            slots=self.slots,
        )

    def _names(self, rows: list[RowProgress]) -> dict[str, str]:
        varied = varied_keys(self.board.record.search, (row.parameters for row in rows))
        return short_names(varied)

    def _totals_of(self, row: RowProgress) -> RowTotals:
        """A row's sums, made anew only if it changed: thousands of rows are drawn every second."""
        known = self._totals.get(row.variant)
        if known is None or known[0] is not row:
            known = self._totals[row.variant] = (row, totals_of(row, self.board.objective))
        return known[1]


def totals_of(row: RowProgress, objective: Objective) -> RowTotals:
    """Add up a row's cells."""
    scores = [cell.score(objective) if row.status == "done" else math.nan for cell in row.cells]
    left = sum(cell.total - len(cell.epochs) for cell in row.cells)
    return RowTotals(
        score=float(np.mean(scores)),
        std=float(np.std(scores)),
        epochs=sum(len(cell.epochs) for cell in row.cells),
        spent_s=sum(cell.spent_s for cell in row.cells),
        left=left if row.is_open else 0,
    )


def rows_planned(board: Board) -> int:
    """Rows of a study in all, those not yet asked for included."""
    return max(len(board.rows), board.record.search.variants or 1)


def remaining_s(board: Board, totals: Sequence[RowTotals], slots: int) -> float | None:
    """Seconds to the end of the study, by the mean epoch so far; None before the first epoch."""
    epochs = sum(one.epochs for one in totals)
    to_ask = rows_planned(board) - len(totals)
    left = sum(one.left for one in totals)
    left += to_ask * len(board.folds) * board.record.config.train.epochs
    if not epochs or not left:
        return None
    return sum(one.spent_s for one in totals) / epochs * left / slots


def in_order_of_their_end(board: Board) -> list[int]:
    """The closed rows' variants, the one that ended last at the end: by the files that closed them.

    Rows that ended at the same second, such as in a copied study, stay in order of their number.
    """
    closed = [row.variant for row in board if not row.is_open]
    return sorted(closed, key=lambda variant: _ended_s(board.study, variant, board.folds))


def _ended_s(study: Study, variant: int, folds: range) -> int:
    cells = [study.cell(variant, fold) for fold in folds]
    files = [file for cell in cells for file in (cell.confusion, cell.failure)]
    files.append(study.pruned_file(variant))
    return max(map(_written_s, files))


def _written_s(file: Path) -> int:
    """0 for one that is not there: a failed cell that is tried again loses its reason."""
    try:
        return int(file.stat().st_mtime)
    except FileNotFoundError:
        return 0


def folds_table(cells: Sequence[CellProgress], title: str, running: Collection[int] = ()) -> Table:
    """A line a fold, those in `running` named so; 80 columns are enough."""
    table = _table(title)
    table.padding = (0, 0, 0, 1)  # a blank to the left alone: 80 columns hold hours of ETA
    table.add_column("fold", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("epoch", "loss", "val loss", "lr", "mIoU", "best", "ETA"):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        state = "running" if cell.fold in running else cell.status
        table.add_row(str(cell.fold), state, *_curves(cell))
    return table


def _curves(cell: CellProgress) -> list[str]:
    last = cell.last
    if last is None:
        return [f"0/{cell.total}", "", "", "", "", "", ""]
    eta = "" if cell.status in ("done", "failed") else duration(cell.remaining_s)
    return [
        f"{last.epoch}/{cell.total}",
        f"{last.train_loss:.4f}",
        f"{last.val_loss:.4f}",
        f"{last.lr:.1e}",
        f"{last.miou_low:.4f}",
        "" if cell.best_low is None else f"{cell.best_low:.4f}",
        eta,
    ]


def rows_table(overview: Overview, title: str) -> Table:
    """A line a row, and the study's state below; of many rows those at work, best and last ended.

    80 columns are enough: there the parameters are cut, and nothing else.
    """
    table = _table(title)
    table.caption, table.caption_justify = Text(overview_caption(overview)), "left"
    table.add_column("row", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("epochs", no_wrap=True)
    table.add_column("values")
    table.add_column(overview.objective, justify="right", no_wrap=True)
    best = next(iter(overview.ranking), None)
    for group in shown(overview):
        for line in group:
            table.add_row(*_line(line, overview.names, line is best))
        table.add_section()
    return table


def shown(overview: Overview) -> list[list[Line]]:
    """All rows if they are few; else groups: those running, the best, those that ended last."""
    lines = overview.lines
    if len(lines) <= ALL_SHOWN:
        return [lines]
    running = [line for line in lines if line.state == "running"][:RUNNING_SHOWN]
    best = [line for line in overview.ranking if line not in running][:BEST_SHOWN]
    by_variant = {line.row.variant: line for line in lines}
    ended = [by_variant[variant] for variant in dict.fromkeys(reversed(overview.ended))]
    last = [line for line in ended if not line.row.is_open and line not in best]
    return [running, best, last[:ENDED_SHOWN]]


def _line(line: Line, names: dict[str, str], best: bool) -> list[Text]:
    score = "" if math.isnan(line.totals.score) else f"{line.totals.score:.4f}"
    values = Text(in_short(line.row.parameters, names), no_wrap=True, overflow="ellipsis")
    cells = [
        Text(variant_name(line.row.variant)),
        Text(line.state),
        Text(epochs_in_short(line.row)),
        values,
        Text(f"{score}{' *' if best else '  '}" if score else ""),
    ]
    for cell in cells:
        cell.stylize("bold" if best else "")
    return cells


def epochs_in_short(row: RowProgress) -> str:
    """Epochs of every fold such as `6/6 2/6 0/6`; of many folds the finished cells and the share.

    The share is of all the row's epochs, rounded down: 100% means all.
    """
    epochs = " ".join(f"{len(cell.epochs)}/{cell.total}" for cell in row.cells)
    if len(epochs) <= EPOCHS_CHARS:
        return epochs
    finished = sum(len(cell.epochs) for cell in row.cells)
    percent = 100 * finished // sum(cell.total for cell in row.cells)
    done = sum(cell.status == "done" for cell in row.cells)
    return f"{done}/{len(row.cells)} cells {percent:2d}%"


def overview_caption(overview: Overview) -> str:
    """How many rows are in which state, what the mark means, and when it will all be over."""
    counts = Counter(line.state for line in overview.lines)
    to_ask = overview.planned - len(overview.lines)
    states = [f"{counts[state]} {state}" for state in STATES if counts[state]]
    states += [f"{to_ask} to come"] if to_ask else []
    words = [f"{overview.planned} rows: {', '.join(states)}."]
    if len(overview.lines) > ALL_SHOWN:
        words.append("Shown: at work, the best, the last that ended.")
    if overview.ranking:
        words.append("* best mean so far.")
    return " ".join([*words, remaining_text(overview)]).strip()


def remaining_text(overview: Overview) -> str:
    """When it will all be over; empty where nothing is left, or nothing is known yet."""
    if overview.remaining_s is None:
        return ""
    at_most = "at most " if overview.prune else ""
    cells = "1 cell" if overview.slots == 1 else f"{overview.slots} cells"
    return f"ETA {at_most}{duration(overview.remaining_s)}, {cells} at a time."


def _table(title: str) -> Table:
    return Table(title=Text(title))  # not a string, in which rich would look for markup


def epoch_line(variant: int, fold: int, epoch: Epoch, total: int) -> str:
    """One finished epoch as a plain line."""
    full = "" if math.isnan(epoch.miou_full) else f" {epoch.miou_full:.4f} full"
    return (
        f"{variant_name(variant)}  fold {fold}  epoch {epoch.epoch}/{total}  "
        f"loss {epoch.train_loss:.4f} train {epoch.val_loss:.4f} val  lr {epoch.lr:.1e}  "
        f"mIoU {epoch.miou_low:.4f} low{full}  "
        f"{epoch.images_per_s:.1f} images/s"
    )


def duration(seconds: float | None) -> str:
    """Such as 1:05:09, or 5:09 under an hour."""
    if seconds is None:
        return ""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"
